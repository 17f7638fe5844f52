// The file of finished layers. Native byte order: it never leaves the machine.
//
//   header  8 bytes "RRSSTAT1", u64 identity
//   record  i64 size of what follows; per input i64 K, tokens, sequences, f32 maxima[K],
//           f64 sums[K], f64 relative[K], f32 token_maxima[tokens], i64 starts[sequences],
//           f64 upper triangle of the Hessian, by rows; at the end a u64 hash of all of it
// A record without its hash is a layer that was not finished.
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../support/write_error.hpp"
#include "calibration.hpp"
#include "rrs/core/hash.hpp"

namespace rrs_llm {
namespace {

constexpr char kMagic[] = "RRSSTAT1";
constexpr std::int64_t kHeaderBytes = 16;

std::string temporary_folder() {
  const char* folder = std::getenv("TMPDIR");
  return folder == nullptr || *folder == 0 ? "/tmp" : folder;
}

int open_unnamed() {
  std::string name = temporary_folder() + "/rrs-statistics-XXXXXX";
  const int file = ::mkstemp(name.data());
  if (file >= 0) ::unlink(name.c_str());
  return file;
}

template <class T>
void put(const std::vector<T>& values, std::string* out) {
  out->append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

void put(std::int64_t value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::int64_t triangle(std::int64_t k) noexcept { return k * (k + 1) / 2; }

std::int64_t size_of(std::size_t n) noexcept { return static_cast<std::int64_t>(n); }

}  // namespace

std::string StatisticsFile::name() const {
  return path_.empty() ? "calibration statistics in " + temporary_folder() : path_;
}

void StatisticsFile::fail(const std::string& problem) const {
  throw std::runtime_error(name() + ": " + problem);
}

void StatisticsFile::read_at(std::int64_t at, void* data, std::size_t size) const {
  auto* to = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t n = ::pread(file_, to, size, static_cast<off_t>(at));
    if (n <= 0) fail("cannot be read");
    to += n;
    at += n;
    size -= static_cast<std::size_t>(n);
  }
}

void StatisticsFile::write_at(std::int64_t at, const void* data, std::size_t size) {
  const auto* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::pwrite(file_, from, size, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      throw rrs_examples::WriteError(name() + ": cannot be written: " + std::strerror(errno));
    }
    from += n;
    at += n;
    size -= static_cast<std::size_t>(n);
  }
}

StatisticsFile::StatisticsFile(std::string path, std::uint64_t identity, bool resume)
    : path_(std::move(path)) {
  file_ = path_.empty() ? open_unnamed()
                        : ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (file_ < 0) fail(std::string("cannot be opened: ") + std::strerror(errno));
  end_ = kHeaderBytes;
  struct stat status {};
  const bool old = resume && ::fstat(file_, &status) == 0 && status.st_size >= kHeaderBytes;
  if (old) {
    char header[kHeaderBytes];
    read_at(0, header, sizeof header);
    if (std::memcmp(header, kMagic, 8) != 0) fail("is not a file of calibration statistics");
    if (std::memcmp(header + 8, &identity, 8) != 0) {
      fail("was made from another model, text or settings: without --resume it is replaced");
    }
    for (Record r; end_ < status.st_size && scan_record(end_, &r); end_ = r.end) {
      records_.push_back(r);
    }
  } else {
    if (::ftruncate(file_, 0) != 0) fail("cannot be emptied");
    write_at(0, kMagic, 8);
    write_at(8, &identity, 8);
  }
}

StatisticsFile::~StatisticsFile() {
  if (file_ >= 0) ::close(file_);
}

void StatisticsFile::append(const LayerStatistics& layer) {
  std::string bytes;
  for (const rrs::InputStatistics& s : layer) {
    const std::int64_t k = size_of(s.maxima.size());
    put(k, &bytes);
    put(s.tokens, &bytes);
    put(size_of(s.sequence_starts.size()), &bytes);
    put(s.maxima, &bytes);
    put(s.sums, &bytes);
    put(s.relative, &bytes);
    put(s.token_maxima, &bytes);
    put(s.sequence_starts, &bytes);
    for (std::int64_t i = 0; i < k; ++i) {
      bytes.append(reinterpret_cast<const char*>(s.hessian.data() + i * k + i),
                   static_cast<std::size_t>(k - i) * sizeof(double));
    }
  }
  const std::int64_t size = size_of(bytes.size());
  const std::uint64_t hash = rrs::hash_bytes(bytes.data(), bytes.size());
  write_at(end_, &size, sizeof size);
  write_at(end_ + 8, bytes.data(), bytes.size());
  write_at(end_ + 8 + size, &hash, sizeof hash);
  Record record;
  if (!scan_record(end_, &record)) fail("does not read back");
  records_.push_back(record);
  end_ = record.end;
}

// False for a record that is cut short or does not match its hash.
bool StatisticsFile::scan_record(std::int64_t at, Record* record) const {
  struct stat status {};
  if (::fstat(file_, &status) != 0 || at + 16 > status.st_size) return false;
  std::int64_t size = 0;
  read_at(at, &size, sizeof size);
  if (size < 0 || size > status.st_size - at - 16) return false;
  std::string bytes(static_cast<std::size_t>(size), 0);
  std::uint64_t hash = 0;
  read_at(at + 8, bytes.data(), bytes.size());
  read_at(at + 8 + size, &hash, sizeof hash);
  if (hash != rrs::hash_bytes(bytes.data(), bytes.size())) return false;
  record->at = at + 8;
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < kInputsPerLayer; ++i) {
    std::int64_t counts[3];
    if (offset + 24 > size) return false;
    std::memcpy(counts, bytes.data() + offset, sizeof counts);
    record->channels[i] = counts[0];
    record->tokens[i] = counts[1];
    record->starts[i] = counts[2];
    offset += 24 + counts[0] * 20 + counts[1] * 4 + counts[2] * 8;
    record->hessian_at[i] = record->at + offset;
    offset += triangle(counts[0]) * 8;
  }
  record->end = at + 16 + size;
  return offset == size;
}

LayerStatistics StatisticsFile::read(std::size_t layer) const {
  const Record& r = records_.at(layer);
  LayerStatistics out;
  std::int64_t at = r.at;
  const auto get = [&](auto* values, std::int64_t count) {
    values->resize(static_cast<std::size_t>(count));
    const std::size_t bytes = values->size() * sizeof(values->front());
    read_at(at, values->data(), bytes);
    at += size_of(bytes);
  };
  for (std::size_t i = 0; i < kInputsPerLayer; ++i) {
    at += 24;
    out[i].tokens = r.tokens[i];
    get(&out[i].maxima, r.channels[i]);
    get(&out[i].sums, r.channels[i]);
    get(&out[i].relative, r.channels[i]);
    get(&out[i].token_maxima, r.tokens[i]);
    get(&out[i].sequence_starts, r.starts[i]);
    at += triangle(r.channels[i]) * 8;
  }
  return out;
}

std::vector<double> StatisticsFile::hessian(std::size_t layer, std::size_t input) const {
  const Record& r = records_.at(layer);
  const std::int64_t k = r.channels[input];
  std::vector<double> upper(static_cast<std::size_t>(triangle(k)));
  read_at(r.hessian_at[input], upper.data(), upper.size() * sizeof(double));
  std::vector<double> h(static_cast<std::size_t>(k * k));
  const double* from = upper.data();
  for (std::int64_t i = 0; i < k; ++i) {
    for (std::int64_t j = i; j < k; ++j) {
      h[static_cast<std::size_t>(i * k + j)] = h[static_cast<std::size_t>(j * k + i)] = *from++;
    }
  }
  return h;
}

}  // namespace rrs_llm
