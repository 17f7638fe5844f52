#pragma once
// Writes a file that appears under its name complete or not at all.
//
// From / to: the safetensors writer. Bytes go to an unnamed file in the target's folder
// (O_TMPFILE, so even a killed process leaves nothing), or to a temporary name where the file
// system has no unnamed files; commit() syncs it and renames it over the target. Without commit()
// nothing remains.

#include <cstddef>
#include <string>

namespace rrs_examples {

class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t size);
  void commit();

 private:
  void open_unnamed(const std::string& folder);
  void open_named();
  [[noreturn]] void fail(const char* what) const;

  std::string path_;
  std::string temporary_;
  int file_ = -1;
  bool temporary_exists_ = false;
};

}  // namespace rrs_examples
