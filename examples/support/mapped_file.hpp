#pragma once
// A whole file mapped read-only, released by the destructor.
//
// Producers: paths from the command line. Consumers: the safetensors and GGUF readers.
// Units: bytes. An empty file is valid and has data() == nullptr. Views into the mapping stay valid
// when the object is moved, not when it is destroyed.

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace rrs_examples {

class MappedFile {
 public:
  explicit MappedFile(std::string path) : path_(std::move(path)) {
    // Without waiting: a pipe would have no writer, perhaps for ever, only to be refused.
    const int file = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) fail("cannot be opened");
    const char* problem = map(file);
    const int error = errno;
    ::close(file);
    errno = error;
    if (problem != nullptr) fail(problem);
  }

  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}

  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  ~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  const std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  const std::string& path() const noexcept { return path_; }

  // Gives the pages read so far back to the system; the next access reads them again.
  void release_pages() const noexcept {
    if (data_ != nullptr) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
  }

  std::string_view text() const noexcept { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  // Returns what went wrong, or nullptr.
  const char* map(int file) noexcept {
    struct stat status {};
    if (::fstat(file, &status) != 0) return "cannot be examined";
    errno = 0;
    if (!S_ISREG(status.st_mode)) return "is not a regular file";
    if (status.st_size == 0) return nullptr;
    const auto length = static_cast<std::size_t>(status.st_size);
    void* address = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE, file, 0);
    if (address == MAP_FAILED) return "cannot be mapped";
    data_ = static_cast<const std::byte*>(address);
    size_ = length;
    return nullptr;
  }

  [[noreturn]] void fail(const char* problem) const {
    std::string message = path_ + ": file " + problem;
    if (errno != 0) message += std::string(": ") + std::strerror(errno);
    throw std::runtime_error(message);
  }

  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace rrs_examples
