#include "cuda/testing/prefill_problem.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "ops/kv_layout.h"

namespace kv8::cuda_testing {
namespace {

Status cuda_ok(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return unsupported("prefill problem, {}: {}", what, cudaGetErrorString(code));
}

/// Device memory that frees itself.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceBuffer() { cudaFree(data_); }
  static Result<DeviceBuffer> allocate(std::size_t bytes) {
    DeviceBuffer buffer;
    KV8_TRY(cuda_ok(cudaMalloc(&buffer.data_, std::max<std::size_t>(bytes, 256)), "allocation"));
    return buffer;
  }
  template <class T>
  static Result<DeviceBuffer> upload(const std::vector<T>& values) {
    DeviceBuffer buffer = KV8_TRY(allocate(values.size() * sizeof(T)));
    KV8_TRY(cuda_ok(
        cudaMemcpy(buffer.data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
        "upload"));
    return buffer;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

/// Largest |x| that a pattern gives Q, K and V; larger ones saturate, as in a calibrated cache.
struct Ranges {
  float q, k, v;
};
Ranges ranges_of(Pattern pattern) {
  switch (pattern) {
    case Pattern::kFlat:
      return {1.4f, 5.6f, 5.6f};
    case Pattern::kSink:
      return {3.5f, 5.6f, 5.6f};
    case Pattern::kOneHot:
      return {17.0f, 17.0f, 5.6f};
    case Pattern::kOffsetKeys:
      return {5.6f, 9.6f, 5.6f};
    case Pattern::kFarBelow:
      return {5.6f, 5.6f, 5.6f};
    default:
      return {5.6f, 5.6f, 5.6f};
  }
}

}  // namespace

std::string to_string(Pattern pattern) {
  const char* names[kNumPatterns] = {"normal",      "flat",  "sink",      "one-hot",  "equal-keys",
                                     "offset-keys", "zeros", "saturated", "far-below"};
  return names[static_cast<int>(pattern)];
}

struct PrefillProblem::Impl {
  PrefillProblemSpec spec;
  int total_q = 0, num_pages = 0, max_pages = 0;
  std::int64_t out_elements = 0;
  std::vector<int> cu_q;
  DeviceBuffer q, k, v, out, page_table, cu_q_device, kv_lens, scales, offsets, scheduler,
      tree_mask;

  KvType q_type() const { return spec.f16_queries ? KvType::kF16 : spec.kv_type; }
  const float* scale(int which) const {
    return scales.as<float>() + which * (spec.scale_per_head ? spec.num_kv_heads : 1);
  }
  View view() const {
    View w{};
    w.pattern = spec.pattern;
    w.kv_type = spec.kv_type == KvType::kE4m3 ? 0 : 1;
    w.q_type = q_type() == KvType::kE4m3 ? 0 : 1;
    w.batch = static_cast<int>(spec.q_lens.size());
    w.num_heads = spec.num_heads;
    w.num_kv_heads = spec.num_kv_heads;
    w.head_dim = spec.head_dim;
    w.max_pages = max_pages;
    w.cu_q = cu_q_device.as<int>();
    w.kv_lens = kv_lens.as<int>();
    w.page_table = page_table.as<int>();
    w.q = q.as<void>();
    w.k = k.as<void>();
    w.v = v.as<void>();
    w.q_scale = scale(0);
    w.k_scale = scale(1);
    w.v_scale = scale(2);
    w.scale_stride = spec.scale_per_head ? 1 : 0;
    w.v_offset = spec.v_offset ? offsets.as<float>() : nullptr;
    w.softmax_scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
    w.seed = spec.seed;
    w.tree_mask = spec.tree_mask.empty() ? nullptr : tree_mask.as<std::uint32_t>();
    return w;
  }
};

PrefillProblem::PrefillProblem() : impl_(std::make_unique<Impl>()) {}
PrefillProblem::PrefillProblem(PrefillProblem&&) noexcept = default;
PrefillProblem& PrefillProblem::operator=(PrefillProblem&&) noexcept = default;
PrefillProblem::~PrefillProblem() = default;

Result<PrefillProblem> PrefillProblem::create(const PrefillProblemSpec& spec) {
  PrefillProblem problem;
  Impl& p = *problem.impl_;
  p.spec = spec;
  const int batch = static_cast<int>(spec.q_lens.size());
  p.cu_q.assign(1, 0);
  std::vector<int> table;
  for (int b = 0; b < batch; ++b) {
    p.cu_q.push_back(p.cu_q.back() + spec.q_lens[b]);
    const int pages = static_cast<int>(pages_for_tokens(spec.kv_lens[b]));
    p.num_pages += pages;
    p.max_pages = std::max(p.max_pages, pages);
  }
  p.max_pages = std::max(p.max_pages, 1);
  p.num_pages += 3;  // pages that belong to nobody
  p.total_q = p.cu_q.back();
  std::vector<int> order(p.num_pages);
  std::iota(order.begin(), order.end(), 0);
  if (spec.shuffle_pages) std::shuffle(order.begin(), order.end(), std::mt19937(spec.seed));
  int used = 0;
  table.assign(std::size_t(batch) * p.max_pages, 0x7fffffff);  // never to be followed
  for (int b = 0; b < batch; ++b) {
    for (int i = 0; i < pages_for_tokens(spec.kv_lens[b]); ++i) {
      table[std::size_t(b) * p.max_pages + i] = order[used++];
    }
  }

  const std::size_t elem = spec.kv_type == KvType::kE4m3 ? 1 : 2;
  const std::size_t pool =
      std::size_t(p.num_pages) * kPageTokens * spec.num_kv_heads * spec.head_dim * elem;
  p.out_elements = std::int64_t{p.total_q} * spec.num_heads * spec.head_dim;
  p.q = KV8_TRY(DeviceBuffer::allocate(p.out_elements * (p.q_type() == KvType::kE4m3 ? 1 : 2)));
  p.k = KV8_TRY(DeviceBuffer::allocate(pool));
  p.v = KV8_TRY(DeviceBuffer::allocate(pool));
  p.out = KV8_TRY(DeviceBuffer::allocate(p.out_elements * 2));
  p.page_table = KV8_TRY(DeviceBuffer::upload(table));
  p.cu_q_device = KV8_TRY(DeviceBuffer::upload(p.cu_q));
  p.kv_lens = KV8_TRY(DeviceBuffer::upload(spec.kv_lens));
  p.tree_mask = KV8_TRY(DeviceBuffer::upload(spec.tree_mask));
  p.scheduler = KV8_TRY(DeviceBuffer::upload(std::vector<std::uint32_t>{0, 0}));
  const Ranges ranges = ranges_of(spec.pattern);
  std::vector<float> scales;
  const int scale_count = spec.scale_per_head ? spec.num_kv_heads : 1;
  for (float amax :
       {ranges.q / spec.qk_code_amax, ranges.k / spec.qk_code_amax, ranges.v / 448.0f}) {
    for (int h = 0; h < scale_count; ++h) {
      scales.push_back(spec.kv_type == KvType::kE4m3 ? amax * (1.0f + 0.1f * (h % 5)) : 1.0f);
    }
  }
  p.scales = KV8_TRY(DeviceBuffer::upload(scales));
  std::vector<float> offsets(std::size_t(spec.num_kv_heads) * spec.head_dim);
  for (std::size_t i = 0; i < offsets.size(); ++i) offsets[i] = 0.01f * float(i % 101) - 0.5f;
  p.offsets = KV8_TRY(DeviceBuffer::upload(offsets));

  // 0x7F is E4M3's NaN and 0x7F7F one of FP16's: whatever nobody fills poisons who reads it.
  KV8_TRY(cuda_ok(cudaMemset(p.k.as<void>(), 0x7f, pool), "poisoning K"));
  KV8_TRY(cuda_ok(cudaMemset(p.v.as<void>(), 0x7f, pool), "poisoning V"));
  if (batch > 0) {
    launch_fill(p.view());
  }
  KV8_TRY(cuda_ok(cudaGetLastError(), "filling"));
  KV8_TRY(cuda_ok(cudaDeviceSynchronize(), "filling"));
  return problem;
}

PrefillArgs PrefillProblem::args(ScoreType score_type) const {
  const Impl& p = *impl_;
  const PrefillProblemSpec& spec = p.spec;
  PrefillArgs a;
  a.q = p.q.as<void>();
  a.k_pool = p.k.as<void>();
  a.v_pool = p.v.as<void>();
  a.out = p.out.as<void>();
  a.page_table = p.page_table.as<std::int32_t>();
  a.cu_seqlens_q = p.cu_q_device.as<std::int32_t>();
  a.kv_lens = p.kv_lens.as<std::int32_t>();
  if (p.q_type() == KvType::kE4m3) a.q_scale = p.scale(0);
  if (spec.kv_type == KvType::kE4m3) {
    a.k_scale = p.scale(1);
    a.v_scale = p.scale(2);
  }
  a.scale_per_head = spec.scale_per_head;
  a.v_offset = spec.v_offset ? p.offsets.as<float>() : nullptr;
  a.scheduler = p.scheduler.as<std::uint32_t>();
  a.batch = static_cast<int>(spec.q_lens.size());
  a.num_heads = spec.num_heads;
  a.num_kv_heads = spec.num_kv_heads;
  a.head_dim = spec.head_dim;
  a.total_q_tokens = p.total_q;
  for (int n : spec.q_lens) a.max_q_len = std::max(a.max_q_len, n);
  for (int n : spec.kv_lens) a.max_kv_len = std::max(a.max_kv_len, n);
  a.num_pages = p.num_pages;
  a.max_pages = p.max_pages;
  a.softmax_scale = p.view().softmax_scale;
  a.kv_type = spec.kv_type;
  a.q_type = p.q_type();
  a.out_type = spec.out_type;
  a.score_type = score_type;
  return a;
}

DecodeArgs PrefillProblem::decode_args() const {
  const PrefillArgs from = args(ScoreType::kF32);
  DecodeArgs a;
  a.q = from.q;
  a.k_pool = from.k_pool;
  a.v_pool = from.v_pool;
  a.out = from.out;
  a.page_table = from.page_table;
  a.kv_lens = from.kv_lens;
  a.q_scale = from.q_scale;
  a.k_scale = from.k_scale;
  a.v_scale = from.v_scale;
  a.scale_per_head = from.scale_per_head;
  a.v_offset = from.v_offset;
  a.tree_mask = impl_->view().tree_mask;
  a.batch = from.batch;
  a.q_len = from.max_q_len;
  a.num_heads = from.num_heads;
  a.num_kv_heads = from.num_kv_heads;
  a.head_dim = from.head_dim;
  a.max_pages = from.max_pages;
  a.softmax_scale = from.softmax_scale;
  a.kv_type = from.kv_type;
  a.q_type = from.q_type;
  a.out_type = from.out_type;
  return a;
}

Status PrefillProblem::poison_output() {
  return cuda_ok(cudaMemset(impl_->out.as<void>(), 0xff, impl_->out_elements * 2), "poisoning");
}

Result<std::vector<std::uint16_t>> PrefillProblem::output() const {
  std::vector<std::uint16_t> words(impl_->out_elements);
  KV8_TRY(cuda_ok(
      cudaMemcpy(words.data(), impl_->out.as<void>(), words.size() * 2, cudaMemcpyDeviceToHost),
      "reading the output"));
  return words;
}

Result<PrefillError> PrefillProblem::compare(int max_rows) const {
  const Impl& p = *impl_;
  const PrefillProblemSpec& spec = p.spec;
  const int batch = static_cast<int>(spec.q_lens.size());
  std::vector<Sample> samples;
  std::mt19937 random(spec.seed + 7);
  for (int b = 0; b < batch; ++b) {
    const int rows = spec.q_lens[b];
    const int wanted = std::max(4, max_rows / std::max(batch, 1));
    for (int i = 0; i < wanted && rows > 0; ++i) {
      int row = static_cast<int>(random() % rows);
      if (std::int64_t{rows} * spec.num_heads <= wanted) row = i / spec.num_heads % rows;
      if (i == 0) row = rows - 1;
      if (i == 1) row = 0;
      samples.push_back({b, row,
                         std::int64_t{rows} * spec.num_heads <= wanted
                             ? i % spec.num_heads
                             : static_cast<int>(random() % spec.num_heads)});
    }
  }
  PrefillError error;
  if (samples.empty()) return error;
  const DeviceBuffer device_samples = KV8_TRY(DeviceBuffer::upload(samples));
  const std::size_t count = samples.size() * spec.head_dim;
  const DeviceBuffer reference = KV8_TRY(DeviceBuffer::allocate(count * sizeof(double)));
  launch_reference(p.view(), device_samples.as<Sample>(), static_cast<int>(samples.size()),
                   reference.as<double>());
  KV8_TRY(cuda_ok(cudaGetLastError(), "reference"));
  std::vector<double> expected(count);
  KV8_TRY(cuda_ok(cudaMemcpy(expected.data(), reference.as<void>(), count * sizeof(double),
                             cudaMemcpyDeviceToHost),
                  "reference"));
  const std::vector<std::uint16_t> words = KV8_TRY(output());
  double difference = 0, norm = 0, worst = 0;
  for (std::size_t s = 0; s < samples.size(); ++s) {
    const std::int64_t at =
        (std::int64_t{p.cu_q[samples[s].batch] + samples[s].row} * spec.num_heads +
         samples[s].head) *
        spec.head_dim;
    double row_difference = 0;
    for (int d = 0; d < spec.head_dim; ++d) {
      const std::uint16_t word = words[at + d];
      const float got = spec.out_type == OutType::kBf16
                            ? __bfloat162float(__nv_bfloat16(__nv_bfloat16_raw{word}))
                            : __half2float(__half(__half_raw{word}));
      if (!std::isfinite(got)) {
        ++error.not_finite;
        continue;
      }
      const double want = expected[s * spec.head_dim + d];
      row_difference += (got - want) * (got - want);
      norm += want * want;
    }
    difference += row_difference;
    worst = std::max(worst, row_difference);
  }
  error.rows = static_cast<std::int64_t>(samples.size());
  const double floor = 1e-30;
  error.relative = std::sqrt(difference / std::max(norm, floor));
  error.worst_row = std::sqrt(worst / std::max(norm / error.rows, floor));
  if (norm == 0) error.relative = error.worst_row = std::sqrt(difference);
  return error;
}

}  // namespace kv8::cuda_testing
