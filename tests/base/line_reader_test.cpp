#include "base/line_reader.h"

#include <gtest/gtest.h>

#include "support/pipe_test.h"

namespace kv8 {
namespace {

using Kind = LineReader::Kind;

class Lines : public test::PipeTest {
 protected:
  void expect_line(LineReader& reader, const std::string& text) {
    const LineReader::Line line = reader.next(0).value();
    EXPECT_EQ(line.kind, Kind::kLine);
    EXPECT_EQ(line.text, text);
  }
  static Kind kind_of_next(LineReader& reader) { return reader.next(0).value().kind; }
};

TEST_F(Lines, ComeWholeAndInOrder) {
  LineReader reader(pipe_[0], 100);
  EXPECT_EQ(kind_of_next(reader), Kind::kNothing);
  write("one\n\ntwo\nthr");
  expect_line(reader, "one");
  expect_line(reader, "");
  expect_line(reader, "two");
  EXPECT_EQ(kind_of_next(reader), Kind::kNothing);
  write("ee\nlast");
  expect_line(reader, "three");
  EXPECT_EQ(kind_of_next(reader), Kind::kNothing);
  end();
  expect_line(reader, "last");
  EXPECT_EQ(kind_of_next(reader), Kind::kEnd);
  EXPECT_EQ(kind_of_next(reader), Kind::kEnd);
}

TEST_F(Lines, ThatAreTooLongAreSkipped) {
  LineReader reader(pipe_[0], 10);
  write(std::string(10, 'a') + "\n" + std::string(11, 'b') + "\nc\n" + std::string(500, 'd'));
  expect_line(reader, std::string(10, 'a'));
  EXPECT_EQ(kind_of_next(reader), Kind::kTooLong);
  expect_line(reader, "c");
  EXPECT_EQ(kind_of_next(reader), Kind::kNothing);
  write(std::string(500, 'd'));
  EXPECT_EQ(kind_of_next(reader), Kind::kNothing);
  write("d\ne\n" + std::string(12, 'f'));
  EXPECT_EQ(kind_of_next(reader), Kind::kTooLong);
  expect_line(reader, "e");
  end();
  EXPECT_EQ(kind_of_next(reader), Kind::kTooLong);
  EXPECT_EQ(kind_of_next(reader), Kind::kEnd);
}

TEST_F(Lines, AnEmptyInputEndsAtOnce) {
  LineReader reader(pipe_[0], 10);
  end();
  EXPECT_EQ(kind_of_next(reader), Kind::kEnd);
}

TEST_F(Lines, ABrokenDescriptorIsAnError) {
  LineReader reader(pipe_[1], 10);  // cannot be read
  end();
  EXPECT_FALSE(reader.next(0).ok());
}

}  // namespace
}  // namespace kv8
