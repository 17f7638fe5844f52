// `rrs-llm quantize` on a disk that is full, at any byte of any of its files, and killed at any
// moment: the error names file and reason, OUT is complete or absent, and --resume gives the bytes
// of a run without faults.
//
// A full disk is a limit on the size of files (RLIMIT_FSIZE): a write that reaches it comes back
// short, the next one fails. A kill is a timer on the child's own CPU time, so that its moments do
// not depend on how busy the machine is.

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calibrated.hpp"

namespace {

using namespace rrs_llm_test;
namespace fs = std::filesystem;

struct Outcome {
  int status = 0;       // as of waitpid
  std::string message;  // its stderr

  bool failed() const { return WIFEXITED(status) && WEXITSTATUS(status) == 1; }
  bool succeeded() const { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }
  bool killed() const { return WIFSIGNALED(status); }
};

// Runs `action` in a child: prepared by `before`, its stdout dropped, its stderr kept.
template <class Before, class Action>
Outcome in_child(const Before& before, const Action& action) {
  Outcome outcome;
  int ends[2];
  if (::pipe(ends) != 0) return outcome;
  const pid_t child = ::fork();
  if (child == 0) {
    const int nowhere = ::open("/dev/null", O_WRONLY);
    if (::dup2(nowhere, STDOUT_FILENO) < 0 || ::dup2(ends[1], STDERR_FILENO) < 0) ::_exit(3);
    ::close(ends[0]);
    ::close(ends[1]);
    before();
    ::_exit(action());
  }
  ::close(ends[1]);
  char part[512];
  for (ssize_t n; (n = ::read(ends[0], part, sizeof part)) > 0;) {
    outcome.message.append(part, static_cast<std::size_t>(n));
  }
  ::close(ends[0]);
  if (::waitpid(child, &outcome.status, 0) != child) outcome.status = -1;
  return outcome;
}

// No file grows beyond `bytes`.
void limit_files(std::size_t bytes) {
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{bytes, bytes};
  if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(3);
}

std::uint64_t next_random(std::uint64_t* state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 33;
}

struct Faults : ::testing::Test {
  QuantizeProgram p;
  std::string statistics = p.out + ".statistics", linears = p.out + ".linears";
  std::vector<std::string> files;  // what a run without faults leaves, sorted
  std::string expected;            // its OUT

  std::vector<std::string> list() const {
    std::vector<std::string> names = p.c.folder.list();
    std::sort(names.begin(), names.end());
    return names;
  }
  static void write(const std::string& path, const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
  }
  int quantize_quietly(bool resume, const char* method) const {
    ::testing::internal::CaptureStdout();
    const int code = p.quantize(p.text, resume, method);
    ::testing::internal::GetCapturedStdout();
    return code;
  }
  void run_well(const char* method) {
    ASSERT_EQ(quantize_quietly(false, method), 0);
    expected = read_all(p.out);
    files = list();
    fs::remove(p.out);
  }
  Outcome run_limited(const char* method, bool resume, std::size_t bytes) const {
    return in_child([&] { limit_files(bytes); },
                    [&] { return p.quantize(p.text, resume, method); });
  }
  void resume_to_the_same_bytes() {
    ASSERT_EQ(quantize_quietly(true, "rrs-gptq-zigzag"), 0);
    EXPECT_EQ(read_all(p.out), expected);
    EXPECT_EQ(list(), files);  // nothing is left beside it
    fs::remove(p.out);
  }
};

TEST_F(Faults, FullDiskWithoutCalibrationLeavesNothing) {
  ASSERT_NO_FATAL_FAILURE(run_well("rrs"));
  std::uint64_t random = 1;
  int faults = 0;
  for (int i = 0; i < 12; ++i, ++faults) {
    const std::size_t bytes = i == 0 ? 0 : next_random(&random) % expected.size();
    const Outcome o = run_limited("rrs", false, bytes);
    EXPECT_TRUE(o.failed()) << bytes << ": " << o.status;
    expect_in(o.message, {p.out + ": file cannot be written: File too large"});
    EXPECT_EQ(list().size() + 1, files.size()) << bytes;  // all but OUT
  }
  EXPECT_TRUE(run_limited("rrs", false, expected.size()).succeeded());
  EXPECT_EQ(read_all(p.out), expected);
  EXPECT_EQ(list(), files);
  std::printf("faults injected: %d\n", faults);
  EXPECT_EQ(faults, 12);
}

TEST_F(Faults, FullDiskWhileCalibratingKeepsWhatIsFinished) {
  ASSERT_NO_FATAL_FAILURE(run_well("rrs-gptq-zigzag"));
  // The whole file's size: the linears' file cannot be opened, which ends a run behind calibration.
  fs::create_directory(linears);
  EXPECT_EQ(p.quantize(p.text, true), 1);
  fs::remove(linears);
  const std::size_t whole = fs::file_size(statistics);
  fs::remove(statistics);
  std::uint64_t random = 2;
  int faults = 0;
  for (int i = 0; i < 10; ++i, ++faults) {
    const std::size_t bytes = i == 0 ? 0 : i == 1 ? whole - 1 : next_random(&random) % whole;
    const Outcome o = run_limited("rrs-gptq-zigzag", false, bytes);
    EXPECT_TRUE(o.failed()) << bytes << ": " << o.status;
    expect_in(o.message, {statistics + ": cannot be written: File too large", "--resume"});
    EXPECT_FALSE(fs::exists(p.out));
    EXPECT_TRUE(fs::exists(statistics));
    resume_to_the_same_bytes();
  }
  std::printf("faults injected: %d\n", faults);
  EXPECT_EQ(faults, 10);
}

TEST_F(Faults, FullDiskBehindCalibrationKeepsWhatIsFinished) {
  ASSERT_NO_FATAL_FAILURE(run_well("rrs-gptq-zigzag"));
  fs::create_directory(linears);
  EXPECT_EQ(p.quantize(p.text, true), 1);
  fs::remove(linears);
  const std::string saved = read_all(statistics);
  std::uint64_t random = 3;
  int faults = 0, of_linears = 0, of_out = 0;
  // Twelve, and more until both files were the one that did not fit: which one depends on the
  // sizes.
  for (int i = 0; i < 12 || (of_linears < 2 && i < 60); ++i, ++faults) {
    p.c.folder.write("out.safetensors.statistics", saved);
    const std::size_t bytes = i == 0   ? 0
                              : i == 1 ? expected.size() - 1
                                       : next_random(&random) % expected.size();
    const Outcome o = run_limited("rrs-gptq-zigzag", true, bytes);
    EXPECT_TRUE(o.failed()) << bytes << ": " << o.status;
    expect_in(o.message, {p.out, "cannot be written: File too large", "--resume"});
    of_linears += o.message.find(linears + ": ") != std::string::npos ? 1 : 0;
    of_out += o.message.find(p.out + ": file ") != std::string::npos ? 1 : 0;
    EXPECT_FALSE(fs::exists(p.out));
    resume_to_the_same_bytes();
  }
  std::printf("faults injected: %d\n", faults);
  EXPECT_GE(faults, 12);
  EXPECT_EQ(of_linears + of_out, faults);
  EXPECT_GE(of_linears, 2);
  EXPECT_GE(of_out, 1);
}

// What a killed run left is its successor's with --resume. Another command that fails before it
// begins to write there has no right to it.
TEST_F(Faults, AnErrorRemovesOnlyWhatItsOwnRunMade) {
  ASSERT_NO_FATAL_FAILURE(run_well("rrs-gptq-zigzag"));
  const std::string empty = p.c.folder.write("empty.txt", "");
  for (const std::string& path : {statistics, linears}) write(path, "kept");
  int refused = 0;
  for (const auto& [text, method] : {std::pair<std::string, const char*>{empty, "rrs-gptq-zigzag"},
                                     {p.text, "rrs-gptq+aser@rank=4096"},
                                     {p.c.folder.file("absent.txt"), "rrs-gptq"}}) {
    const Outcome o =
        in_child([] {}, [&, t = text, m = method] { return p.quantize(t, false, m); });
    EXPECT_TRUE(o.failed()) << o.message;
    EXPECT_EQ(read_all(statistics), "kept") << o.message;
    EXPECT_EQ(read_all(linears), "kept") << o.message;
    ++refused;
  }
  EXPECT_EQ(refused, 3);
  // It calibrates, then cannot open the file of linears, which is not its own: only the statistics
  // go.
  fs::remove(linears);
  fs::create_directory(linears);
  EXPECT_EQ(p.quantize(p.text, false), 1);
  EXPECT_FALSE(fs::exists(statistics));
  EXPECT_TRUE(fs::exists(linears));
  fs::remove(linears);
}

// Nothing is calibrated for a file that cannot be written.
TEST_F(Faults, RanksThatDoNotFitAreRefusedBeforeCalibration) {
  const Outcome o = in_child(
      [] {}, [&] { return p.quantize(p.text, true, "rrs-gptq+aser@rank=4096@outliers=0"); });
  EXPECT_TRUE(o.failed());
  expect_in(o.message, {"blk.0.attn_q", "low_rank.rank"});
  EXPECT_FALSE(fs::exists(statistics)) << "with --resume it would have been kept";
}

TEST_F(Faults, QuantizeSaysWhatItTook) {
  for (const auto& [method, calibrates] :
       {std::pair<const char*, bool>{"rrs-gptq", true}, {"rrs", false}}) {
    ::testing::internal::CaptureStdout();
    EXPECT_EQ(p.quantize(p.text, false, method), 0);
    const std::string said = ::testing::internal::GetCapturedStdout();
    const std::size_t at = said.find("preparing ");
    ASSERT_NE(at, std::string::npos) << said;
    const char* format =
        calibrates ? "preparing %lf s, 1 thread" : "preparing took %lf s, 1 thread";
    double preparing = -1.0;
    EXPECT_EQ(std::sscanf(said.c_str() + at, format, &preparing), 1) << said;
    EXPECT_GE(preparing, 0.0) << said;
    EXPECT_EQ(said.find("calibrating took ") != std::string::npos, calibrates) << said;
    fs::remove(p.out);
  }
}

TEST_F(Faults, FullDiskOfUnnamedStatisticsNamesTheirFolder) {
  const std::string folder = p.c.folder.path();
  const std::vector<const char*> a{"rrs-llm",
                                   "perplexity",
                                   "--model",
                                   p.c.path.c_str(),
                                   "--text",
                                   p.text.c_str(),
                                   "--method",
                                   "rrs-gptq",
                                   "--context",
                                   "30",
                                   "--windows",
                                   "1",
                                   "--calibration",
                                   p.text.c_str(),
                                   "--calibration-windows",
                                   "3"};
  const std::vector<std::string> before = list();
  int faults = 0;
  for (const std::size_t bytes : {0u, 20u, 40000u}) {
    const Outcome o = in_child(
        [&] {
          limit_files(bytes);
          ::setenv("TMPDIR", folder.c_str(), 1);
        },
        [&] { return rrs_llm::run_program(static_cast<int>(a.size()), a.data()); });
    EXPECT_TRUE(o.failed()) << o.status;
    expect_in(o.message, {"calibration statistics in " + folder, "File too large"});
    EXPECT_EQ(list(), before);
    ++faults;
  }
  std::printf("faults injected: %d\n", faults);
  EXPECT_EQ(faults, 3);
}

double cpu_seconds_of_children() {
  rusage usage{};
  ::getrusage(RUSAGE_CHILDREN, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Ends the process without a word after so much CPU time of its own.
void die_after(double seconds) {
  const auto microseconds = static_cast<long>(seconds * 1e6) + 1;
  const itimerval once{{0, 0}, {microseconds / 1000000, microseconds % 1000000}};
  if (::setitimer(ITIMER_PROF, &once, nullptr) != 0) ::_exit(3);
}

TEST_F(Faults, KilledAtRandomMomentsItResumesToTheSameBytes) {
  constexpr int kMoments = 24;
  ASSERT_NO_FATAL_FAILURE(run_well("rrs-gptq-zigzag"));
  const double before = cpu_seconds_of_children();
  ASSERT_TRUE(in_child([] {}, [&] { return p.quantize(p.text, false); }).succeeded());
  const double whole = cpu_seconds_of_children() - before;
  fs::remove(p.out);
  std::uint64_t random = 4;
  int moments = 0, killed = 0;
  bool resume = false;
  while (moments < kMoments) {
    const double part = static_cast<double>(next_random(&random) % 1000) / 1000.0;
    const Outcome o =
        in_child([&] { die_after(part * whole); }, [&] { return p.quantize(p.text, resume); });
    EXPECT_TRUE(o.killed() || o.succeeded()) << o.message;
    killed += o.killed() ? 1 : 0;
    ++moments;
    // One in three is killed again while it resumes.
    resume = next_random(&random) % 3 == 0 && !fs::exists(p.out);
    if (!resume) resume_to_the_same_bytes();
  }
  if (resume) resume_to_the_same_bytes();
  std::printf("faults injected: %d (%d moments, the others ended before)\n", killed, moments);
  EXPECT_EQ(moments, kMoments);
  EXPECT_GE(killed, kMoments / 4);
}

}  // namespace
