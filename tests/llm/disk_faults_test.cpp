// A file whose write, sync, link or rename the system refuses, each call in turn: the error names
// file and reason, what was there stays as it was, and no temporary remains.
//
// quantize_faults_test.cpp fills disks by a limit on sizes, which only write() meets; here the
// linker wraps the calls of AtomicFile (tests/CMakeLists.txt), so a disk may also be full, or gone,
// when data is synced or a name is given.
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "../../examples/support/atomic_file.hpp"
#include "calibrated.hpp"

namespace {

// Of the calls of that name, the one with the number `after` (from 0) fails, and no other.
struct Fault {
  std::string call;
  int after = 0;
  int error = 0;
  bool fired = false;
};
Fault fault;
bool unnamed_files = true;  // false: as on a file system without O_TMPFILE

bool fails(const char* call) {
  if (fault.call != call || fault.fired || fault.after-- > 0) return false;
  fault.fired = true;
  errno = fault.error;
  return true;
}

}  // namespace

extern "C" {
ssize_t __real_write(int file, const void* data, size_t size);
int __real_fsync(int file);
int __real_linkat(int from_folder, const char* from, int to_folder, const char* to, int flags);
int __real_rename(const char* from, const char* to);
int __real_open(const char* path, int flags, ...);

ssize_t __wrap_write(int file, const void* data, size_t size) {
  return fails("write") ? -1 : __real_write(file, data, size);
}
int __wrap_fsync(int file) { return fails("fsync") ? -1 : __real_fsync(file); }
int __wrap_linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) {
  return fails("linkat") ? -1 : __real_linkat(from_folder, from, to_folder, to, flags);
}
int __wrap_rename(const char* from, const char* to) {
  return fails("rename") ? -1 : __real_rename(from, to);
}
int __wrap_open(const char* path, int flags, ...) {
  if (!unnamed_files && (flags & O_TMPFILE) == O_TMPFILE) {
    errno = EOPNOTSUPP;
    return -1;
  }
  va_list rest;
  va_start(rest, flags);
  const bool creates = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  const unsigned mode = creates ? va_arg(rest, unsigned) : 0;
  va_end(rest);
  return __real_open(path, flags, mode);
}
}

namespace {

using namespace rrs_llm_test;
using rrs_examples::AtomicFile;

constexpr const char* kCalls[] = {"write", "fsync", "linkat", "rename"};
constexpr int kErrors[] = {ENOSPC, EIO, EDQUOT, EROFS};

struct DiskFaults : ::testing::Test {
  ~DiskFaults() override {
    fault = Fault{};
    unnamed_files = true;
  }
};

// The message of writing `path` in three pieces while a call fails; empty: it was written.
std::string write_atomically(const std::string& path) {
  try {
    AtomicFile file(path);
    for (const char* piece : {"new ", "content", "\n"}) file.write(piece, std::strlen(piece));
    file.commit();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return {};
}

// Every call of one kind fails once, the first first. Returns how many there were.
int every_call(const TempFolder& folder, const char* call, bool exists) {
  const std::string path = folder.file("out");
  const std::vector<std::string> before =
      exists ? std::vector<std::string>{"out"} : std::vector<std::string>{};
  for (int n = 0;; ++n) {
    std::remove(path.c_str());
    if (exists) folder.write("out", "old");
    fault = Fault{call, n, kErrors[n % 4], false};
    const std::string message = write_atomically(path);
    const bool synced_folder = fault.fired && fault.call == "fsync" && n == 1;
    if (!fault.fired || synced_folder) {  // a folder that cannot be synced is no error
      EXPECT_EQ(message, "") << call << " " << n;
      EXPECT_EQ(read_all(path), "new content\n");
      EXPECT_EQ(folder.list(), std::vector<std::string>{"out"});
      if (!fault.fired) return n;
      continue;
    }
    expect_in(message, {path + ": file cannot be ", std::strerror(kErrors[n % 4])});
    EXPECT_EQ(folder.list(), before) << call << " " << n;
    if (exists) {
      EXPECT_EQ(read_all(path), "old") << call << " " << n;
    }
  }
}

TEST_F(DiskFaults, EveryCallOfAnAtomicFile) {
  int faults = 0;
  for (const bool unnamed : {true, false}) {
    unnamed_files = unnamed;
    for (const bool exists : {true, false}) {
      const TempFolder folder;
      for (const char* call : kCalls) faults += every_call(folder, call, exists);
    }
  }
  std::printf("faults injected: %d\n", faults);
  // Named: 3 writes, 2 syncs, 1 rename; twice. Unnamed: a link more over an existing file, and a
  // link for the rename of a new one; where the folder's file system has no such files, as named.
  EXPECT_GE(faults, 24);
  EXPECT_LE(faults, 26);
}

// The program: an old OUT stays, and what calibration found is kept for --resume.
TEST_F(DiskFaults, QuantizeKeepsTheOldFile) {
  const QuantizeProgram p;
  p.c.folder.write("out.safetensors", "old");
  const std::vector<std::string> before = p.c.folder.list();
  const auto message_of = [&](const char* method, bool resume, int expected) {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(p.quantize(p.text, resume, method), expected);
    ::testing::internal::GetCapturedStdout();
    return ::testing::internal::GetCapturedStderr();
  };
  int faults = 0;
  for (const char* call : {"fsync", "rename"}) {  // of which both are needed to replace a file
    fault = Fault{call, 0, ENOSPC, false};
    const std::string message = message_of("rrs", false, 1);
    expect_in(message, {p.out + ": file cannot be ", std::strerror(ENOSPC)});
    EXPECT_EQ(read_all(p.out), "old");
    EXPECT_EQ(p.c.folder.list().size(), before.size()) << call;
    ++faults;
  }
  EXPECT_EQ(faults, 2);
  fault = Fault{"rename", 0, EIO, false};
  expect_in(message_of("rrs-gptq-zigzag", false, 1),
            {p.out + ": file cannot be renamed", std::strerror(EIO), "--resume"});
  EXPECT_EQ(read_all(p.out), "old");
  EXPECT_EQ(message_of("rrs-gptq-zigzag", true, 0), "");
  EXPECT_NE(read_all(p.out), "old");
  EXPECT_EQ(p.c.folder.list().size(), before.size());
}

}  // namespace
