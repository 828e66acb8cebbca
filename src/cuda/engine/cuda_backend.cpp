#include "cuda/engine/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "cuda/dense/rows/launch.h"
#include "cuda/dense/sample/launch.h"
#include "cuda/engine/batch_image.h"
#include "cuda/engine/device.h"
#include "cuda/engine/engine_memory.h"
#include "cuda/engine/products.h"
#include "cuda/engine/program.h"
#include "cuda/engine/staging.h"
#include "cuda/engine/step_runner.h"
#include "cuda/engine/taps.h"

namespace kv8::cuda_engine {
namespace {

class Stream {
 public:
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  Status open() {
    return cuda_ok(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A decode step of one size: run once as it is, then captured and replayed.
struct DecodeGraph {
  DecodeGraph() = default;
  DecodeGraph(const DecodeGraph&) = delete;
  DecodeGraph& operator=(const DecodeGraph&) = delete;
  ~DecodeGraph() {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
  }
  bool has_run = false;
  cudaGraphExec_t executable = nullptr;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(const Plan& plan, const BackendOptions& options)
      : plan_(plan), options_(options.completed()) {}
  ~CudaBackend() override { cudaStreamSynchronize(stream_); }

  Status open(const TensorView& embedding);
  Status run(const Batch& batch, TapSink* taps) override;
  Status read_logits(std::span<float> logits) override;
  Status sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) override;
  Status copy_page(std::int32_t from, std::int32_t to) override;
  std::int64_t max_rows() const override { return options_.max_rows; }
  std::int32_t num_pages() const override { return options_.num_pages; }
  std::string_view name() const override { return "cuda"; }
  std::string summary() const override { return summary_; }

 private:
  Status run_decode(BatchImage& image);
  Status capture(const StepShape& shape, DecodeGraph& graph);
  Status wait() { return cuda_ok(cudaStreamSynchronize(stream_), "a step"); }

  const Plan& plan_;
  const BackendOptions options_;
  Program program_;
  std::string summary_;
  std::unique_ptr<EngineMemory> memory_;
  Stream stream_;
  std::unique_ptr<Products> products_;
  std::optional<StepRunner> runner_;
  std::optional<BatchStaging> staging_;
  std::optional<SampleStaging> sampling_;
  std::map<int, DecodeGraph> graphs_;
  std::int32_t scratch_page_ = 0;
  std::size_t num_logits_ = 0;  // rows of the last run
};

Status CudaBackend::open(const TensorView& embedding) {
  const std::string found = KV8_TRY(architecture());
  program_ = KV8_TRY(make_program(plan_));
  memory_ = KV8_TRY(EngineMemory::make(plan_, program_, embedding, options_));
  KV8_TRY(stream_.open());
  std::vector<TunedProduct> tuned;
  std::string kernels = "products chosen by cuBLASLt";
  if (plan_.tuned_library == KV8_TRY(tuned_library())) {
    tuned = plan_.tuned;
    kernels = fmt::format("{} products chosen by timing", tuned.size());
  } else if (!plan_.tuned.empty()) {
    kernels =
        fmt::format("products chosen by cuBLASLt (the engine's are for {})", plan_.tuned_library);
  }
  products_ =
      KV8_TRY(Products::create(program_.bf16, memory_->product_workspace(), std::move(tuned)));
  runner_ = KV8_TRY(StepRunner::create(plan_, program_, *memory_, *products_));
  staging_ = KV8_TRY(BatchStaging::create(*memory_, options_));
  sampling_ = KV8_TRY(SampleStaging::create(static_cast<std::size_t>(options_.max_logits_rows)));
  scratch_page_ = memory_->scratch_page();
  summary_ =
      fmt::format("cuda: {}, {}; {}; {}", KV8_TRY(device_name()), found, memory_->text(), kernels);
  return {};
}

Status CudaBackend::run(const Batch& batch, TapSink* taps) {
  KV8_TRY(check_batch(plan_, batch, options_));
  num_logits_ = 0;
  if (batch.token_ids.empty()) return {};
  BatchImage image =
      make_batch_image(batch, taps == nullptr ? RowOrder::kDecodeFirst : RowOrder::kAsGiven);
  if (taps != nullptr) {
    KV8_TRY(staging_->upload(image, stream_));
    TapObserver observer(plan_, program_, *memory_, *runner_, batch, *taps, stream_);
    KV8_TRY(runner_->run(image.shape, stream_, &observer));
  } else if (is_plain_decode(image.shape) && options_.use_graphs) {
    KV8_TRY(run_decode(image));
  } else {
    KV8_TRY(staging_->upload(image, stream_));
    KV8_TRY(runner_->run(image.shape, stream_, nullptr));
  }
  num_logits_ = batch.logits_rows.size();
  return {};
}

Status CudaBackend::run_decode(BatchImage& image) {
  const std::int64_t most =
      std::min({options_.max_rows, options_.max_sequences, options_.max_logits_rows});
  const int bucket =
      static_cast<int>(std::min<std::int64_t>(decode_bucket(image.shape.rows), most));
  pad_decode_batch(image, bucket, &scratch_page_);
  KV8_TRY(staging_->upload(image, stream_));
  DecodeGraph& graph = graphs_[bucket];
  // The first run loads kernels and lets libraries set themselves up, which a capture may not.
  if (!std::exchange(graph.has_run, true)) return runner_->run(image.shape, stream_, nullptr);
  if (graph.executable == nullptr) KV8_TRY(capture(image.shape, graph));
  return cuda_ok(cudaGraphLaunch(graph.executable, stream_), "graph launch");
}

Status CudaBackend::capture(const StepShape& shape, DecodeGraph& graph) {
  KV8_TRY(cuda_ok(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture"));
  const Status launched = runner_->run(shape, stream_, nullptr);
  cudaGraph_t captured = nullptr;
  const Status ended = cuda_ok(cudaStreamEndCapture(stream_, &captured), "capture");
  Status made = launched.ok() ? ended : launched;
  if (made.ok()) {
    made = cuda_ok(cudaGraphInstantiate(&graph.executable, captured, 0), "graph");
  }
  if (captured != nullptr) cudaGraphDestroy(captured);
  return made;
}

Status CudaBackend::read_logits(std::span<float> logits) {
  const std::size_t count = num_logits_ * static_cast<std::size_t>(plan_.vocab_size);
  KV8_CHECK(logits.size() == count, "room for {} logits of {}", logits.size(), count);
  if (count == 0) return {};
  KV8_TRY(cuda_ok(cudaMemcpyAsync(logits.data(), runner_->logits(), count * sizeof(float),
                                  cudaMemcpyDeviceToHost, stream_),
                  "reading logits"));
  return wait();
}

Status CudaBackend::sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) {
  KV8_CHECK(rows.size() == num_logits_ && tokens.size() == num_logits_,
            "{} samples and {} tokens of {} rows", rows.size(), tokens.size(), num_logits_);
  if (rows.empty()) return {};
  SampleArgs args;
  args.logits = runner_->logits();
  args.settings = memory_->sample_settings();
  args.bias = memory_->sample_bias();
  args.tokens = memory_->sample_tokens();
  args.top = memory_->sample_top();
  args.workspace = memory_->sample_workspace();
  args.rows = static_cast<int>(rows.size());
  args.vocab = plan_.vocab_size;
  args.dependent_launch = false;
  KV8_TRY(sampling_->upload(rows, *memory_, stream_));
  args.few_logits = std::ranges::all_of(sampling_->settings(rows.size()), needs_few_logits);
  KV8_TRY(launch_sample(args, stream_));
  KV8_TRY(sampling_->fetch(rows, *memory_, stream_));
  KV8_TRY(wait());
  sampling_->read(rows, plan_.vocab_size, tokens);
  return {};
}

Status CudaBackend::copy_page(std::int32_t from, std::int32_t to) {
  KV8_CHECK(from >= 0 && from < options_.num_pages && to >= 0 && to < options_.num_pages,
            "pages {} and {} of {}", from, to, options_.num_pages);
  if (from == to) return {};
  const PagePair pair{from, to};
  // A few bytes of pageable memory are taken before the call returns.
  KV8_TRY(cuda_ok(
      cudaMemcpyAsync(memory_->page_pair(), &pair, sizeof pair, cudaMemcpyHostToDevice, stream_),
      "page copy"));
  CopyPagesArgs args;
  args.pools = memory_->page_pools();
  args.pairs = memory_->page_pair();
  args.num_pools = static_cast<int>(2 * plan_.caches.size());
  args.num_pairs = 1;
  args.num_pages = memory_->num_pages();
  return launch_copy_pages(args, stream_);
}

Status check_options(const BackendOptions& options) {
  if (options.num_pages <= 0 || options.max_rows <= 0) {
    return usage_error("{} KV pages and {} rows: both must be positive", options.num_pages,
                       options.max_rows);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend(const Plan& plan, const TensorView& embedding,
                                                   const BackendOptions& options) {
  KV8_TRY(validate(plan));
  KV8_TRY(check_embedding(plan, embedding));
  KV8_TRY(check_options(options));
  auto backend = std::make_unique<CudaBackend>(plan, options);
  KV8_TRY(backend->open(embedding));
  return std::unique_ptr<Backend>(std::move(backend));
}

Result<std::int64_t> cuda_page_memory(const Plan& plan, const BackendOptions& options) {
  KV8_TRY(validate(plan));
  KV8_TRY(architecture());
  const Program program = KV8_TRY(make_program(plan));
  return bytes_for_pages(plan, program, options.completed());
}

}  // namespace kv8::cuda_engine
