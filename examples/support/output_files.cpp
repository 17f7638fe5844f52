#include "output_files.hpp"

#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <system_error>

namespace rrs_examples {
namespace {

namespace fs = std::filesystem;

bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code error;
  return fs::equivalent(a, b, error);
}

// By name, too, for outputs that do not exist yet.
bool same_place(const std::string& a, const std::string& b) {
  std::error_code error;
  return same_file(a, b) || fs::weakly_canonical(fs::absolute(a, error), error) ==
                                fs::weakly_canonical(fs::absolute(b, error), error);
}

// A file of the model in a Hugging Face folder: any .json, model*.safetensors, and any .safetensors
// where none has that name. Others, an earlier output say, may be replaced. Whatever cannot be read
// is the reader's to refuse.
bool is_of_model(const std::string& output, const std::string& folder) {
  bool found = false, named = false;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const bool weights = entry.path().extension() == ".safetensors";
    const bool model = weights && name.rfind("model", 0) == 0;
    if (same_file(output, entry.path())) {
      if (model || entry.path().extension() == ".json") return true;
      found = weights;
    }
    named = named || model;
  }
  return found && !named;
}

[[noreturn]] void refuse(const NamedPath& output, const NamedPath& other, const char* relation) {
  throw std::runtime_error(output.option + " " + output.path + " is " + relation + other.option +
                           " " + other.path);
}

}  // namespace

void check_outputs(const std::vector<NamedPath>& outputs, const std::vector<NamedPath>& inputs) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].path.empty()) continue;
    for (const NamedPath& input : inputs) {
      if (input.path.empty()) continue;
      if (same_file(outputs[i].path, input.path)) {
        refuse(outputs[i], input, "the same file as the input ");
      }
      if (is_of_model(outputs[i].path, input.path)) {
        refuse(outputs[i], input, "a file of the model in ");
      }
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (!outputs[j].path.empty() && same_place(outputs[i].path, outputs[j].path)) {
        refuse(outputs[i], outputs[j], "the same file as the output ");
      }
    }
  }
}

OutputFiles::OutputFiles(const std::vector<NamedPath>& outputs,
                         const std::vector<NamedPath>& inputs) {
  check_outputs(outputs, inputs);
  for (const NamedPath& output : outputs) {
    if (!output.path.empty()) files_.try_emplace(output.option, output.path);
  }
}

void OutputFiles::write(const std::string& option, const std::string& content) {
  const auto found = files_.find(option);
  if (found == files_.end()) return;
  found->second.write(content.data(), content.size());
  found->second.commit();
}

}  // namespace rrs_examples
