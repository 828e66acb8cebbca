#include "exec/slots.h"

#include <map>

namespace kv8::exec {
namespace {

struct SlotRefs {
  Slot *in, *residual, *out;
};

struct StepVisitor {
  SlotRefs operator()(RmsNormStep& step) const { return {&step.in, nullptr, &step.out}; }
  SlotRefs operator()(LinearStep& step) const { return {&step.in, &step.residual, &step.out}; }
  SlotRefs operator()(RopeKvWriteStep& step) const { return {&step.qkv, nullptr, &step.q_out}; }
  SlotRefs operator()(AttentionStep& step) const { return {&step.q, nullptr, &step.out}; }
  SlotRefs operator()(SwiGluStep& step) const { return {&step.gate_up, nullptr, &step.out}; }
  SlotRefs operator()(SelectRowsStep& step) const { return {&step.in, nullptr, &step.out}; }
};

/// Hands out numbers of slots by width, freed ones first.
class SlotAllocator {
 public:
  Slot take(std::int32_t cols) {
    std::vector<Slot>& free = free_[cols];
    if (free.empty()) return add(cols);
    const Slot slot = free.back();
    free.pop_back();
    return slot;
  }
  Slot add(std::int32_t cols) {
    cols_.push_back(cols);
    return static_cast<Slot>(cols_.size() - 1);
  }
  void give_back(Slot slot) { free_[cols_[static_cast<std::size_t>(slot)]].push_back(slot); }
  std::vector<std::int32_t> cols() && { return std::move(cols_); }

 private:
  std::vector<std::int32_t> cols_;
  std::map<std::int32_t, std::vector<Slot>> free_;
};

}  // namespace

StepSlots slots_of(const Step& step) {
  Step copy = step;
  const SlotRefs refs = std::visit(StepVisitor{}, copy);
  return {*refs.in, refs.residual == nullptr ? kNone : *refs.residual, *refs.out};
}

void assign_slots(Plan& plan) {
  std::vector<std::size_t> last_read(plan.slot_cols.size(), 0);
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const StepSlots slots = slots_of(plan.steps[i]);
    for (const Slot slot : {slots.in, slots.residual}) {
      if (slot != kNone) last_read[static_cast<std::size_t>(slot)] = i;
    }
  }
  last_read[static_cast<std::size_t>(plan.logits_slot)] = plan.steps.size();

  SlotAllocator allocator;
  std::vector<Slot> place(plan.slot_cols.size(), kNone);
  const auto cols_of = [&](Slot slot) { return plan.slot_cols[static_cast<std::size_t>(slot)]; };
  const auto place_of = [&](Slot slot) -> Slot& { return place[static_cast<std::size_t>(slot)]; };
  place_of(plan.input_slot) = allocator.take(cols_of(plan.input_slot));
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const SlotRefs refs = std::visit(StepVisitor{}, plan.steps[i]);
    const StepSlots before = slots_of(plan.steps[i]);
    const auto ends = [&](Slot slot) {
      return slot != kNone && last_read[static_cast<std::size_t>(slot)] == i;
    };
    const bool in_place = ends(before.residual) && before.residual != before.in;
    if (before.out == plan.logits_slot) {
      place_of(before.out) = allocator.add(cols_of(before.out));
    } else {
      place_of(before.out) =
          in_place ? place_of(before.residual) : allocator.take(cols_of(before.out));
    }
    if (ends(before.in)) allocator.give_back(place_of(before.in));
    *refs.in = place_of(before.in);
    *refs.out = place_of(before.out);
    if (before.residual != kNone) *refs.residual = place_of(before.residual);
  }
  plan.input_slot = place_of(plan.input_slot);
  plan.logits_slot = place_of(plan.logits_slot);
  plan.slot_cols = std::move(allocator).cols();
}

}  // namespace kv8::exec
