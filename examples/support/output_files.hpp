#pragma once
// The files that a program writes when its work is done: refused before the work, or not at all.
//
// From: the command line; to: the commands of rrs-llm and layer_report. An output may not be the
// same file (device and inode) as an input, which it would replace, nor as another output, nor
// anything that AtomicFile refuses.

#include <map>
#include <string>
#include <vector>

#include "atomic_file.hpp"

namespace rrs_examples {

// As the user gave it: "--out", "M.gguf". An empty path: not given.
struct NamedPath {
  std::string option;
  std::string path;
};

// Throws naming both options and the path. An input that is a folder (a Hugging Face model) stands
// for the model's files in it.
void check_outputs(const std::vector<NamedPath>& outputs, const std::vector<NamedPath>& inputs);

class OutputFiles {
 public:
  // Checked, then opened. Throws; WriteError for what cannot be written.
  OutputFiles(const std::vector<NamedPath>& outputs, const std::vector<NamedPath>& inputs);

  // The whole content of an output, under its name at once; nothing for one that was not given.
  void write(const std::string& option, const std::string& content);

 private:
  std::map<std::string, AtomicFile> files_;
};

}  // namespace rrs_examples
