// Finds a token of a row by its rank or by the weight of the better ones, without sorting: the
// blocks of a row count their logits into buckets in the order of the logits, and look again into
// the bucket where the goal lies until it holds a single value. Where few logits are left to look
// at, one block does the rest alone.
#pragma once

#include "cuda/dense/sample/state.cuh"

namespace kv8::sample {

/// Histogram of one block; the mass in three limbs of 18, 19 and 19 bits, of which 4096 fit into 32
/// bits each.
struct LocalHistogram {
  uint32_t count[kBuckets], limbs[3][kBuckets], max_key[kBuckets], max_inverse[kBuckets];
};

/// Histogram of a row, counts and masses summed up to each bucket.
struct Summed {
  uint32_t count[kBuckets], max_key[kBuckets], min_key[kBuckets];
  Mass mass[kBuckets];
};

/// What lies before a place in the order.
struct Prefix {
  uint32_t count;
  Mass mass;
};

/// The first place whose prefix, itself included, has `count` tokens, or whose mass reaches or
/// exceeds `mass`.
struct Goal {
  enum Kind { kCount, kReach, kExceed } kind;
  uint32_t count;
  double mass;

  __device__ __forceinline__ bool reached(const Prefix& p) const {
    if (kind == kCount) return p.count >= count;
    return kind == kReach ? p.mass.value() >= mass : p.mass.value() > mass;
  }
};

/// Equal logits among which the goal lies: at the one with index `rank` in the order of ids.
struct Place {
  uint32_t key, matches, rank;
  Prefix prefix;  ///< up to the goal, itself included
};

struct SelectMemory {
  LocalHistogram local;
  Summed first, current;
  Weighing weighing;
  Mass warp_mass[kWarps];
  uint32_t warp_count[kWarps];
  int found, last;
  // One search, the same for all threads: not in registers, which are scarce.
  Goal goal;
  Prefix before;
  Place place;
};

class Selector {
 public:
  /// `keys`: kSlice of them, 0 where there is no logit.
  __device__ __forceinline__ Selector(SelectMemory& memory, const uint32_t* keys, RowState& state,
                                      int part, int parts)
      : m_(memory), keys_(keys), state_(state), part_(part), parts_(parts), team_(state, parts) {}

  __device__ __forceinline__ Team& team() { return team_; }

  __device__ __forceinline__ bool alone() const { return alone_; }

  /// The first histogram where the block's keys, from `low` to `high`, are all that count; no other
  /// block takes part from here on.
  __device__ __forceinline__ void begin_alone(const Weighing& weighing, uint32_t low,
                                              uint32_t high) {
    alone_ = true;
    if (threadIdx.x == 0) m_.weighing = weighing;  // count synchronises before it reads
    count_range(low, high, m_.first);
  }

  /// The first histogram over the whole row: linear in the logit, 16 buckets for a factor e in
  /// weight; the last one takes the rest.
  __device__ __forceinline__ void begin(const Weighing& weighing) {
    if (threadIdx.x == 0) m_.weighing = weighing;
    const auto largest = static_cast<float>(weighing.largest);
    const auto scale = static_cast<float>(16.0 * weighing.rate);
    count([&](uint32_t) { return true; },
          [&](uint32_t, float logit) {
            return min(kBuckets - 1, __float2int_rz((largest - logit) * scale));
          },
          m_.first);
  }

  __device__ __forceinline__ double total() const { return m_.first.mass[kBuckets - 1].value(); }

  /// What the last search found.
  __device__ __forceinline__ const Place& found() const { return m_.place; }

  /// The result stays valid until the next search.
  __device__ __forceinline__ const Place& find(const Goal& goal) {
    if (threadIdx.x == 0) m_.goal = goal, m_.before = Prefix{};
    const Summed* summed = &m_.first;
#pragma unroll 1
    for (;;) {
      const int bucket = bucket_of(*summed);
      const uint32_t low = summed->min_key[bucket], high = summed->max_key[bucket];
      if (threadIdx.x == 0) {
        if (bucket > 0) {
          m_.before.count += summed->count[bucket - 1];
          m_.before.mass = m_.before.mass + summed->mass[bucket - 1];
        }
        if (low == high) {
          const uint32_t until = bucket > 0 ? summed->count[bucket - 1] : 0;
          m_.place = place_in(low, summed->count[bucket] - until);
        }
      }
      if (low == high) {
        __syncthreads();
        return m_.place;
      }
      count_range(low, high, m_.current);
      summed = &m_.current;
    }
  }

 private:
  /// Counts the keys from `low` to `high` into as many buckets as there are.
  __device__ __forceinline__ void count_range(uint32_t low, uint32_t high, Summed& result) {
    const int shift = max(0, 32 - kBucketBits - __clz(static_cast<int>(high - low)));
    count([&](uint32_t key) { return key >= low && key <= high; },
          [&](uint32_t key, float) { return static_cast<int>((high - key) >> shift); }, result);
  }

  /// Sums the row's counts of the keys that `takes` says into buckets of rising index and falling
  /// logit.
  template <class Takes, class BucketOf>
  __device__ __forceinline__ void count(Takes takes, BucketOf bucket_of_key, Summed& result) {
    const int thread = threadIdx.x;
    m_.local.count[thread] = m_.local.max_key[thread] = m_.local.max_inverse[thread] = 0;
    for (int i = 0; i < 3; ++i) m_.local.limbs[i][thread] = 0;
    __syncthreads();
    uint32_t rest = 0, rest_max = 0, rest_inverse = 0;  // most logits are in the last bucket
    Word rest_units = 0;
#pragma unroll 1
    for (int i = 0; i < kItems; ++i) {
      const uint32_t key = keys_[i * kThreads + thread];
      if (key == 0 || !takes(key)) continue;
      const Word units = m_.weighing.units(key_value(key));
      const int bucket = bucket_of_key(key, key_value(key));
      if (bucket < kBuckets - 1) {
        add(bucket, 1, units, key, ~key);
      } else {
        ++rest;
        rest_units += units;
        rest_max = max(rest_max, key);
        rest_inverse = max(rest_inverse, ~key);
      }
    }
    rest = __reduce_add_sync(~0u, rest);
    if (rest != 0) {
      rest_max = __reduce_max_sync(~0u, rest_max);
      rest_inverse = __reduce_max_sync(~0u, rest_inverse);
      for (int offset = 16; offset > 0; offset /= 2) {
        rest_units += __shfl_xor_sync(~0u, rest_units, offset);
      }
      if (thread % 32 == 0) add(kBuckets - 1, rest, rest_units, rest_max, rest_inverse);
    }
    __syncthreads();
    if (alone_) {
      sum_up(Mass{Word{m_.local.limbs[0][thread]},
                  (Word{m_.local.limbs[1][thread]} << 19) + m_.local.limbs[2][thread]},
             m_.local.count[thread], m_.local.max_key[thread], m_.local.max_inverse[thread],
             result);
      return;
    }
    publish();
    team_.barrier();
    read_row(result);
    ++round_;
  }

  __device__ __forceinline__ void add(int bucket, uint32_t n, Word units, uint32_t key,
                                      uint32_t inverse) {
    constexpr Word kLimb = (1u << 19) - 1;
    atomicAdd(&m_.local.count[bucket], n);
    atomicAdd(&m_.local.limbs[0][bucket], static_cast<uint32_t>(units >> 38));
    atomicAdd(&m_.local.limbs[1][bucket], static_cast<uint32_t>(units >> 19 & kLimb));
    atomicAdd(&m_.local.limbs[2][bucket], static_cast<uint32_t>(units & kLimb));
    atomicMax(&m_.local.max_key[bucket], key);
    atomicMax(&m_.local.max_inverse[bucket], inverse);
  }

  __device__ __forceinline__ void publish() {
    const int b = threadIdx.x;
    if (m_.local.count[b] == 0) return;
    Bucket& bucket = state_.team.buckets[round_ % kHistograms][b];
    atomicAdd(&bucket.mass.high, Word{m_.local.limbs[0][b]});
    atomicAdd(&bucket.mass.low, (Word{m_.local.limbs[1][b]} << 19) + m_.local.limbs[2][b]);
    atomicAdd(&bucket.count, m_.local.count[b]);
    atomicMax(&bucket.max_key, m_.local.max_key[b]);
    atomicMax(&bucket.max_inverse, m_.local.max_inverse[b]);
  }

  /// Reads the row's histogram and sums it up; clears the one of the round before, which nobody
  /// reads any more and the round after the next one fills.
  __device__ __forceinline__ void read_row(Summed& result) {
    const int b = threadIdx.x;
    const auto* words =
        reinterpret_cast<const uint4*>(&state_.team.buckets[round_ % kHistograms][b]);
    const uint4 low = __ldcg(words), high = __ldcg(words + 1);
    if (round_ > 0 && b % parts_ == part_) {
      state_.team.buckets[(round_ - 1) % kHistograms][b] = Bucket{};
    }
    sum_up({Word{low.y} << 32 | low.x, Word{low.w} << 32 | low.z}, high.x, high.y, high.z, result);
  }

  /// Prefix sums of a thread's bucket each.
  __device__ __forceinline__ void sum_up(Mass mass, uint32_t n, uint32_t max_key,
                                         uint32_t max_inverse, Summed& result) {
    const int b = threadIdx.x, lane = b % 32, warp = b / 32;
    result.max_key[b] = max_key;
    result.min_key[b] = ~max_inverse;
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, n, offset);
      const Mass more{__shfl_up_sync(~0u, mass.high, offset),
                      __shfl_up_sync(~0u, mass.low, offset)};
      if (lane >= offset) n += other, mass = mass + more;
    }
    if (lane == 31) m_.warp_count[warp] = n, m_.warp_mass[warp] = mass;
    __syncthreads();
    for (int i = 0; i < warp; ++i) n += m_.warp_count[i], mass = mass + m_.warp_mass[i];
    result.count[b] = n;
    result.mass[b] = mass;
    __syncthreads();
  }

  /// The first bucket that is not empty and reaches the goal; the last one if rounding lets none.
  __device__ __forceinline__ int bucket_of(const Summed& summed) {
    const int b = threadIdx.x;
    if (b == 0) m_.found = kBuckets, m_.last = 0;
    __syncthreads();
    const bool empty = summed.count[b] == (b == 0 ? 0 : summed.count[b - 1]);
    if (!empty) {
      atomicMax(&m_.last, b);
      if (m_.goal.reached({m_.before.count + summed.count[b], m_.before.mass + summed.mass[b]})) {
        atomicMin(&m_.found, b);
      }
    }
    __syncthreads();
    const int bucket = m_.found < kBuckets ? m_.found : m_.last;
    __syncthreads();
    return bucket;
  }

  /// How far the goal lies among `matches` equal logits.
  __device__ __forceinline__ Place place_in(uint32_t key, uint32_t matches) const {
    const Goal& goal = m_.goal;
    const Mass each = m_.weighing.mass(key_value(key));
    const auto after = [&](uint32_t n) {
      return Prefix{m_.before.count + n, m_.before.mass + each.times(n)};
    };
    const double wanted =
        goal.kind == Goal::kCount
            ? static_cast<double>(goal.count) - m_.before.count
            : ceil((goal.mass - m_.before.mass.value()) / fmax(each.value(), 1.0));
    uint32_t n = static_cast<uint32_t>(fmin(fmax(wanted, 1.0), static_cast<double>(matches)));
    if (n > 1 && goal.reached(after(n - 1))) --n;
    if (n < matches && !goal.reached(after(n))) ++n;
    return {key, matches, n - 1, after(n)};
  }

  SelectMemory& m_;
  const uint32_t* keys_;
  RowState& state_;
  int part_, parts_, round_ = 0;
  bool alone_ = false;
  Team team_;
};

}  // namespace kv8::sample
