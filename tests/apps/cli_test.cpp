// The programs as a user runs them, on real files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/json.h"
#include "base/temp_dir.h"
#include "support/command.h"
#include "support/tiny_checkpoint.h"

namespace kv8 {
namespace {

namespace fs = std::filesystem;
using test::Outcome;
using test::read_bytes;
using test::run_program;
using test::TempDir;
using test::write_bytes;
using ::testing::HasSubstr;

std::string describe(const Outcome& outcome) {
  return fmt::format("status {}\n{}\n{}", outcome.status, outcome.out, outcome.err);
}

/// Calibration text that is not the built-in one and short enough for a test.
std::string calibration_text() {
  std::string text;
  for (int i = 0; i < 60; ++i)
    text += fmt::format("Line {} counts {} sheep and {} goats.\n", i, i * i, 7 * i);
  return text;
}

/// A tiny model taken through quantize, export and build once for all tests of this file.
class Chain : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    test::make_tiny_checkpoint("llama3", *dir_ / "model");
    write_bytes(*dir_ / "text.txt", calibration_text());
    must({"kv8", "quantize", "llm", "--model_dir", path("model"), "--output_dir", path("quantized"),
          "--kv_cache_quantization", "fp8", "--dataset", path("text.txt"), "--num_samples", "2"});
    must({"kv8", "export", path("quantized"), path("onnx")});
    must({"llm_build", "--onnxDir", path("onnx/llm"), "--engineDir", path("engine"),
          "--maxInputLen", "128", "--maxKVCacheCapacity", "192", "--maxBatchSize", "2"});
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }

  static std::string path(std::string_view name) { return (*dir_ / name).string(); }
  static Outcome run(std::vector<std::string> words) {
    const std::string program = words.front();
    words.erase(words.begin());
    return run_program(program, words);
  }
  static void must(const std::vector<std::string>& words) {
    const Outcome outcome = run(words);
    ASSERT_EQ(outcome.status, 0) << describe(outcome);
  }
  static Json json(std::string_view name) { return read_json_file(*dir_ / name).value(); }

  static TempDir* dir_;
};
TempDir* Chain::dir_ = nullptr;

TEST_F(Chain, QuantizedCheckpointSaysWhatItIs) {
  const Json quant = json("quantized/hf_quant_config.json");
  EXPECT_EQ(quant["quantization"]["kv_cache_quant_algo"], "FP8");
  EXPECT_TRUE(quant["quantization"]["quant_algo"].is_null());
  const Json calibration = json("quantized/kv_calibration.json");
  EXPECT_THAT(calibration.dump(), HasSubstr("text.txt"));
}

TEST_F(Chain, QuantizingTwiceGivesTheSameBytes) {
  must({"kv8", "quantize", "llm", "--model_dir=" + path("model"), "--output_dir=" + path("again"),
        "--kv_cache_quantization=fp8", "--text_dataset=" + path("text.txt"), "--num_samples=2",
        "--threads=1"});
  for (const auto& entry : fs::directory_iterator(*dir_ / "quantized")) {
    EXPECT_EQ(read_bytes(entry.path()),
              read_bytes(*dir_ / "again" / entry.path().filename().string()))
        << entry.path();
  }
}

TEST_F(Chain, EngineFromCheckpointIsTheEngineFromOnnx) {
  must({"kv8", "build", "--checkpointDir", path("quantized"), "--engineDir", path("direct"),
        "--maxInputLen", "128", "--maxKVCacheCapacity", "192", "--maxBatchSize", "2"});
  EXPECT_EQ(read_bytes(*dir_ / "engine/llm.engine"), read_bytes(*dir_ / "direct/llm.engine"));
  EXPECT_EQ(json("engine/config.json")["kv_cache_dtype"], "fp8");
  EXPECT_EQ(json("engine/config.json")["builder_config"]["max_input_len"], 128);
}

TEST_F(Chain, AnswersAFileAndOneBadRequestLeavesTheOthers) {
  write_bytes(*dir_ / "in.json",
              R"({"top_k": 1, "max_generate_length": 8, "unheard_of": 1, "requests": [
      {"messages": [{"role": "user", "content": "one"}]},
      {"messages": [{"role": "wizard", "content": "two"}]},
      {"messages": [{"role": "user", "content": ")" +
                  std::string(500, 'x') + R"("}]},
      {"messages": [{"role": "user", "content": "four"}], "num_logprobs": 2}]})");
  const Outcome outcome = run({"llm_inference", "--engineDir", path("engine"), "--inputFile",
                               path("in.json"), "--outputFile", path("out.json"), "--dumpProfile",
                               "--profileOutputFile", path("profile.json")});
  EXPECT_EQ(outcome.status, 1) << describe(outcome);
  EXPECT_THAT(outcome.err, HasSubstr("unheard_of"));
  EXPECT_THAT(outcome.err, HasSubstr("2 of 4 requests failed"));
  const Json responses = json("out.json")["responses"];
  ASSERT_EQ(responses.size(), 4u);
  EXPECT_EQ(responses[0]["finish_reason"], "max-length");
  EXPECT_EQ(responses[1]["finish_reason"], "error");
  EXPECT_THAT(responses[1]["error"]["message"].get<std::string>(), HasSubstr("wizard"));
  EXPECT_EQ(responses[2]["finish_reason"], "error");
  EXPECT_THAT(responses[2]["error"]["message"].get<std::string>(), HasSubstr("128"));
  EXPECT_EQ(responses[3]["logprobs"].size(), 8u);
  EXPECT_EQ(responses[3]["logprobs"][0]["top_logprobs"].size(), 2u);
  EXPECT_THAT(json("profile.json").dump(), HasSubstr("prefill"));
}

TEST_F(Chain, AnswersLinesOfStandardInput) {
  const std::string input =
      R"({"id": "x", "messages": [{"role": "user", "content": "one"}], "top_k": 1})"
      "\n"
      R"({"id": "y", "messages": []})"
      "\n";
  const Outcome outcome =
      run_program("llm_inference",
                  {"--engineDir", path("engine"), "--stdin", "--maxGenerateLength", "5",
                   "--batchSize", "2", "--dumpProfile", "--profileOutputFile", path("p.json")},
                  {}, input);
  EXPECT_EQ(outcome.status, 1) << describe(outcome);
  EXPECT_THAT(outcome.err, HasSubstr("1 of 2 requests failed"));
  EXPECT_THAT(outcome.err, HasSubstr("KV cache: "));
  EXPECT_THAT(outcome.err, HasSubstr("generation"));
  const std::size_t newline = outcome.out.find('\n');
  ASSERT_EQ(std::ranges::count(outcome.out, '\n'), 2);
  const Json failed = parse_json(outcome.out.substr(0, newline), "line").value();
  const Json good = parse_json(outcome.out.substr(newline + 1), "line").value();
  EXPECT_EQ(failed["id"], "y");
  EXPECT_EQ(failed["error"]["code"], "bad-input");
  EXPECT_EQ(good["id"], "x");
  EXPECT_EQ(good["finish_reason"], "max-length");
  EXPECT_EQ(json("p.json")["generation"]["total_generated_tokens"], 5);
}

TEST_F(Chain, RunStreamsAnAnswer) {
  const Outcome outcome = run({"kv8", "run", "--engineDir", path("engine"), "--prompt", "hello",
                               "--maxGenerateLength", "8", "--temperature", "0"});
  EXPECT_EQ(outcome.status, 0) << describe(outcome);
  EXPECT_FALSE(outcome.out.empty());
}

TEST_F(Chain, EvalComparesTheCaches) {
  const Outcome outcome = run({"kv8", "eval", path("quantized"), "--text", path("text.txt"),
                               "--window", "64", "--json", path("eval.json")});
  ASSERT_EQ(outcome.status, 0) << describe(outcome);
  const Json eval = json("eval.json");
  EXPECT_EQ(eval["kv_bytes_per_token_fp16"].get<int>(),
            2 * eval["kv_bytes_per_token_fp8"].get<int>());
  EXPECT_GT(eval["mean_kl"].get<double>(), 0.0);
}

TEST_F(Chain, BenchMeasuresBothCaches) {
  const Outcome outcome =
      run({"kv8", "bench", "model", "--backend", "cpu", "--checkpointDir", path("quantized"),
           "--promptTokens", "32", "--batch", "1,2", "--context", "36", "--decodeTokens", "4",
           "--repeats", "1", "--json", "-"});
  ASSERT_EQ(outcome.status, 0) << describe(outcome);
  const Json bench = parse_json(outcome.out, "bench").value();
  EXPECT_THAT(bench["command"].get<std::string>(), HasSubstr("kv8 bench model --backend cpu"));
  ASSERT_EQ(bench["rows"].size(), 6u);
  EXPECT_EQ(bench["rows"][0]["phase"], "prefill");
  const Json& row = bench["rows"][5];
  EXPECT_EQ(row["geometry"], "quantized");
  EXPECT_EQ(row["phase"], "decode");
  EXPECT_EQ(row["batch"], 2);
  EXPECT_EQ(row["context"], 36);
  EXPECT_EQ(row["weight_dtype"], "fp16");
  EXPECT_EQ(row["kv_dtype"], "fp8");
  for (const char* key : {"ms", "ms_p10", "ms_p90", "tokens_per_s", "roofline_fraction"}) {
    EXPECT_GT(row[key].get<double>(), 0.0) << key;
  }
}

TEST_F(Chain, DebugCompareTellsWhetherRunsAgree) {
  std::vector<std::string> words = {"kv8",          "debug",           "compare",
                                    "--checkpoint", path("quantized"), "--backendB",
                                    "cpu",          "--prefillB",      "5"};
  const Outcome same = run(words);
  EXPECT_EQ(same.status, 0) << describe(same);
  EXPECT_THAT(same.out, HasSubstr("all within 0.01"));
  for (const char* word : {"--kvB", "fp8", "--qDtypeB", "fp16", "--tolerance", "1e-3"}) {
    words.push_back(word);
  }
  const Outcome other = run(words);
  EXPECT_EQ(other.status, 1) << describe(other);
  EXPECT_THAT(other.err, HasSubstr("attention of layer 0` is the first that differs"));
  EXPECT_THAT(other.out, HasSubstr("<--"));
}

TEST_F(Chain, BenchRefusesWhatCannotBeMeant) {
  const auto bench = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"kv8", "bench", "model"});
    return run(arguments);
  };
  const Outcome neither = bench({});
  EXPECT_EQ(neither.status, 2);
  EXPECT_THAT(neither.err, HasSubstr("--checkpointDir or --geometry"));
  const Outcome lists = bench({"--geometry", "qwen3-8b", "--batch", "1,2", "--context", "1,2,3"});
  EXPECT_EQ(lists.status, 2);
  EXPECT_THAT(lists.err, HasSubstr("--batch has 2 values and --context 3"));
}

TEST_F(Chain, MalformedRequestFileNamesLineAndColumn) {
  write_bytes(*dir_ / "bad.json", "{\n \"requests\": [}\n");
  const Outcome outcome = run({"llm_inference", "--engineDir", path("engine"), "--inputFile",
                               path("bad.json"), "--outputFile", path("never.json")});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, HasSubstr("line 2, column 15"));
  EXPECT_FALSE(fs::exists(*dir_ / "never.json"));
}

TEST_F(Chain, DamagedAndForeignEnginesAreRefused) {
  fs::copy(*dir_ / "engine", *dir_ / "damaged");
  std::string bytes = read_bytes(*dir_ / "engine/llm.engine");
  for (const auto& [what, damaged] :
       {std::pair<std::string, std::string>{"truncated", bytes.substr(0, bytes.size() / 2)},
        {"other magic", "NOTANENG" + bytes.substr(8)},
        {"other version", bytes.substr(0, 8) + '\x63' + bytes.substr(9)},
        {"empty", ""}}) {
    fs::remove(*dir_ / "damaged/llm.engine");
    write_bytes(*dir_ / "damaged/llm.engine", damaged);
    const Outcome outcome = run({"kv8", "run", "--engineDir", path("damaged"), "--prompt", "x"});
    EXPECT_EQ(outcome.status, 1) << what << "\n" << describe(outcome);
    EXPECT_THAT(outcome.err, HasSubstr("llm.engine")) << what;
  }
}

TEST_F(Chain, ScalesThatAreMissingAreAnErrorNamingTheTensor) {
  fs::copy(*dir_ / "model", *dir_ / "scaleless");
  fs::copy(*dir_ / "quantized/hf_quant_config.json", *dir_ / "scaleless/hf_quant_config.json");
  const Outcome outcome = run({"kv8", "export", path("scaleless"), path("scaleless-onnx")});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, HasSubstr("model.layers.0.self_attn.k_proj.k_scale"));
  EXPECT_FALSE(fs::exists(*dir_ / "scaleless-onnx/llm"));
}

TEST_F(Chain, InterruptLeavesNothingBehind) {
  std::string text;
  while (text.size() < 4000000) text += calibration_text();
  write_bytes(*dir_ / "long.txt", text);
  const Outcome outcome = run_program(
      "kv8",
      {"quantize", "llm", "--model_dir", path("model"), "--output_dir", path("interrupted"),
       "--kv_cache_quantization", "fp8", "--dataset", path("long.txt"), "--num_samples", "100000"},
      std::chrono::milliseconds(700));
  EXPECT_EQ(outcome.status, 1) << describe(outcome);
  EXPECT_THAT(outcome.err, HasSubstr("interrupted"));
  for (const auto& entry : fs::directory_iterator(dir_->path())) {
    EXPECT_THAT(entry.path().filename().string(),
                ::testing::Not(::testing::StartsWith("interrupted")));
  }
}

TEST_F(Chain, UnwritableOutputIsAnError) {
  const Outcome outcome = run({"kv8", "export", path("quantized"), "/proc/nowhere"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, HasSubstr("/proc/nowhere"));
}

struct Misuse {
  std::vector<std::string> words;
  std::string says;
};
void PrintTo(const Misuse& misuse, std::ostream* out) {
  for (const std::string& word : misuse.words) *out << word << ' ';
}
class Usage : public ::testing::TestWithParam<Misuse> {};

TEST_P(Usage, IsExitStatusTwo) {
  std::vector<std::string> words = GetParam().words;
  const std::string program = words.front();
  words.erase(words.begin());
  const Outcome outcome = run_program(program, words);
  EXPECT_EQ(outcome.status, 2) << describe(outcome);
  EXPECT_THAT(outcome.out + outcome.err, HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    Programs, Usage,
    ::testing::Values(
        Misuse{{"kv8"}, "subcommand"}, Misuse{{"kv8", "fly"}, "subcommand"},
        Misuse{{"kv8", "quantize", "draft", "--draft_model_dir", "x"}, "EAGLE"},
        Misuse{{"kv8", "quantize", "llm", "--model_dir", "m", "--output_dir", "o", "--quantization",
                "nvfp4"},
               "not supported by this version"},
        Misuse{{"kv8", "quantize", "llm", "--model_dir", "m", "--output_dir", "o",
                "--kv_cache_quantization", "fp7"},
               "fp7"},
        Misuse{{"kv8", "export", "a", "b", "--eagle-base"}, "EAGLE"},
        Misuse{{"llm_build", "--onnxDir", "a", "--engineDir", "b", "--specBase"}, "EAGLE"},
        Misuse{{"llm_build", "--onnxDir", "a", "--engineDir", "b", "--maxVerifyTreeSize", "60"},
               "EAGLE"},
        Misuse{{"llm_build", "--onnxDir", "a", "--checkpointDir", "c", "--engineDir", "b"},
               "--onnxDir"},
        Misuse{{"llm_build", "--onnxDir", "a", "--engineDir", "b", "--maxBatchSize", "0"},
               "maxBatchSize"},
        Misuse{{"llm_build", "--onnxDir", "a", "--engineDir", "b", "--backend", "tpu"}, "tpu"},
        Misuse{{"llm_inference", "--engineDir", "a", "--inputFile", "b"}, "outputFile"},
        Misuse{{"llm_inference", "--engineDir", "a", "--inputFile", "b", "--outputFile", "c",
                "--specDecode"},
               "EAGLE"},
        Misuse{{"llm_inference", "--engineDir", "a", "--stdin", "--inputFile", "b"}, "--stdin"},
        Misuse{{"kv8", "run", "--engineDir", "a"}, "--prompt"},
        Misuse{{"kv8", "run", "--engineDir", "a", "--prompt", "x", "--inputFile", "y"},
               "--prompt"}));

TEST(Programs, HelpAndVersion) {
  for (const char* program : {"kv8", "llm_build", "llm_inference"}) {
    EXPECT_EQ(run_program(program, {"--help"}).status, 0);
    EXPECT_EQ(run_program(program, {"--version"}).out, std::string("0.1.0\n"));
  }
}

TEST(Programs, MissingInputsNameTheFile) {
  const TempDir dir;
  const std::string out = (dir / "out").string();
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"import", "gguf", "/nonexistent.gguf", out},
           {"quantize", "llm", "--model_dir", "/nonexistent", "--output_dir", out},
           {"export", "/nonexistent", out},
           {"build", "--onnxDir", "/nonexistent", "--engineDir", out},
           {"run", "--engineDir", "/nonexistent", "--prompt", "x"},
           {"eval", "/nonexistent"}}) {
    const Outcome outcome = run_program("kv8", words);
    EXPECT_EQ(outcome.status, 1) << words.front() << describe(outcome);
    EXPECT_THAT(outcome.err, HasSubstr("/nonexistent")) << words.front();
    EXPECT_FALSE(fs::exists(out)) << words.front();
  }
}

}  // namespace
}  // namespace kv8
