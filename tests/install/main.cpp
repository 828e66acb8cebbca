#include <cstdio>

#include "formats/float_formats.h"
#include "runtime/generate.h"

int main() {
  const auto runner = kv8::runtime::Runner::open("/nonexistent", {});
  std::printf("449 as E4M3 is %g; opening no engine says: %s\n",
              static_cast<double>(kv8::e4m3_to_float(kv8::e4m3_from_float(449.0f))),
              runner.ok() ? "?" : runner.error().message.c_str());
  return runner.ok() ? 1 : 0;
}
