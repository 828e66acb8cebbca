// The batches that a model benchmark runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/backend.h"

namespace kv8::bench {

enum class Phase { kPrefill, kDecode, kMixed };
/// "prefill", "decode", "mixed"
std::string phase_name(Phase phase);

/// One row of a benchmark.
struct ModelPoint {
  Phase phase = Phase::kDecode;
  std::int64_t batch = 1;         ///< sequences that decode; prefill: prompts, one after the other
  std::int64_t context = 0;       ///< tokens of each sequence at the end
  std::int64_t chunk_tokens = 0;  ///< prefill: tokens of a call; mixed: of a prompt beside the
                                  ///< decode steps
};

/// A call of Backend::run; its sequences point at the page tables of the workload that it is of.
struct Call {
  std::vector<std::int32_t> tokens, logits_rows;
  std::vector<SequenceSlice> sequences;
  Batch batch() const { return {tokens, sequences, logits_rows}; }
};

/// Calls that are timed together; the last one's logits are sampled.
using TimedCalls = std::vector<Call>;

/// What a point runs: a prompt in chunks (one timed piece), or steps whose sequences grow to the
/// point's context (a timed piece each).
struct Workload {
  Workload() = default;
  Workload(Workload&&) = default;
  Workload& operator=(Workload&&) = default;
  std::vector<std::vector<std::int32_t>> page_tables;
  std::vector<TimedCalls> pieces;
};

/// Pages that a point's sequences take.
std::int64_t pages_of(const ModelPoint& point);
/// Rows of its largest call.
std::int64_t rows_of(const ModelPoint& point);
/// Sequences of a call.
std::int64_t sequences_of(const ModelPoint& point);

/// `steps` timed pieces of a decode or mixed point, fewer where the context is shorter. Pages are
/// taken from a fixed shuffle of the pool, as a pool that has served for a while hands them out.
Workload make_workload(const ModelPoint& point, std::int64_t steps, std::int32_t num_pages,
                       std::int32_t vocab_size);

}  // namespace kv8::bench
