// Engine folders: from ONNX and from a checkpoint, their limits, loading.
#include "exec/engine.h"

#include <algorithm>
#include <functional>
#include <ostream>

#include "base/json.h"
#include "exec/backends.h"
#include "exec/exec_testing.h"
#include "io/safetensors.h"
#include "models/exporter.h"
#include "support/tiny_checkpoint.h"

namespace kv8::exec {
namespace {

namespace fs = std::filesystem;

BuilderConfig small_config() {
  BuilderConfig config;
  config.max_input_len = 64;
  config.max_kv_cache_capacity = 200;
  config.max_batch_size = 2;
  return config;
}

std::vector<std::string> names_in(const fs::path& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) {
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

void edit_json(const fs::path& file, const std::function<void(Json&)>& edit) {
  Json json = read_json_file(file).value();
  edit(json);
  ASSERT_TRUE(write_json_file(file, json).ok());
}

struct Source {
  std::string model;
  bool fp8;
};

// Without this, GoogleTest prints the bytes.
void PrintTo(const Source& value, std::ostream* out) {
  *out << value.model << (value.fp8 ? ", FP8" : ", FP16");
}

class EngineFolder : public ::testing::TestWithParam<Source> {};

TEST_P(EngineFolder, IsTheSameFromOnnxAndFromTheCheckpoint) {
  const test::TempDir dir;
  const fs::path checkpoint = dir / "checkpoint";
  if (GetParam().fp8) {
    ASSERT_NO_FATAL_FAILURE(write_fp8_checkpoint(GetParam().model, Scales::kPerHead, checkpoint));
  } else {
    test::make_tiny_checkpoint(GetParam().model, checkpoint);
  }
  const Status exported = models::export_model(checkpoint, dir / "onnx", {}, {});
  ASSERT_TRUE(exported.ok()) << exported.error().message;
  const Status from_onnx =
      build_engine_from_onnx(dir / "onnx" / "llm", dir / "a", small_config(), {});
  ASSERT_TRUE(from_onnx.ok()) << from_onnx.error().message;
  const Status direct = build_engine_from_checkpoint(checkpoint, dir / "b", small_config(), {});
  ASSERT_TRUE(direct.ok()) << direct.error().message;

  const std::vector<std::string> names = names_in(dir / "a");
  EXPECT_EQ(names, names_in(dir / "b"));
  EXPECT_TRUE(std::ranges::count(names, "llm.engine") == 1);
  EXPECT_TRUE(std::ranges::count(names, "processed_chat_template.json") == 1);
  for (const std::string& name : names) {
    EXPECT_TRUE(test::read_bytes(dir / "a" / name) == test::read_bytes(dir / "b" / name)) << name;
  }

  const auto engine = Engine::load(dir / "a").value();
  EXPECT_EQ(engine->config().kv_cache_dtype, GetParam().fp8 ? "fp8" : "fp16");
  EXPECT_EQ(engine->config().builder.max_kv_cache_capacity, 200);
  EXPECT_EQ(engine->config().builder.q_dtype, GetParam().fp8 ? DType::kF8E4M3 : DType::kF16);
  EXPECT_FALSE(engine->config().eos_token_ids.empty());
  const auto memory = Engine::from_checkpoint(checkpoint, GetParam().fp8, small_config()).value();
  EXPECT_TRUE(std::ranges::equal(engine->embedding().bytes, memory->embedding().bytes));
}

INSTANTIATE_TEST_SUITE_P(Models, EngineFolder,
                         ::testing::Values(Source{"llama3", false}, Source{"llama_yarn", true},
                                           Source{"mistral", false}, Source{"mistral", true},
                                           Source{"qwen2", true}, Source{"qwen3", true},
                                           Source{"qwen3", false}),
                         [](const auto& info) {
                           return info.param.model + (info.param.fp8 ? "_fp8" : "_fp16");
                         });

/// A built engine folder of a tiny model, and its checkpoint.
class Engines : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(write_fp8_checkpoint("qwen3", Scales::kPerTensor, checkpoint()));
  }
  fs::path checkpoint() const { return dir_ / "checkpoint"; }
  fs::path engine() const { return dir_ / "engine"; }
  Status build(const BuilderConfig& config, const Reporter& reporter = {}) {
    return build_engine_from_checkpoint(checkpoint(), engine(), config, reporter);
  }

  test::TempDir dir_;
};

TEST_F(Engines, RefuseLimitsThatCannotBeMeant) {
  const auto with = [](const std::function<void(BuilderConfig&)>& edit) {
    BuilderConfig config = small_config();
    edit(config);
    return config;
  };
  expect_error(build(with([](auto& c) { c.max_input_len = 0; })), {"max_input_len is 0"});
  expect_error(build(with([](auto& c) { c.max_batch_size = -1; })), {"max_batch_size is -1"});
  expect_error(build(with([](auto& c) { c.max_kv_cache_capacity = 0; })), {"capacity is 0"});
  expect_error(build(with([](auto& c) { c.kv_cache_memory = -5; })), {"kv_cache_memory is -5"});
  expect_error(build(with([](auto& c) { c.max_input_len = 201; })),
               {"max_input_len 201", "max_kv_cache_capacity 200"});
  if (!backend_architecture("cuda").ok()) {
    expect_error(build(with([](auto& c) { c.backend = "cuda"; })), {"backend cuda"});
  }
  expect_error(build(with([](auto& c) { c.backend = "tpu"; })), {"`tpu`"});
  EXPECT_FALSE(fs::exists(engine()));
  EXPECT_EQ(names_in(dir_.path()), std::vector<std::string>{"checkpoint"});
}

TEST_F(Engines, SizeThePoolByMemoryOrByBatch) {
  const auto engine = Engine::from_checkpoint(checkpoint(), true, small_config()).value();
  BuilderConfig config = small_config();
  EXPECT_EQ(kv_pool_pages(config, engine->plan()).value(), 2 * 4);
  const std::int64_t page_bytes = engine->plan().kv_bytes_per_token() * kPageTokens;
  config.kv_cache_memory = 7 * page_bytes - 1;
  EXPECT_EQ(kv_pool_pages(config, engine->plan()).value(), 6);
  config.max_input_len = 130;
  config.kv_cache_memory = 3 * page_bytes - 1;
  expect_error(kv_pool_pages(config, engine->plan()),
               {"2 KV pages", "needs 3", std::to_string(3 * page_bytes)});
  expect_error(build(config), {"kv_cache_memory"});
  EXPECT_FALSE(fs::exists(this->engine()));
}

TEST_F(Engines, Fp8HalvesTheCacheToTheByte) {
  const auto fp8 = Engine::from_checkpoint(checkpoint(), true, small_config()).value();
  const auto fp16 = Engine::from_checkpoint(checkpoint(), false, small_config()).value();
  EXPECT_EQ(2 * fp8->plan().kv_bytes_per_token(), fp16->plan().kv_bytes_per_token());
  const Plan& plan = fp8->plan();
  EXPECT_EQ(plan.kv_bytes_per_token(),
            std::int64_t{2} * plan.num_layers * plan.num_kv_heads * plan.head_dim);
}

TEST_F(Engines, RefuseFp8WithoutScales) {
  expect_error(Engine::from_checkpoint(tiny_model("qwen3"), true, small_config()),
               {"no FP8 KV scales", "--kv_cache_quantization fp8"});
}

TEST_F(Engines, WarnBeyondTheModelsPositions) {
  std::vector<std::string> warnings;
  Reporter reporter;
  reporter.log = [&](LogLevel level, std::string_view line) {
    if (level == LogLevel::kWarning) warnings.emplace_back(line);
  };
  BuilderConfig config = small_config();
  ASSERT_TRUE(build(config, reporter).ok());
  EXPECT_TRUE(warnings.empty());
  config.max_kv_cache_capacity = 1 << 20;
  ASSERT_TRUE(build(config, reporter).ok());
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("positions"), std::string::npos);
}

TEST_F(Engines, RefuseDynamicRopeBeyondTheOriginalContext) {
  edit_json(checkpoint() / "config.json", [](Json& json) {
    json["max_position_embeddings"] = 150;
    json["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
    json.erase("rope_parameters");
  });
  BuilderConfig config = small_config();
  expect_error(build(config), {"dynamic RoPE", "150", "200", "--maxKVCacheCapacity"});
  expect_error(Engine::from_checkpoint(checkpoint(), true, config), {"dynamic RoPE"});
  config.max_kv_cache_capacity = 150;
  const Status fits = build(config);
  EXPECT_TRUE(fits.ok()) << fits.error().message;
  EXPECT_EQ(Engine::load(engine()).value()->plan().max_positions, 150);
}

TEST_F(Engines, ReplaceAnEngineWhole) {
  ASSERT_TRUE(build(small_config()).ok());
  const std::string before = test::read_bytes(engine() / "config.json");
  BuilderConfig config = small_config();
  config.max_batch_size = 7;
  ASSERT_TRUE(build(config).ok());
  EXPECT_EQ(Engine::load(engine()).value()->config().builder.max_batch_size, 7);
  EXPECT_NE(test::read_bytes(engine() / "config.json"), before);
  EXPECT_EQ(names_in(dir_.path()), (std::vector<std::string>{"checkpoint", "engine"}));
}

TEST_F(Engines, LeaveNothingBehindWhenInterrupted) {
  set_interrupted(true);
  const Status status = build(small_config());
  set_interrupted(false);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(names_in(dir_.path()), std::vector<std::string>{"checkpoint"});
}

TEST_F(Engines, RefuseDamagedFolders) {
  ASSERT_TRUE(build(small_config()).ok());
  const fs::path config = engine() / "config.json";
  const std::string good = test::read_bytes(config);
  const auto refused = [&](const std::function<void(Json&)>& edit,
                           const std::vector<std::string>& expected) {
    test::write_bytes(config, good);
    edit_json(config, edit);
    expect_error(Engine::load(engine()), expected);
  };
  refused([](Json& j) { j.erase("builder_config"); }, {"config.json", "builder_config"});
  refused([](Json& j) { j["builder_config"]["max_batch_size"] = 0; }, {"max_batch_size"});
  refused([](Json& j) { j["builder_config"]["max_input_len"] = "x"; }, {"max_input_len"});
  refused([](Json& j) { j["builder_config"]["max_input_len"] = 500; }, {"max_kv_cache_capacity"});
  refused([](Json& j) { j["builder_config"]["q_dtype"] = "int8"; }, {"q_dtype"});
  refused([](Json& j) { j["builder_config"]["backend"] = "cuda"; }, {"backend", "cuda", "rebuild"});
  refused([](Json& j) { j["builder_config"] = 3; }, {"builder_config"});
  refused([](Json& j) { j.erase("kv_cache_dtype"); }, {"kv_cache_dtype"});
  refused([](Json& j) { j["kv_cache_dtype"] = "int4"; }, {"kv_cache_dtype", "int4"});
  refused([](Json& j) { j["kv_cache_dtype"] = "fp16"; }, {"cache of layer 0", "fp16"});
  refused([](Json& j) { j["vocab_size"] = 281; }, {"vocab_size"});
  test::write_bytes(config, good);
  ASSERT_TRUE(Engine::load(engine()).ok());

  const TensorView small = tensor_from_floats(std::vector<float>(4, 1.0f), {2, 2});
  ASSERT_TRUE(
      io::write_safetensors(engine() / "embedding.safetensors", {{"embedding", small}}).ok());
  expect_error(Engine::load(engine()), {"embedding", "F32 [2, 2]", "expected F16"});
  fs::remove(engine() / "embedding.safetensors");
  expect_error(Engine::load(engine()), {"embedding.safetensors"});
  fs::remove(engine() / "llm.engine");
  expect_error(Engine::load(engine()), {"llm.engine"});
  expect_error(Engine::load(dir_ / "nowhere"), {"nowhere"});
}

TEST_F(Engines, RefuseExportsThatLackFilesOrDisagree) {
  const Status exported = models::export_model(checkpoint(), dir_ / "onnx", {}, {});
  ASSERT_TRUE(exported.ok()) << exported.error().message;
  const fs::path onnx = dir_ / "onnx" / "llm";
  const auto build_onnx = [&] {
    return build_engine_from_onnx(onnx, engine(), small_config(), {});
  };
  edit_json(onnx / "config.json", [](Json& j) { j["kv_cache_dtype"] = "fp16"; });
  expect_error(build_onnx(), {"cache of layer 0", "fp16"});
  edit_json(onnx / "config.json", [](Json& j) { j.erase("kv_cache_dtype"); });
  expect_error(build_onnx(), {"kv_cache_dtype"});
  edit_json(onnx / "config.json", [](Json& j) { j["kv_cache_dtype"] = "fp8"; });
  EXPECT_TRUE(build_onnx().ok());
  fs::remove(onnx / "tokenizer.json");
  expect_error(build_onnx(), {"tokenizer.json", "missing"});
  fs::remove(onnx / "model.onnx");
  expect_error(build_onnx(), {"model.onnx"});
}

TEST_F(Engines, RefuseThePortableExport) {
  models::ExportOptions options;
  options.portable = true;
  const Status exported = models::export_model(checkpoint(), dir_ / "onnx", options, {});
  ASSERT_TRUE(exported.ok()) << exported.error().message;
  expect_error(build_engine_from_onnx(dir_ / "onnx" / "llm", engine(), small_config(), {}),
               {"made for ONNX Runtime", "export without --portable"});
}

}  // namespace
}  // namespace kv8::exec
