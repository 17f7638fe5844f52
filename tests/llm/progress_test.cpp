// The progress line of every long command: there on a terminal, absent from anything else.

#include "../../examples/llm/progress.hpp"

#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine_support.hpp"
#include "run_llm.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

// Stderr is a new terminal while this lives; text() ends it and is what was written to it.
class Terminal {
 public:
  Terminal() : kept_(::dup(STDERR_FILENO)), master_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    if (master_ < 0 || ::grantpt(master_) != 0 || ::unlockpt(master_) != 0) {
      throw std::runtime_error("no pseudo-terminal");
    }
    const int slave = ::open(::ptsname(master_), O_RDWR | O_NOCTTY);
    if (slave < 0) throw std::runtime_error("no pseudo-terminal");
    ::dup2(slave, STDERR_FILENO);
    ::close(slave);
    // Reads until the last writer closes; a terminal's buffer is small.
    reader_ = std::thread([this] {
      char bytes[4096];
      for (ssize_t n = 0; (n = ::read(master_, bytes, sizeof bytes)) > 0;) {
        text_.append(bytes, static_cast<std::size_t>(n));
      }
    });
  }
  ~Terminal() {
    if (reader_.joinable()) text();
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  std::string text() {
    std::fflush(stderr);
    ::dup2(kept_, STDERR_FILENO);
    ::close(kept_);
    reader_.join();
    ::close(master_);
    return text_;
  }

 private:
  int kept_;
  int master_;
  std::string text_;
  std::thread reader_;
};

class ProgressLine : public ::testing::Test {
 protected:
  void SetUp() override { progress_times() = ProgressTimes{0.0, 0.0}; }
  void TearDown() override { progress_times() = ProgressTimes{}; }

  // What the program writes to a terminal on stderr.
  static std::string on_terminal(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "rrs-llm");
    ::testing::internal::CaptureStdout();
    Terminal terminal;
    const int code = run_program(static_cast<int>(arguments.size()), arguments.data());
    const std::string text = terminal.text();
    ::testing::internal::GetCapturedStdout();
    EXPECT_EQ(code, 0) << text;
    return text;
  }
  // And to a file.
  static std::string on_file(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "rrs-llm");
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int code = run_program(static_cast<int>(arguments.size()), arguments.data());
    const std::string text = ::testing::internal::GetCapturedStderr();
    ::testing::internal::GetCapturedStdout();
    EXPECT_EQ(code, 0) << text;
    return text;
  }
};

TEST_F(ProgressLine, EveryLongLoopHasOneOnATerminalAndNoneElsewhere) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  const TempFolder folder;
  const std::string model = write_tiny_gguf(m, folder);
  std::string words;
  for (int i = 0; i < 100; ++i) words += "the hello 123 abc ";
  const std::string text = folder.write("text.txt", words);
  const std::string out = folder.file("out.safetensors");
  std::string more;
  for (int i = 0; i < 30; ++i) more += words;
  const std::string long_text = folder.write("long.txt", more);
  const char *path = model.c_str(), *file = text.c_str(), *long_file = long_text.c_str();
  const std::pair<std::vector<const char*>, std::vector<std::string>> cases[] = {
      {{"inspect", "--model", path, "--text", file, "--context", "32", "--windows", "1"},
       {"inspecting: "}},
      {{"generate", "--model", path, "--prompt", "the hello", "-n", "2"},
       {"preparing rrs: ", "prefill: "}},
      {{"quantize", "--model", path, "--method", "rrs", "--out", out.c_str()},
       {"quantizing rrs: "}},
      // The file that the case before wrote; a text of more than 4096 pieces.
      {{"perplexity", "--model", path, "--text", long_file, "--weights", out.c_str(), "--context",
        "32", "--windows", "1"},
       {"tokenizing: ", "opening "}},
      // One window: the line must move inside it, layer by layer.
      {{"perplexity", "--model", path, "--text", file, "--method", "rrs", "--context", "32",
        "--windows", "1"},
       {"perplexity, fp:  25 %", "perplexity, fp:  50 %", "perplexity, rrs:  75 %"}},
      {{"perplexity", "--model", path, "--text", file, "--method", "rrs+qfem+qfep", "--calibration",
        file, "--context", "32", "--windows", "1"},
       {"spike scores: ", "prefix search: ", "preparing rrs+qfem+qfep: ",
        "preparing, all modules exempt, rrs+qfem+qfep: ", "exempt modules: "}}};
  int shown = 0;
  for (const auto& [arguments, lines] : cases) {
    const std::string seen = on_terminal(arguments);
    for (const std::string& line : lines) {
      EXPECT_NE(seen.find("\r\033[K" + line), std::string::npos) << line << " not in: " << seen;
      ++shown;
    }
    // Erased at the end: nothing of the last line is left.
    EXPECT_NE(seen.rfind("\r\033[K"), std::string::npos);
    const std::string other = on_file(arguments);
    EXPECT_EQ(other.find('\r'), std::string::npos) << other;
    EXPECT_EQ(other.find('\033'), std::string::npos) << other;
    for (const std::string& line : lines) EXPECT_EQ(other.find(line), std::string::npos) << other;
  }
  EXPECT_EQ(shown, 14);
}

TEST_F(ProgressLine, AppearsAfterTheQuietTimeOnly) {
  progress_times().quiet = 3600.0;
  Terminal terminal;
  {
    Progress progress("reading", "tokens");
    progress.update(1.0, 2.0);
  }
  EXPECT_EQ(terminal.text(), "");
  EXPECT_EQ(ProgressTimes{}.quiet, 2.0);
}

}  // namespace
