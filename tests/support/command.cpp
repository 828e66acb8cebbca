#include "support/command.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <stdexcept>
#include <thread>

#include "base/temp_dir.h"

namespace kv8::test {
namespace {

void redirect(const std::filesystem::path& file, int descriptor, int flags) {
  const int fd = ::open(file.c_str(), flags, 0644);
  ::dup2(fd, descriptor);
}

}  // namespace

Outcome run_program(const std::string& program, const std::vector<std::string>& arguments,
                    std::chrono::milliseconds interrupt_after, const std::string& input) {
  const TempDir dir;
  write_bytes(dir / "in", input);
  const std::string path = std::string(KV8_BIN_DIR) + "/" + program;
  std::vector<char*> argv = {const_cast<char*>(path.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    constexpr int kWrite = O_WRONLY | O_CREAT | O_TRUNC;
    redirect(dir / "in", STDIN_FILENO, O_RDONLY);
    redirect(dir / "out", STDOUT_FILENO, kWrite);
    redirect(dir / "err", STDERR_FILENO, kWrite);
    ::execv(path.c_str(), argv.data());
    ::_exit(127);
  }
  if (interrupt_after.count() > 0) {
    std::this_thread::sleep_for(interrupt_after);
    ::kill(child, SIGINT);
  }
  int state = 0;
  ::waitpid(child, &state, 0);
  Outcome outcome;
  outcome.status = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
  outcome.out = read_bytes(dir / "out");
  outcome.err = read_bytes(dir / "err");
  return outcome;
}

}  // namespace kv8::test
