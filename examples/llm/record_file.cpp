#include "record_file.hpp"

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "../support/mapped_file.hpp"
#include "../support/write_error.hpp"
#include "rrs/core/hash.hpp"

namespace rrs_llm {
namespace {

constexpr char kMagic[] = "RRSRECS1";

void write_all(int file, const std::string& path, const std::string& bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t n = ::write(file, bytes.data() + at, bytes.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      throw rrs_examples::WriteError(path + ": cannot be written: " + std::strerror(errno));
    }
    at += static_cast<std::size_t>(n);
  }
}

std::string number_bytes(std::uint64_t value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

void RecordFile::fail(const std::string& problem) const {
  throw std::runtime_error(path_ + ": " + problem);
}

void RecordFile::read_old(std::uint64_t identity) {
  const rrs_examples::MappedFile old(path_);
  const std::string_view text = old.text();
  if (text.size() < 16) return;
  if (text.substr(0, 8) != kMagic) fail("is not a file of finished linears");
  if (text.substr(8, 8) != number_bytes(identity)) {
    fail("was made from another model, method or calibration: without --resume it is replaced");
  }
  for (std::size_t at = 16; at + 16 <= text.size();) {
    std::uint64_t size = 0, hash = 0;
    std::memcpy(&size, text.data() + at, sizeof size);
    if (size > text.size() - at - 16) return;
    std::memcpy(&hash, text.data() + at + 8 + size, sizeof hash);
    if (hash != rrs::hash_bytes(text.data() + at + 8, size)) return;
    records_.emplace_back(text.substr(at + 8, size));
    at += 16 + size;
  }
}

RecordFile::RecordFile(std::string path, std::uint64_t identity, bool resume)
    : path_(std::move(path)) {
  if (resume && ::access(path_.c_str(), F_OK) == 0) read_old(identity);
  // Written anew from what was read, so that a torn end does not stay.
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
  if (file_ < 0) fail(std::string("cannot be opened: ") + std::strerror(errno));
  std::int64_t end = 16;
  for (const std::string& r : records_) end += 16 + static_cast<std::int64_t>(r.size());
  if (records_.empty()) {
    if (::ftruncate(file_, 0) != 0) fail("cannot be emptied");
    write_all(file_, path_, kMagic + number_bytes(identity));
  } else if (::ftruncate(file_, static_cast<off_t>(end)) != 0) {
    fail("cannot be cut behind its last record");
  }
  ::lseek(file_, 0, SEEK_END);
}

RecordFile::~RecordFile() {
  if (file_ >= 0) ::close(file_);
}

void RecordFile::append(const std::string& record) {
  write_all(file_, path_,
            number_bytes(record.size()) + record +
                number_bytes(rrs::hash_bytes(record.data(), record.size())));
}

}  // namespace rrs_llm
