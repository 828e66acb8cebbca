// A model with one kind of KV cache, ready to be timed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/workload.h"
#include "exec/engine.h"
#include "io/checkpoint.h"

namespace kv8::bench {

/// What a candidate must have room for.
struct CandidateRoom {
  std::string backend = "cpu";
  int num_threads = 0;
  std::int64_t pages = 0, rows = 0, sequences = 0, context = 0;
};

class Candidate {
 public:
  /// Loads the weights and opens the backend, with the kernels that `tuned` has chosen. kCapacity
  /// when it does not fit.
  static Result<Candidate> open(const io::Checkpoint& checkpoint, bool kv_fp8,
                                const exec::Engine& tuned, const CandidateRoom& room);
  /// Opens with as many pages as the backend's memory, or `memory` bytes if that is not 0, holds,
  /// and room for as many sequences of `shortest_context` tokens; room.context is the longest.
  static Result<Candidate> open_full(const io::Checkpoint& checkpoint, bool kv_fp8,
                                     const exec::Engine& tuned, CandidateRoom room,
                                     std::int64_t memory, std::int64_t shortest_context);

  /// Gives every page keys and values that the model computes: those of a prompt on the first
  /// pages, copied to all others. Timings of attention do not depend on which tokens they are of.
  Status fill_cache();
  /// Milliseconds from the first call to the sampled tokens of the last on the host.
  Result<double> time(const TimedCalls& calls);
  /// Runs the calls and samples, with taps.
  Status run(const TimedCalls& calls, TapSink* taps);

  const Plan& plan() const { return engine_->plan(); }
  Backend& backend() { return *backend_; }
  std::string kv_dtype() const { return engine_->config().kv_cache_dtype; }
  bool on_cpu() const { return backend_->name() == "cpu"; }
  /// Peak rate of attention's products over that of FP16 ones: 2 where they take FP8 operands.
  double attention_speed() const;

 private:
  std::unique_ptr<exec::Engine> engine_;
  std::unique_ptr<Backend> backend_;
  std::int64_t fill_tokens_ = 0;
};

}  // namespace kv8::bench
