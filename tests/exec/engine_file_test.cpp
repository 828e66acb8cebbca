// The engine file: what is written is what is read, and no damage gets through.
#include <cstring>
#include <functional>
#include <random>

#include "base/hash.h"
#include "base/json.h"
#include "exec/backends.h"
#include "exec/engine.h"
#include "exec/exec_testing.h"
#include "exec/plan_json.h"
#include "exec/planner.h"

namespace kv8::exec {
namespace {

constexpr std::size_t kHeader = 256, kPlanBytesAt = 64, kPlanHashAt = 128;

class EngineFile : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(write_fp8_checkpoint("qwen3", Scales::kPerHead, dir_ / "checkpoint"));
    plan_ = plan_graph(decoder_graph(dir_ / "checkpoint"), {}).value();
    ASSERT_TRUE(write_engine_file(plan_, {}, file(), {}).ok());
    bytes_ = test::read_bytes(file());
  }
  std::filesystem::path file() const { return dir_ / "llm.engine"; }
  Result<Plan> read(const std::string& bytes, bool verify_hash = false) {
    test::write_bytes(file(), bytes);
    return read_engine_file(file(), "cpu", verify_hash);
  }
  std::uint64_t number(std::size_t at) const {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes_.data() + at, sizeof value);
    return value;
  }
  std::string plan_text() const { return bytes_.substr(kHeader, number(kPlanBytesAt)); }
  std::string weights() const { return bytes_.substr(number(kPlanBytesAt + 8)); }
  /// An engine file whose header fits another plan text.
  std::string with_plan(const std::string& text) const {
    std::string out = bytes_.substr(0, kHeader);
    const std::uint64_t size = text.size(), offset = (kHeader + size + 63) / 64 * 64;
    std::memcpy(out.data() + kPlanBytesAt, &size, 8);
    std::memcpy(out.data() + kPlanBytesAt + 8, &offset, 8);
    out.replace(kPlanHashAt, 64, sha256_hex(text));
    out += text;
    out.resize(offset, '\0');
    return out + weights();
  }

  test::TempDir dir_;
  Plan plan_;
  std::string bytes_;
};

TEST_F(EngineFile, HoldsThePlanAndItsWeights) {
  const Plan read = read_engine_file(file(), "cpu", true).value();
  EXPECT_EQ(plan_to_json(read).value(), plan_to_json(plan_).value());
  ASSERT_EQ(read.weights.size(), plan_.weights.size());
  for (std::size_t i = 0; i < read.weights.size(); ++i) {
    ASSERT_EQ(read.weights[i].parts.size(), 1u);
    const TensorView& joined = read.weights[i].parts[0];
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(joined.bytes.data()) % 64, 0u);
    EXPECT_EQ(joined.shape, read.weights[i].shape);
    std::string expected;
    for (const TensorView& part : plan_.weights[i].parts) {
      expected.append(reinterpret_cast<const char*>(part.bytes.data()), part.bytes.size());
    }
    EXPECT_EQ(std::memcmp(joined.bytes.data(), expected.data(), expected.size()), 0);
    EXPECT_EQ(joined.bytes.size(), expected.size());
  }
}

TEST_F(EngineFile, HoldsChosenKernels) {
  plan_.tuned_library = "some library";
  plan_.tuned = {{16, 64, 128, true, false, true, {1, ~std::uint64_t{0}, 0xabcd}}};
  ASSERT_TRUE(write_engine_file(plan_, {}, file(), {}).ok());
  const Plan read = read_engine_file(file(), "cpu").value();
  EXPECT_EQ(read.tuned_library, plan_.tuned_library);
  ASSERT_EQ(read.tuned.size(), 1u);
  EXPECT_EQ(read.tuned[0].algorithm, plan_.tuned[0].algorithm);
  EXPECT_EQ(plan_to_json(read).value(), plan_to_json(plan_).value());
  bytes_ = test::read_bytes(file());
  std::string text = plan_text();
  text.replace(text.find("0000000000000001"), 16, "000000000000000x");
  expect_error(this->read(with_plan(text)), {"tuned[0]", "hexadecimal"});
}

TEST_F(EngineFile, IsTheSameEveryTime) {
  ASSERT_TRUE(write_engine_file(plan_, {}, dir_ / "again", {}).ok());
  EXPECT_EQ(test::read_bytes(dir_ / "again"), bytes_);
}

TEST_F(EngineFile, OutlivesTheNameOfItsFile) {
  const Plan plan = read_engine_file(file(), "cpu").value();
  std::filesystem::remove(file());
  EXPECT_TRUE(validate(plan).ok());
  EXPECT_EQ(plan.weights[0].parts[0].bytes.size(), plan.weights[0].shape[0] * 2u);
}

TEST_F(EngineFile, NamesWhatToRebuild) {
  std::string other = bytes_;
  other[8] = 9;
  expect_error(read(other), {"llm.engine", "engine format 9", "reads 2", "llm_build"});
  other = bytes_;
  other.replace(16, 4, "cuda");
  expect_error(read(other), {"built for backend cuda", "--backend cpu"});
  other = bytes_;
  other.replace(32, 5, "sm_90");
  expect_error(read(other), {"architecture sm_90", "rebuild"});
  test::write_bytes(file(), bytes_);
  expect_error(read_engine_file(file(), "cuda"), {"built for backend cpu"});
  expect_error(read("not an engine at all"), {"not an engine"});
  expect_error(read_engine_file(dir_ / "missing.engine", "cpu"), {"missing.engine"});
}

TEST_F(EngineFile, RefusesCudaWhereThereIsNone) {
  if (backend_architecture("cuda").ok()) GTEST_SKIP() << "skipped: there is a GPU";
  BuilderConfig config;
  config.backend = "cuda";
  expect_error(write_engine_file(plan_, config, dir_ / "cuda.engine", {}), {"backend cuda"});
  EXPECT_FALSE(std::filesystem::exists(dir_ / "cuda.engine"));
}

TEST_F(EngineFile, RefusesEveryTruncationAndAnyTail) {
  const std::size_t plan_end = kHeader + plan_text().size();
  for (std::size_t size = 0; size < bytes_.size(); size += size < plan_end ? 97 : 4099) {
    EXPECT_FALSE(read(bytes_.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(read(bytes_.substr(0, bytes_.size() - 1)).ok());
  EXPECT_FALSE(read(bytes_ + '\0').ok());
}

TEST_F(EngineFile, NoticesEveryFlippedBitBeforeTheWeights) {
  std::mt19937 random(3);
  const std::size_t plan_end = kHeader + plan_text().size();
  for (std::size_t at = 0; at < plan_end; at += at < kHeader ? 1 : 53) {
    std::string damaged = bytes_;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << random() % 8));
    // The weights' own hash is only looked at when asked for.
    const bool weights_hash = at >= kPlanHashAt + 64 && at < kHeader;
    EXPECT_FALSE(read(damaged, weights_hash).ok()) << at;
  }
}

TEST_F(EngineFile, FindsDamagedWeightsWhenAsked) {
  std::string damaged = bytes_;
  damaged[damaged.size() - 100] ^= 4;
  EXPECT_TRUE(read(damaged).ok());
  expect_error(read(damaged, true), {"weights section", "SHA-256"});
}

/// Every number, string and list of the plan, one after the other.
void collect(Json& json, std::vector<Json*>& leaves) {
  if (json.is_structured()) {
    for (Json& child : json) collect(child, leaves);
  }
  leaves.push_back(&json);
}

TEST_F(EngineFile, LyingPlansNeverGetThrough) {
  const Json good = Json::parse(plan_text());
  ASSERT_TRUE(read(with_plan(good.dump())).ok());
  const std::vector<Json> lies = {-1,       0,       1,    2147483647,    4294967296,     1e300,
                                  "linear", nullptr, true, Json::array(), Json::object(), -0.5,
                                  1u << 24, 7,       "F32"};
  std::mt19937 random(5);
  int refused = 0, tried = 0;
  for (int round = 0; round < 1200; ++round) {
    Json json = good;
    std::vector<Json*> leaves;
    collect(json, leaves);
    *leaves[random() % leaves.size()] = lies[random() % lies.size()];
    ++tried;
    const Result<Plan> plan = read(with_plan(json.dump()));
    if (!plan.ok()) {
      ++refused;
      continue;
    }
    EXPECT_TRUE(validate(*plan).ok());
    EXPECT_LE(plan->weights.size(), plan_.weights.size());
  }
  EXPECT_GT(refused, tried / 2);
}

TEST_F(EngineFile, RefusesSpecificLies) {
  struct Lie {
    std::string name;
    std::function<void(Json&)> apply;
    std::vector<std::string> expected;
  };
  const std::vector<Lie> lies = {
      {"weight beyond the section",
       [](Json& p) { p["weights"][1]["offset"] = 1 << 30; },
       {"offset"}},
      {"overlapping weights", [](Json& p) { p["weights"][1]["offset"] = 0; }, {"offset 0"}},
      {"absurd shape",
       [](Json& p) {
         p["weights"][0]["shape"] = {2147483647, 2147483647};
       },
       {}},
      {"more bytes than there are",
       [](Json& p) { p["weights"].back()["dtype"] = "F32"; },
       {"section"}},
      {"slot beyond the list", [](Json& p) { p["steps"][0]["out"] = 99; }, {"slot 99"}},
      {"weight beyond the list", [](Json& p) { p["steps"][0]["weight"] = 9999; }, {"weight 9999"}},
      {"step over its input",
       [](Json& p) { p["steps"][0]["out"] = p["steps"][0]["in"]; },
       {"step 0"}},
      {"layer written twice", [](Json& p) { p["steps"][11]["layer"] = 0; }, {"layer 0"}},
      {"missing layer", [](Json& p) { p["steps"].erase(p["steps"].begin() + 2); }, {}},
      {"zero scale", [](Json& p) { p["caches"][0]["k_scale"][0] = 0; }, {"scale"}},
      {"missing scale", [](Json& p) { p["caches"][0]["k_scale"].erase(0); }, {"scales"}},
      {"other pages", [](Json& p) { p["kv_page_tokens"] = 32; }, {"pages of 32", "rebuild"}},
      {"unknown step", [](Json& p) { p["steps"][3]["op"] = "moe"; }, {"steps[3]", "moe"}},
      {"no heads", [](Json& p) { p["num_kv_heads"] = 0; }, {}},
      {"huge slot", [](Json& p) { p["slot_cols"].push_back(2147483647); }, {"columns"}},
      {"logits in another slot", [](Json& p) { p["logits_slot"] = p["steps"][1]["out"]; }, {}},
      {"unused slot", [](Json& p) { p["slot_cols"].push_back(8); }, {"never written"}},
  };
  for (const Lie& lie : lies) {
    SCOPED_TRACE(lie.name);
    Json json = Json::parse(plan_text());
    lie.apply(json);
    expect_error(read(with_plan(json.dump())), lie.expected);
  }
}

}  // namespace
}  // namespace kv8::exec
