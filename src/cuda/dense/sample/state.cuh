// What the blocks of a row share: the workspace, and how they wait for each other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/dense/sample/entry.h"

namespace kv8::sample {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBucketBits = 8;
constexpr int kBuckets = 1 << kBucketBits;
static_assert(kBuckets == kThreads, "a thread looks after one bucket");
constexpr int kItems = kSlice / kThreads;
constexpr int kHistograms = 3;  ///< one that is filled, one that is read, one that is cleared

constexpr int kFine = 1280;  ///< buckets of the histogram of weights

using Word = unsigned long long;

/// A key and an id in one word that is larger for the better token: larger logit, then lower id.
__device__ __forceinline__ Word candidate(uint32_t key, int id) {
  return Word{key} << 32 | static_cast<uint32_t>(~id);
}
__device__ __forceinline__ int candidate_id(Word word) { return ~static_cast<int>(word); }

/// Order of floats as order of unsigned integers; both zeros are one key, no number has key 0.
__device__ __forceinline__ uint32_t order_key(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float key_value(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/// Weights are sums of integers in units of 2^-56, so that no order of addition matters:
/// high * 2^38 + low.
struct Mass {
  Word high, low;
  __device__ Mass operator+(const Mass& b) const { return {high + b.high, low + b.low}; }
  __device__ Mass times(Word n) const { return {high * n, low * n}; }
  /// In units of 2^-56, rounded once.
  __device__ double value() const {
    const Word carry = low >> 38;
    return fma(__ull2double_rn(high + carry), 0x1p38, __ull2double_rn(low & ((Word{1} << 38) - 1)));
  }
};

/// How logits become weights: exp((logit - largest) / temperature).
struct Weighing {
  double largest, rate;  ///< rate: 1 / temperature

  __device__ Word units(float logit) const {
    return __double2ull_rn(exp((logit - largest) * rate) * 0x1p56);
  }
  __device__ Mass mass(float logit) const {
    const Word w = units(logit);
    return {w >> 38, w & ((Word{1} << 38) - 1)};
  }
};

struct Bucket {
  Mass mass;
  uint32_t count, max_key, max_inverse, unused;  ///< max_inverse: largest ~key
};

/// One block's contribution to its row, and the whole row's.
struct Part {
  Word best;         ///< candidate of the largest biased logit
  double sum;        ///< of exp(logit - largest), where log-probabilities are asked for
  float largest;     ///< without bias
  uint32_t fault;    ///< first NaN or +infinity, or ~0
  uint32_t finite;   ///< whether there is a finite logit
  uint32_t matches;  ///< logits that equal the selected one
};

constexpr int kNowhere = -2;  ///< apart from every bucket

/// Where in a row the nucleus's edge and the token lie, by a histogram of weights: in the buckets
/// `first` to `last` and in `edge`. Weights in units of 2^-56.
struct Near {
  uint32_t alone;         ///< whether one block has room for all logits of these buckets
  int first, last, edge;  ///< edge: kNowhere without top_p
  double total;
  double before_edge;   ///< weight that the list lacks before the nucleus's edge
  double before_token;  ///< likewise before the token
};

/// What the kernels behind sample_few need of a row.
struct TeamState {
  Word list[kSlice];  ///< candidates for one block
  Word fine[kFine];   ///< weights, see FineHistogram
  Bucket buckets[kHistograms][kBuckets];
};

constexpr int kListed = sizeof(TeamState) / sizeof(Word);  ///< candidates that a row has room for
constexpr int kTopListed = kSlice;  ///< of them for the likeliest tokens, where TeamState::list is
static_assert(kTopListed >= kSampleFewTopK * kMaxParts &&
              kListed - kTopListed >= kSampleFewTopK * kMaxParts);

struct RowState {
  // Zero between launches.
  uint32_t arrived, left, listed, top_listed;
  uint32_t gathered;  ///< sample_few clears it
  uint32_t team_row;  ///< not of this row: an entry of the list of rows that have teams
  uint32_t unused[2];
  Part parts[kMaxParts], row;
  double logprob_base;  ///< log of the row's sum of exponentials
  Near near;
  union {
    Word candidates[kListed];  ///< sample_few's
    TeamState team;
  };
};

struct Workspace {
  uint32_t ticket, finished, num_teams, unused;  // zero between launches
  RowState rows[1];

  /// Leaves a row to sample_team.
  __device__ __forceinline__ void add_team(int row) {
    rows[atomicAdd(&num_teams, 1u)].team_row = static_cast<uint32_t>(row);
  }
};
static_assert(sizeof(Bucket) == 32 && offsetof(TeamState, buckets) % 16 == 0 &&
                  offsetof(RowState, team) % 16 == 0 && sizeof(RowState) % 16 == 0 &&
                  offsetof(Workspace, rows) % 16 == 0,
              "buckets are read 16 bytes at a time");

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

__device__ __forceinline__ void add_release(uint32_t* address) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(address) : "memory");
}

__device__ __forceinline__ uint32_t add_acquire_release(uint32_t* address) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(address)
               : "memory");
  return before;
}

/// The blocks of one row. All of them take the same decisions from the same values, so all of them
/// come to every barrier.
class Team {
 public:
  __device__ __forceinline__ Team(RowState& state, int parts) : state_(state), parts_(parts) {}

  /// Everybody's writes are visible to everybody behind it.
  __device__ __forceinline__ void barrier() {
    expected_ += static_cast<uint32_t>(parts_);
    __syncthreads();
    if (threadIdx.x == 0) {
      add_release(&state_.arrived);
      while (load_acquire(&state_.arrived) < expected_) {
      }
    }
    __syncthreads();
  }

  /// Arrives without waiting; true in the block that comes last. Nobody waits then.
  __device__ __forceinline__ bool arrive_last() {
    __shared__ bool last;
    expected_ += static_cast<uint32_t>(parts_);
    __syncthreads();
    if (threadIdx.x == 0) {
      last = add_acquire_release(&state_.arrived) + 1 == expected_;
      if (last) state_.arrived = 0;
    }
    over_ = true;
    __syncthreads();
    return last;
  }

  /// Behind the last barrier: whoever leaves last makes the counters ready for the next launch.
  /// arrive_last has done so already.
  __device__ __forceinline__ void leave() {
    if (over_ || threadIdx.x != 0) return;
    if (add_acquire_release(&state_.left) + 1 == static_cast<uint32_t>(parts_)) {
      state_.arrived = state_.left = 0;
    }
  }

 private:
  RowState& state_;
  int parts_;
  uint32_t expected_ = 0;
  bool over_ = false;
};

}  // namespace kv8::sample
