#pragma once
// Writes a file that appears under its name complete or not at all.
//
// From / to: whatever writes a file: the safetensors writer, OutputFiles. Bytes go to an unnamed
// file in the target's folder (O_TMPFILE), or to a temporary name where the file system has no
// unnamed files; commit() syncs it and gives it the target's name. Without commit() nothing
// remains. A killed process leaves nothing, either, but where it was replacing a file: killed
// between two system calls of commit() it leaves the new one complete under the temporary name,
// beside the old. Constructed before long work, it refuses at once what could not be written behind
// it: a folder that is missing or closed, a name that is too long, and a target that is no regular
// file. Renaming over a device, a FIFO or a folder would take it away. A symbolic link is refused,
// too: to replace the link would surprise, to follow it would write where no argument says.

#include <cstddef>
#include <string>

namespace rrs_examples {

// Throws WriteError where something is at `path` that is no regular file; a link is none.
void check_regular(const std::string& path);

class AtomicFile {
 public:
  explicit AtomicFile(std::string path);  // throws WriteError, as all of its functions
  ~AtomicFile();
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::string& path() const noexcept { return path_; }
  void write(const void* data, std::size_t size);
  void commit();

 private:
  void check_target() const;
  void open_unnamed(const std::string& folder);
  void open_named();
  bool link_unnamed(const std::string& name);  // false: something has that name
  void take_name();
  [[noreturn]] void fail(const char* what) const;

  std::string path_;
  std::string temporary_;
  int file_ = -1;
  bool temporary_exists_ = false;
};

}  // namespace rrs_examples
