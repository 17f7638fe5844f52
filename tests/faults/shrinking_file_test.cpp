// A packed weight in a file that shrinks: before it is mapped, the error names what is missing;
// while it is mapped, the system ends the process with SIGBUS (weight_file.hpp says why), and does
// not when the file is replaced by renaming.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rrs/pipeline/weight_file.hpp"
#include "rrs/rrs.hpp"
#include "support/layer.hpp"
#include "support/mapped_file.hpp"

namespace {

using rrs_examples::MappedFile;

constexpr std::int64_t kN = 128, kK = 256;  // some pages
const rrs_test::LayerData kLayer = rrs_test::make_layer(3, kN, kK, 1);

// A file of its own, removed at the end.
class TestFile {
 public:
  explicit TestFile(const char* name)
      : path_(testing::TempDir() + "rrs_" + std::to_string(::getpid()) + name) {}
  ~TestFile() { std::remove(path_.c_str()); }
  TestFile(const TestFile&) = delete;
  TestFile& operator=(const TestFile&) = delete;
  const std::string& path() const { return path_; }

  void write(const rrs::PreparedWeight& w) const {
    rrs::AlignedBuffer bytes(rrs::serialized_bytes(w));
    const auto size = static_cast<std::size_t>(bytes.size());
    ASSERT_TRUE(rrs::serialize_weight(w, bytes.data(), size).ok());
    std::ofstream out(path_, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(size));
    ASSERT_TRUE(out.flush().good());
  }

  void shrink(std::size_t size) const {
    ASSERT_EQ(::truncate(path_.c_str(), static_cast<off_t>(size)), 0);
  }

 private:
  std::string path_;
};

rrs::Result<rrs::WeightView> view(const MappedFile& file,
                                  rrs::Checksum checksum = rrs::Checksum::kVerify) {
  return rrs::view_weight(file.data(), file.size(), checksum);
}

std::vector<float> multiply(const rrs::WeightView& w) {
  std::vector<float> y(static_cast<std::size_t>(kLayer.m * kN));
  rrs::Workspace ws(rrs::workspace_bytes(kLayer.m, w));
  EXPECT_TRUE(rrs::linear(kLayer.X(), w, rrs::MatrixView<float>(y.data(), kLayer.m, kN), ws).ok());
  return y;
}

TEST(ShrinkingFile, BeforeItIsMappedTheErrorNamesTheField) {
  const TestFile file("_before");
  file.write(rrs_test::prepare(kLayer, rrs::presets::rrs()));
  const std::size_t whole = MappedFile(file.path()).size();
  ASSERT_TRUE(view(MappedFile(file.path())).ok());
  int faults = 0;
  for (std::size_t size = whole; size > 0;) {
    size = size > 1000 ? size - 997 : size / 2;
    file.shrink(size);
    const MappedFile mapped(file.path());
    for (const rrs::Checksum checksum : {rrs::Checksum::kVerify, rrs::Checksum::kSkip}) {
      const auto w = view(mapped, checksum);
      ASSERT_FALSE(w.ok()) << size << " of " << whole << " bytes";
      EXPECT_NE(w.status().argument[0], 0);
      EXPECT_NE(w.status().rule[0], 0);
      ++faults;
    }
  }
  std::printf("faults injected: %d\n", faults);
  EXPECT_GE(faults, 40);
}

// The signal that ends a child which maps the file, cuts it to a page, and then reads; 0: none.
template <class Read>
int signal_of(const TestFile& file, const Read& read) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGBUS, SIG_DFL);  // the sanitizers have a handler
    const MappedFile mapped(file.path());
    const auto w = view(mapped);
    if (!w.ok() || ::truncate(file.path().c_str(), 4096) != 0) ::_exit(1);
    read(mapped, *w);
    ::_exit(0);
  }
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << status;
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST(ShrinkingFile, WhileItIsMappedTheSystemEndsTheProcess) {
  const rrs::PreparedWeight w = rrs_test::prepare(kLayer, rrs::presets::rrs());
  const TestFile file("_while");
  int faults = 0;
  file.write(w);
  EXPECT_EQ(signal_of(file, [](const MappedFile& m, const auto&) { static_cast<void>(view(m)); }),
            SIGBUS);
  ++faults;
  file.write(w);
  EXPECT_EQ(signal_of(file, [](const MappedFile&, const auto& v) { multiply(v); }), SIGBUS);
  ++faults;
  // What is still there can be read: the header.
  file.write(w);
  EXPECT_EQ(signal_of(file,
                      [](const MappedFile& m, const auto&) {
                        if (!view(m, rrs::Checksum::kSkip).ok()) ::_exit(2);
                      }),
            0);
  ++faults;
  std::printf("faults injected: %d\n", faults);
}

TEST(ShrinkingFile, RenamingANewFileOverItLeavesTheMappingWhole) {
  const rrs::PreparedWeight w = rrs_test::prepare(kLayer, rrs::presets::rrs());
  const TestFile file("_renamed"), shorter("_shorter");
  file.write(w);
  shorter.write(w);
  shorter.shrink(100);
  const MappedFile mapped(file.path());
  const auto before = view(mapped);
  ASSERT_TRUE(before.ok());
  const std::vector<float> y = multiply(*before);
  ASSERT_EQ(std::rename(shorter.path().c_str(), file.path().c_str()), 0);
  ASSERT_EQ(MappedFile(file.path()).size(), 100u);
  ASSERT_TRUE(view(mapped).ok());
  EXPECT_EQ(multiply(*before), y);
  std::printf("faults injected: 1\n");
}

// Opening a pipe that nobody writes to would wait for ever: it is refused as what it is.
TEST(MappedFile, RefusesAPipeAtOnce) {
  const TestFile pipe("_pipe");
  ASSERT_EQ(::mkfifo(pipe.path().c_str(), 0600), 0);
  ::alarm(20);  // its signal ends the program
  std::string message;
  try {
    const MappedFile mapped(pipe.path());
  } catch (const std::runtime_error& e) {
    message = e.what();
  }
  ::alarm(0);
  EXPECT_NE(message.find("is not a regular file"), std::string::npos) << message;
}

}  // namespace
