// Fairness, starvation, preemption and reuse, simulated on a backend without mathematics.
#include "runtime/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "runtime/fake_backend.h"

namespace kv8::runtime {
namespace {

using testing::HasSubstr;

std::vector<std::int32_t> prompt_of(std::int32_t length, std::int32_t first) {
  std::vector<std::int32_t> prompt;
  for (std::int32_t i = 0; i < length; ++i) prompt.push_back((first + i * i) % FakeBackend::kVocab);
  return prompt;
}

class Simulation;

/// A request, and what became of it.
struct Client : TokenSink {
  bool on_token(const SampledToken& token) override;
  void on_end(const Ending& ending) override {
    EXPECT_FALSE(ended) << "request " << id << " ended twice";
    ended = true;
    reason = ending.reason;
    if (ending.error != nullptr) error = *ending.error;
  }

  Simulation* simulation = nullptr;
  Scheduler::Id id = -1;
  std::vector<std::int32_t> prompt, output;
  std::int64_t max_new = 0, stop_after = -1, cancel_other_after = -1;
  std::int64_t first_step = -1, last_step = -1;  // of its tokens
  bool ended = false;
  FinishReason reason = FinishReason::kNotFinished;
  std::optional<Error> error;
};

class Simulation {
 public:
  Simulation(std::int32_t pages, std::int32_t max_running, std::int32_t chunk,
             std::int64_t max_sequence_tokens = 1 << 20, std::int64_t runway = kPageTokens)
      : backend(pages, chunk + max_running),
        scheduler(backend, {max_running, chunk, max_sequence_tokens, {}, runway}, profile) {
    backend.on_run = [this](const Batch& batch) {
      rows.push_back(std::ssize(batch.token_ids));
      slices.push_back(std::ssize(batch.sequences));
      return Status();
    };
  }

  Client& add(std::vector<std::int32_t> prompt, std::int64_t max_new, std::int32_t keep = 0) {
    Client& client = *clients.emplace_back(std::make_unique<Client>());
    client.simulation = this;
    client.prompt = prompt;
    client.max_new = max_new;
    TokenRequest request;
    request.prompt = std::move(prompt);
    request.max_new_tokens = max_new;
    request.keep_tokens = keep;
    client.id = scheduler.submit(std::move(request), client).value();
    return client;
  }

  /// One step, and what must hold after each.
  bool step() {
    ++steps;
    const bool did = scheduler.step();
    const exec::KvPool& pool = scheduler.pool();
    EXPECT_LE(scheduler.num_running(), 4096u);
    EXPECT_GE(pool.num_available(), 0);
    return did;
  }
  void run() {
    while (step()) ASSERT_LT(steps, 10'000'000) << "it does not end";
  }
  void expect_answered() const {
    for (const auto& client : clients) {
      ASSERT_TRUE(client->ended) << client->id;
      EXPECT_EQ(
          client->output,
          FakeBackend::answer(client->prompt, static_cast<std::int64_t>(client->output.size())))
          << client->id;
      if (client->reason == FinishReason::kMaxLength) {
        EXPECT_EQ(std::ssize(client->output), client->max_new) << client->id;
      }
    }
  }
  void expect_all_pages_free() {
    EXPECT_TRUE(scheduler.idle());
    scheduler.drop_prefixes();
    EXPECT_EQ(scheduler.pool().num_free(), scheduler.pool().num_pages());
  }

  FakeBackend backend;
  Profile profile;
  Scheduler scheduler;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<std::int64_t> rows, slices;  // of each step
  std::int64_t steps = 0;
};

bool Client::on_token(const SampledToken& token) {
  output.push_back(token.chosen.id);
  if (first_step < 0) first_step = simulation->steps;
  last_step = simulation->steps;
  if (std::ssize(output) == cancel_other_after) simulation->scheduler.cancel(id + 1);
  return std::ssize(output) != stop_after;
}

TEST(Scheduler, AnswersOneRequest) {
  Simulation simulation(4, 1, 256);
  const Client& client = simulation.add(prompt_of(70, 3), 10);
  simulation.run();
  simulation.expect_answered();
  EXPECT_EQ(client.reason, FinishReason::kMaxLength);
  EXPECT_EQ(simulation.rows, (std::vector<std::int64_t>{70, 1, 1, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(simulation.profile.generated_tokens, 10);
  EXPECT_EQ(simulation.profile.decode_tokens, 9);
  EXPECT_FALSE(simulation.step());
}

TEST(Scheduler, EndIdsAreNotPartOfTheAnswer) {
  FakeBackend backend(4, 300);
  Profile profile;
  const std::vector<std::int32_t> prompt = prompt_of(5, 1);
  const std::vector<std::int32_t> answer = FakeBackend::answer(prompt, 4);
  Scheduler scheduler(backend, {1, 64, 1000, {answer[3]}}, profile);
  struct Sink : TokenSink {
    bool on_token(const SampledToken& token) override {
      output.push_back(token.chosen.id);
      return true;
    }
    void on_end(const Ending& ending) override { reason = ending.reason; }
    std::vector<std::int32_t> output;
    FinishReason reason = FinishReason::kError;
  } sink;
  TokenRequest request;
  request.prompt = prompt;
  scheduler.submit(request, sink).value();
  while (scheduler.step()) {
  }
  EXPECT_EQ(sink.reason, FinishReason::kEndOfSequence);
  EXPECT_EQ(sink.output, (std::vector<std::int32_t>(answer.begin(), answer.begin() + 3)));
}

TEST(Scheduler, RefusesWhatCanNeverFitWithTheNumbers) {
  Simulation simulation(3, 2, 64, 1000);
  Client sink;
  TokenRequest request;
  request.prompt = prompt_of(193, 1);
  const auto refused = simulation.scheduler.submit(request, sink);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kCapacity);
  EXPECT_THAT(refused.error().message, HasSubstr("193 tokens"));
  EXPECT_THAT(refused.error().message, HasSubstr("holds 192"));
  // What just fits is answered to the last place: its last token needs none.
  const Client& all = simulation.add(prompt_of(192, 1), 50);
  simulation.run();
  EXPECT_EQ(all.output.size(), 1u);
  EXPECT_EQ(all.reason, FinishReason::kMaxLength);
}

TEST(Scheduler, ALongPromptDoesNotHoldUpDecoding) {
  Simulation simulation(200, 8, 64);
  for (int i = 0; i < 7; ++i) simulation.add(prompt_of(3, i), 100);
  simulation.step();
  Client& long_prompt = simulation.add(prompt_of(5000, 9), 3);
  const std::int64_t start = simulation.steps;
  simulation.run();
  simulation.expect_answered();
  // Each of the seven got a token in each step; the prompt had its chunk in each.
  for (std::size_t i = 0; i < 7; ++i) EXPECT_EQ(simulation.clients[i]->last_step, 100);
  EXPECT_EQ(long_prompt.first_step, start + (5000 + 63) / 64);
  EXPECT_GT(simulation.profile.mixed.count(), 70);
}

TEST(Scheduler, PromptsShareAChunkAndEndItWithAPage) {
  Simulation simulation(64, 8, 256);
  simulation.add(prompt_of(100, 1), 1);
  simulation.add(prompt_of(300, 2), 1);
  simulation.add(prompt_of(20, 3), 1);
  simulation.run();
  simulation.expect_answered();
  // The second has two pages of what the first leaves, and the third fits what then is left.
  EXPECT_EQ(simulation.rows, (std::vector<std::int64_t>{100 + 128 + 20, 172}));
}

TEST(Scheduler, NobodyIsOvertakenByWhoCameLater) {
  // One large request among many small ones, in a pool that holds little more than the large one.
  Simulation simulation(12, 6, 64);
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    const bool large = i % 20 == 7;
    simulation.add(prompt_of(large ? 600 : 5 + static_cast<int>(random() % 100), i),
                   large ? 100 : 30);
  }
  simulation.run();
  simulation.expect_answered();
  for (std::size_t i = 1; i < simulation.clients.size(); ++i) {
    EXPECT_GE(simulation.clients[i]->first_step, simulation.clients[i - 1]->first_step) << i;
  }
  simulation.expect_all_pages_free();
}

TEST(Scheduler, TheFirstAlwaysMovesOnThroughAPreemptionStorm) {
  // Ten requests whose answers together need many times the pool.
  Simulation simulation(16, 10, 64);
  for (int i = 0; i < 40; ++i) simulation.add(prompt_of(40 + i, i), 400 + 10 * (i % 7));
  std::size_t first = 0;
  std::size_t known = 0;
  int idle_steps = 0;
  while (simulation.step()) {
    while (first < simulation.clients.size() && simulation.clients[first]->ended)
      ++first, known = 0;
    if (first == simulation.clients.size()) continue;
    const std::size_t now = simulation.clients[first]->output.size();
    idle_steps = now > known ? 0 : idle_steps + 1;
    known = now;
    // Computing it anew takes (40 + 39 + 460) / 64 steps at most.
    ASSERT_LT(idle_steps, 11) << first;
  }
  simulation.expect_answered();
  EXPECT_GT(simulation.profile.preemptions, 0);
  // At most one preemption for each 64 tokens that were generated.
  EXPECT_LE(simulation.profile.preemptions, simulation.profile.generated_tokens / kPageTokens);
  simulation.expect_all_pages_free();
}

TEST(Scheduler, OptimismFillsThePoolWhereReservationWouldNot) {
  // Answers may be 2000 tokens long and are 20: 32 pages reserved would let one in at a time.
  Simulation simulation(40, 16, 256, 4000);
  for (int i = 0; i < 16; ++i) {
    simulation.add(prompt_of(30, i), 2000).stop_after = 20;
  }
  simulation.run();
  simulation.expect_answered();
  EXPECT_EQ(*std::ranges::max_element(simulation.slices), 16);
  EXPECT_EQ(simulation.profile.preemptions, 0);
  for (const auto& client : simulation.clients) EXPECT_EQ(client->reason, FinishReason::kStopWords);
}

/// What docs/scheduling.md compares: 300 requests through a pool of 32,000 tokens.
struct Load {
  const char* name;
  int prompt_min, prompt_max, answer_min, answer_max;
};
void PrintTo(const Load& load, std::ostream* out) { *out << load.name; }

struct Served {
  double mean_running = 0;
  std::int64_t steps = 0, preemptions = 0, prompt_tokens = 0;
};

Served serve_load(const Load& load, std::int64_t runway) {
  constexpr std::int64_t kLongestAnswer = 2048;
  Simulation simulation(500, 256, 2048, 1 << 20, runway);
  std::mt19937 random(1);
  const auto between = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  for (int i = 0; i < 300; ++i) {
    const int length = between(load.prompt_min, load.prompt_max);
    simulation.add(prompt_of(length, 7 * i), kLongestAnswer).stop_after =
        between(load.answer_min, load.answer_max);
  }
  std::int64_t running = 0;
  while (simulation.step())
    running += std::ssize(simulation.slices) > 0 ? simulation.slices.back() : 0;
  simulation.expect_answered();
  simulation.expect_all_pages_free();
  const Profile& profile = simulation.profile;
  const auto steps = std::ssize(simulation.slices);
  return {static_cast<double>(running) / static_cast<double>(steps), steps, profile.preemptions,
          profile.prefill_tokens + profile.mixed_prefill_tokens};
}

class Admission : public testing::TestWithParam<Load> {};

TEST_P(Admission, OptimismServesMoreAtOnceThanReservation) {
  const Served optimistic = serve_load(GetParam(), kPageTokens);
  const Served reserved = serve_load(GetParam(), 2048);
  for (const auto& [name, served] : {std::pair("optimistic", optimistic), {"reserved", reserved}}) {
    RecordProperty(std::string(name) + "_running", fmt::format("{:.1f}", served.mean_running));
    RecordProperty(std::string(name) + "_steps", std::to_string(served.steps));
    RecordProperty(std::string(name) + "_preemptions", std::to_string(served.preemptions));
    RecordProperty(std::string(name) + "_prompt_tokens", std::to_string(served.prompt_tokens));
  }
  EXPECT_EQ(reserved.preemptions, 0);
  EXPECT_GT(optimistic.mean_running, reserved.mean_running);
  EXPECT_LT(optimistic.steps, reserved.steps);
}

INSTANTIATE_TEST_SUITE_P(Loads, Admission,
                         testing::Values(Load{"long_prompts", 7000, 9000, 50, 400},
                                         Load{"short_answers", 500, 1500, 50, 400},
                                         Load{"long_answers", 50, 150, 1000, 2000},
                                         Load{"longest_answers", 500, 1500, 2048, 2048}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Scheduler, RepeatedPromptsAreNotComputedAgain) {
  Simulation simulation(40, 4, 256);
  simulation.add(prompt_of(500, 1), 2);
  simulation.run();
  EXPECT_EQ(simulation.profile.reused_tokens, 0);
  simulation.rows.clear();
  simulation.add(prompt_of(500, 1), 2);
  simulation.run();
  EXPECT_EQ(simulation.profile.reused_tokens, 448);
  EXPECT_EQ(simulation.rows, (std::vector<std::int64_t>{52, 1}));
  // The next turn of a conversation: the prompt and the answer before, and more.
  auto turn = prompt_of(500, 1);
  for (const std::int32_t token : FakeBackend::answer(turn, 200)) turn.push_back(token);
  simulation.add(prompt_of(500, 1), 200);
  simulation.run();
  const std::int64_t before = simulation.profile.reused_tokens;
  turn.push_back(77);
  simulation.add(turn, 5);
  simulation.run();
  EXPECT_EQ(simulation.profile.reused_tokens - before, 640);  // 699 tokens were in the cache
  simulation.expect_answered();
}

TEST(Scheduler, ThoseWhoComeTogetherComputeACommonPrefixOnce) {
  Simulation simulation(100, 16, 256);
  for (int i = 0; i < 16; ++i) {
    auto prompt = prompt_of(320, 5);
    prompt.push_back(i);
    simulation.add(prompt, 3);
  }
  simulation.run();
  simulation.expect_answered();
  EXPECT_EQ(simulation.profile.reused_tokens, 15 * 320);
}

TEST(Scheduler, KeptPrefixesOutliveOthersAndMakeWayWhenTheyMust) {
  Simulation simulation(10, 2, 64);
  auto with_system = prompt_of(200, 5);
  simulation.add(with_system, 2, 150);
  simulation.run();
  for (int i = 0; i < 20; ++i) simulation.add(prompt_of(250, 10 + i), 20);
  simulation.run();
  EXPECT_EQ(simulation.profile.reused_tokens, 0);
  simulation.add(with_system, 2);
  simulation.run();
  EXPECT_EQ(simulation.profile.reused_tokens, 128);
  // A request that needs all pages gets them.
  const Client& all = simulation.add(prompt_of(600, 99), 41);
  simulation.run();
  EXPECT_EQ(all.output.size(), 41u);
  simulation.add(with_system, 2);
  simulation.run();
  EXPECT_EQ(simulation.profile.reused_tokens, 128);
  simulation.expect_answered();
  simulation.expect_all_pages_free();
}

TEST(Scheduler, KeptPrefixesHaveAtMostHalfOfThePool) {
  Simulation simulation(20, 2, 64);
  for (int i = 0; i < 9; ++i) simulation.add(prompt_of(130, i), 2, 128);
  simulation.run();
  simulation.scheduler.drop_prefixes();
  for (int i = 0; i < 9; ++i) simulation.add(prompt_of(130, i), 2, 128);
  simulation.run();
  for (int i = 0; i < 10; ++i) simulation.add(prompt_of(600, 20 + i), 2);
  simulation.run();
  const std::int64_t before = simulation.profile.reused_tokens;
  for (int i = 8; i >= 0; --i) simulation.add(prompt_of(130, i), 1);
  simulation.run();
  EXPECT_EQ(simulation.profile.reused_tokens - before, 5 * 128);
  simulation.expect_answered();
}

TEST(Scheduler, AFailedStepFailsItsRequestsAlone) {
  Simulation simulation(20, 2, 64);
  simulation.add(prompt_of(10, 1), 5);
  simulation.add(prompt_of(10, 2), 5);
  Client& later = simulation.add(prompt_of(10, 3), 5);
  simulation.backend.on_run = [&](const Batch&) {
    return simulation.steps == 3 ? Status(io_error("the card fell out")) : Status();
  };
  simulation.run();
  EXPECT_EQ(simulation.clients[0]->reason, FinishReason::kError);
  EXPECT_THAT(simulation.clients[1]->error->message, HasSubstr("fell out"));
  EXPECT_EQ(simulation.clients[0]->output.size(), 2u);
  EXPECT_EQ(later.reason, FinishReason::kMaxLength);
  simulation.expect_answered();
  simulation.expect_all_pages_free();
}

TEST(Scheduler, CancelEndsWaitingAndRunningRequests) {
  Simulation simulation(20, 2, 64);
  for (int i = 0; i < 5; ++i) simulation.add(prompt_of(10, i), 100);
  simulation.clients[0]->cancel_other_after = 7;  // cancels the second, in the middle of a step
  for (int i = 0; i < 10; ++i) simulation.step();
  EXPECT_EQ(simulation.clients[1]->reason, FinishReason::kCancelled);
  EXPECT_EQ(simulation.clients[1]->output.size(), 7u);
  simulation.scheduler.cancel(4);
  simulation.scheduler.cancel(1);
  simulation.scheduler.cancel(1000);
  simulation.step();
  EXPECT_TRUE(simulation.clients[4]->ended);
  EXPECT_EQ(simulation.clients[4]->reason, FinishReason::kNotFinished);
  simulation.scheduler.cancel_all();
  EXPECT_FALSE(simulation.step());
  for (const auto& client : simulation.clients) EXPECT_TRUE(client->ended);
  simulation.expect_answered();
  simulation.expect_all_pages_free();
}

/// Random traffic in pools of random size.
void play(unsigned seed, int requests) {
  std::mt19937 random(seed);
  const auto roll = [&](int sides) {
    return static_cast<int>(random() % static_cast<unsigned>(sides));
  };
  const std::int32_t pages = 4 + roll(30), running = 1 + roll(12);
  const std::int32_t chunk = roll(3) == 0 ? 1 + roll(60) : 64 + roll(300);
  Simulation simulation(pages, running, chunk, 64 + roll(pages * 64));
  const std::int64_t most = simulation.scheduler.max_sequence_tokens();
  int left = requests;
  while (left > 0 || !simulation.scheduler.idle()) {
    for (int i = roll(4); i > 0 && left > 0; --i, --left) {
      // Few beginnings, many ends.
      auto prompt = prompt_of(1 + roll(static_cast<int>(most)), roll(3));
      if (roll(2) == 0) prompt.back() = roll(FakeBackend::kVocab);
      Client& client =
          simulation.add(prompt, 1 + roll(roll(4) == 0 ? 300 : 20), roll(5) == 0 ? roll(200) : 0);
      client.max_new = std::min(client.max_new, most - std::ssize(prompt) + 1);
      if (roll(6) == 0) client.stop_after = 1 + roll(30);
      if (roll(9) == 0) client.cancel_other_after = 1 + roll(10);
    }
    if (roll(5) == 0) simulation.scheduler.cancel(roll(requests));
    if (roll(500) == 0) simulation.scheduler.drop_prefixes();
    simulation.step();
    if (testing::Test::HasFailure()) return;
  }
  simulation.expect_answered();
  simulation.expect_all_pages_free();
  EXPECT_LE(simulation.profile.preemptions, simulation.profile.generated_tokens / kPageTokens);
}

TEST(Scheduler, RandomTraffic) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    play(seed, 300);
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace kv8::runtime
