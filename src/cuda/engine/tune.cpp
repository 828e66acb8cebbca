// Which kernels run a plan's products fastest on this GPU.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <set>

#include "cuda/dense/gemv/params.h"
#include "cuda/engine/cuda_backend.h"
#include "cuda/engine/device.h"
#include "cuda/engine/memory.h"
#include "cuda/engine/products.h"
#include "cuda/engine/program.h"

namespace kv8::cuda_engine {
namespace {

/// Weights are taken from as much memory as no cache holds.
constexpr std::size_t kColdBytes = std::size_t{256} << 20;
/// Rows whose logits are wanted are few.
constexpr std::int64_t kMaxLogitsRows = 256;

/// The next larger number of rows that kernels are chosen for: doubled up to 128, then every 64 up
/// to 1,024 and four an octave beyond, and 2,112: decode steps beside the usual 2,048 of a prompt.
/// A kernel's tile of rows suits some numbers and not others: 544 rows, 32 sequences beside 512
/// tokens of a prompt, are 768 in the tiles of 256 that are best for 1,024.
std::int64_t next_rows(std::int64_t rows) {
  if (rows < 128) return 2 * rows;
  if (rows < 1024 || rows == 2048) return rows + 64;
  const auto octave = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(rows)));
  return (rows / (octave / 4) + 1) * (octave / 4);
}

std::set<ProductShape> shapes_of(const Plan& plan, const Program& program, std::int64_t max_rows) {
  std::set<ProductShape> shapes;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const auto* linear = std::get_if<LinearStep>(&plan.steps[i]);
    if (linear == nullptr) continue;
    const Shape& weight = plan.weights[static_cast<std::size_t>(linear->weight)].shape;
    const bool logits = linear->out == plan.logits_slot;
    const std::int64_t most = logits ? std::min(max_rows, kMaxLogitsRows) : max_rows;
    std::int64_t rows = kGemvMaxRows;
    while (rows < most) {
      rows = next_rows(rows);
      shapes.insert({static_cast<int>(rows), static_cast<int>(weight[1]),
                     static_cast<int>(weight[0]), program.steps[i].out == ValueType::kF32,
                     linear->bias != kNone, linear->residual != kNone});
    }
  }
  return shapes;
}

/// Memory for the largest product of all.
struct Room {
  std::size_t weights = kColdBytes, x = 0, out = 0, bias = 0;
  explicit Room(const std::set<ProductShape>& shapes) {
    for (const ProductShape& shape : shapes) {
      const auto in = static_cast<std::size_t>(shape.in), n = static_cast<std::size_t>(shape.out);
      const auto rows = static_cast<std::size_t>(shape.rows);
      weights = std::max(weights, 2 * in * n);
      x = std::max(x, 2 * rows * in);
      out = std::max(out, 4 * rows * n);
      bias = std::max(bias, 4 * n);
    }
  }
};

}  // namespace

Result<Tuning> tune_products(const Plan& plan, std::int64_t max_rows, const Reporter& reporter) {
  const Program program = KV8_TRY(make_program(plan));
  Tuning tuning{KV8_TRY(tuned_library()), {}};
  const std::set<ProductShape> shapes = shapes_of(plan, program, max_rows);
  const Room room(shapes);
  ArenaLayout layout;
  const std::size_t weights = layout.add(room.weights), x = layout.add(room.x),
                    out = layout.add(room.out), bias = layout.add(room.bias),
                    workspace = layout.add(kProductWorkspaceBytes);
  const Memory memory = KV8_TRY(Memory::on_device(layout.total()));
  // Small positive numbers in either type.
  KV8_TRY(cuda_ok(cudaMemset(memory.data(), 0x2c, layout.total()), "filling"));
  const auto products = KV8_TRY(Products::create(program.bf16, memory.data() + workspace, {}));
  if (reporter.progress != nullptr) {
    reporter.progress->begin("timing products", static_cast<std::int64_t>(shapes.size()), "shapes");
  }
  Status status;
  for (const ProductShape& shape : shapes) {
    if (interrupted()) status = Error{ErrorCode::kCancelled, "interrupted"};
    if (!status.ok()) break;
    ProductArgs args;
    args.shape = shape;
    args.weight = memory.data() + weights;
    args.x = memory.data() + x;
    args.out = memory.data() + out;
    args.bias = memory.data() + bias;
    if (shape.residual) args.residual = memory.at<float>(out);
    const std::size_t bytes =
        std::size_t{2} * static_cast<std::size_t>(shape.in) * static_cast<std::size_t>(shape.out);
    const int copies = static_cast<int>(std::max<std::size_t>(1, room.weights / bytes));
    const auto tuned = products->tune(args, copies, nullptr);
    if (!tuned.ok()) {
      status = tuned.error();
    } else {
      tuning.products.push_back(*tuned);
    }
    if (reporter.progress != nullptr) {
      reporter.progress->advance(static_cast<std::int64_t>(tuning.products.size()));
    }
  }
  if (reporter.progress != nullptr) reporter.progress->end();
  if (!status.ok()) return status.error();
  return tuning;
}

}  // namespace kv8::cuda_engine
