// What the fuzz targets share: a file in memory with a path, and values read from the input.
//
// A target's contract: any input either works or throws std::runtime_error (readers) or returns a
// Status (library). Everything else, sanitizer reports included, is a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

namespace fuzz {

// The readers take paths: an anonymous file is reachable as one.
class MemoryFile {
 public:
  MemoryFile(const std::uint8_t* data, std::size_t size) : file_(::memfd_create("input", 0)) {
    if (file_ < 0 || ::write(file_, data, size) != static_cast<ssize_t>(size)) std::abort();
  }
  ~MemoryFile() { ::close(file_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(file_); }

 private:
  int file_;
};

// Takes integers from the front of the input; zeros once it is used up.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}
  template <class Integer>
  Integer take() {
    Integer value = 0;
    const std::size_t n = left_ < sizeof value ? left_ : sizeof value;
    std::memcpy(&value, data_, n);
    data_ += n;
    left_ -= n;
    return value;
  }
  // In [low, high].
  std::int64_t range(std::int64_t low, std::int64_t high) {
    return low + take<std::uint16_t>() % (high - low + 1);
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

// A property that does not hold is a finding like any other.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "property broken: %s\n", what);
  std::abort();
}

}  // namespace fuzz
