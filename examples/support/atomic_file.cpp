#include "atomic_file.hpp"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "write_error.hpp"

namespace rrs_examples {
namespace {

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string temporary_name(const std::string& path) {
  static std::atomic<unsigned> counter{0};
  return path + ".tmp." + std::to_string(::getpid()) + "." + std::to_string(counter++);
}

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISLNK(mode)) return "a symbolic link";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

}  // namespace

AtomicFile::AtomicFile(std::string path)
    : path_(std::move(path)), temporary_(temporary_name(path_)) {
  if (path_.empty()) throw WriteError("a file to write has no name");
  check_target();
  open_unnamed(folder_of(path_));
  if (file_ < 0) open_named();
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      file_(std::exchange(other.file_, -1)),
      temporary_exists_(std::exchange(other.temporary_exists_, false)) {}

AtomicFile::~AtomicFile() {
  if (file_ >= 0) ::close(file_);
  if (temporary_exists_) ::unlink(temporary_.c_str());
}

void AtomicFile::check_target() const {
  struct stat status {};
  // The temporary name is the longer one: an unnamed file would meet its limit in commit() only.
  if (::lstat(temporary_.c_str(), &status) != 0 && errno != ENOENT) fail("cannot be created");
  check_regular(path_);
}

void check_regular(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return;
    throw WriteError(path + ": cannot be examined: " + std::strerror(errno));
  }
  if (S_ISREG(status.st_mode)) return;
  throw WriteError(path + ": is " + kind_of(status.st_mode) +
                   ", not a regular file: it is not replaced");
}

void AtomicFile::open_unnamed(const std::string& folder) {
#ifdef O_TMPFILE
  file_ = ::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
#else
  static_cast<void>(folder);
#endif
}

void AtomicFile::open_named() {
  file_ = ::open(temporary_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
  if (file_ < 0) fail("cannot be created");
  temporary_exists_ = true;
}

void AtomicFile::write(const void* data, std::size_t size) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t done = ::write(file_, next, size);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail("cannot be written");
    next += done;
    size -= static_cast<std::size_t>(done);
  }
}

bool AtomicFile::link_unnamed(const std::string& name) {
  const std::string unnamed = "/proc/self/fd/" + std::to_string(file_);
  if (::linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
    return true;
  }
  if (errno != EEXIST) fail("cannot be named");
  return false;
}

// A free target is linked to. One that exists can only be renamed over, from a second name.
void AtomicFile::take_name() {
  if (!temporary_exists_) {
    if (link_unnamed(path_)) return;
    if (!link_unnamed(temporary_)) fail("cannot be named");
    temporary_exists_ = true;
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be renamed");
  temporary_exists_ = false;
}

void AtomicFile::commit() {
  if (::fsync(file_) != 0) fail("cannot be synced");
  check_target();  // again: hours may have passed
  take_name();
  const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    ::fsync(folder);  // makes the new name durable; some file systems refuse it, which is harmless
    ::close(folder);
  }
}

void AtomicFile::fail(const char* what) const {
  throw WriteError(path_ + ": file " + what + ": " + std::strerror(errno));
}

}  // namespace rrs_examples
