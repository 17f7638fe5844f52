#pragma once
// A file of records that only grows: what is finished survives a kill.
//
//   header  8 bytes "RRSRECS1", u64 identity
//   record  u64 size, bytes, u64 hash of the bytes; one that is cut short or does not match is not
//           there
// From / to: quantize, whose output file appears complete or not at all. Native byte order.

#include <cstdint>
#include <string>
#include <vector>

namespace rrs_llm {

class RecordFile {
 public:
  // With `resume`, records of a file with the same identity are read; another identity is refused.
  // Without, the file starts empty. Throws naming the file.
  RecordFile(std::string path, std::uint64_t identity, bool resume);
  ~RecordFile();
  RecordFile(const RecordFile&) = delete;
  RecordFile& operator=(const RecordFile&) = delete;

  const std::string& path() const noexcept { return path_; }
  const std::vector<std::string>& records() const noexcept { return records_; }  // found at start
  void append(const std::string& record);

 private:
  void read_old(std::uint64_t identity);
  [[noreturn]] void fail(const std::string& problem) const;

  std::string path_;
  int file_ = -1;
  std::vector<std::string> records_;
};

}  // namespace rrs_llm
