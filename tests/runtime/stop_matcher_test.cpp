#include "runtime/stop_matcher.h"

#include <gtest/gtest.h>

namespace kv8::runtime {
namespace {

TEST(StopMatcher, FindsAStopAcrossPieces) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.push("a S"), "a ");
  EXPECT_EQ(matcher.push("TO"), "");
  EXPECT_FALSE(matcher.stopped());
  EXPECT_EQ(matcher.push("P b"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.push("more"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, GivesBackWhatTurnedOutHarmless) {
  StopMatcher matcher({"STOP", "\n\nQ:"});
  EXPECT_EQ(matcher.push("STO"), "");
  EXPECT_EQ(matcher.push("RE\n"), "STORE");
  EXPECT_EQ(matcher.push("\n"), "");
  EXPECT_EQ(matcher.push("\nQ"), "\n");
  EXPECT_EQ(matcher.finish(), "\n\nQ");
}

TEST(StopMatcher, OverlappingStarts) {
  StopMatcher matcher({"aab"});
  EXPECT_EQ(matcher.push("aa"), "");
  EXPECT_EQ(matcher.push("a"), "a");
  EXPECT_EQ(matcher.push("b"), "");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcher, TheFirstCompleteStopEndsTheText) {
  StopMatcher matcher({"abcd", "bc"});
  EXPECT_EQ(matcher.push("xab"), "x");
  EXPECT_EQ(matcher.push("c"), "a");
  EXPECT_TRUE(matcher.stopped());

  StopMatcher both({"cd", "bc"});
  EXPECT_EQ(both.push("abcd"), "a");
}

/// Whatever the pieces, shown text and the end agree with a search in the whole text.
TEST(StopMatcher, AgreesWithSearchingTheWholeText) {
  const std::string text = "ababcababdabcabdababcabababababdx";
  for (const std::string stop : {"ababd", "abd", "bab", "dx", "zz", "ababab"}) {
    const std::string expected = text.substr(0, text.find(stop));
    for (std::size_t size = 1; size <= text.size(); ++size) {
      StopMatcher matcher({stop});
      std::string shown;
      for (std::size_t i = 0; i < text.size(); i += size) {
        shown += matcher.push(text.substr(i, size));
        EXPECT_EQ(shown, expected.substr(0, shown.size()));
      }
      shown += matcher.finish();
      EXPECT_EQ(shown, expected) << stop << " in pieces of " << size;
      EXPECT_EQ(matcher.stopped(), expected.size() < text.size());
    }
  }
}

}  // namespace
}  // namespace kv8::runtime
