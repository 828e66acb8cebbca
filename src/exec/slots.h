// Which activations may share memory.
#pragma once

#include "graph/plan.h"

namespace kv8::exec {

/// Renumbers the slots of a plan whose steps each write a slot of their own: slots of the same
/// width whose values are not needed at the same time become one. A product's output takes the
/// place of its residual where that is not read again; otherwise no step reads and writes a slot.
/// The logits keep a slot of their own, which a backend may put into its caller's memory.
void assign_slots(Plan& plan);

/// The slots that a step reads, kNone where it has none, and the one that it writes.
struct StepSlots {
  Slot in = kNone, residual = kNone, out = kNone;
};
StepSlots slots_of(const Step& step);

}  // namespace kv8::exec
