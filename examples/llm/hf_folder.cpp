#include "hf_folder.hpp"

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "../support/json_strict.hpp"

namespace rrs_llm {
namespace {

using nlohmann::json;
using rrs_examples::MappedFile;
using rrs_examples::quoted_name;
using rrs_examples::Safetensors;

bool exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

std::optional<MappedFile> open_optional(const std::string& path) {
  if (!exists(path)) return std::nullopt;
  return MappedFile(path);
}

// A shard is a file of the folder itself, whatever the index says.
void check_shard_name(const std::string& index, const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    throw std::runtime_error(index + ": field 'weight_map': " + quoted_name(name) +
                             " is not a file name");
  }
}

std::vector<std::string> safetensors_in(const std::string& folder) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

HfFolder::HfFolder(const std::string& folder)
    : folder_(folder),
      config_(file("config.json")),
      tokenizer_(file("tokenizer.json")),
      tokenizer_config_(open_optional(file("tokenizer_config.json"))),
      generation_config_(open_optional(file("generation_config.json"))) {
  const std::string index = file("model.safetensors.index.json");
  const std::string single = file("model.safetensors");
  if (exists(index)) {
    open_indexed(index);
  } else if (exists(single)) {
    open_all({single});
  } else {
    open_all(safetensors_in(folder_));
  }
  if (shards_.empty()) throw std::runtime_error(folder_ + ": no safetensors file in this folder");
}

const MappedFile* HfFolder::tokenizer_config() const noexcept {
  return tokenizer_config_ ? &*tokenizer_config_ : nullptr;
}

const MappedFile* HfFolder::generation_config() const noexcept {
  return generation_config_ ? &*generation_config_ : nullptr;
}

void HfFolder::open_indexed(const std::string& index) {
  const MappedFile file(index);
  const json root = rrs_examples::parse_json_strict(file.text(), index);
  const auto map = root.is_object() ? root.find("weight_map") : root.end();
  if (map == root.end() || !map->is_object()) {
    throw std::runtime_error(index + ": field 'weight_map' is not an object");
  }
  std::map<std::string, const Safetensors*> opened;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) {
      throw std::runtime_error(index + ": field 'weight_map': file of tensor " + quoted_name(name) +
                               " is not a string");
    }
    const auto& shard_name = shard.get_ref<const std::string&>();
    const Safetensors*& source = opened[shard_name];
    if (source == nullptr) {
      check_shard_name(index, shard_name);
      shards_.push_back(std::make_unique<Safetensors>(folder_ + "/" + shard_name));
      source = shards_.back().get();
    }
    tensors_.emplace(name, &source->require(name));
  }
}

void HfFolder::open_all(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    shards_.push_back(std::make_unique<Safetensors>(path));
    for (const auto& tensor : shards_.back()->tensors()) {
      if (!tensors_.emplace(tensor.name, &tensor).second) {
        throw std::runtime_error(path + ": tensor " + quoted_name(tensor.name) +
                                 " is in another file of the folder too");
      }
    }
  }
}

const rrs_examples::Tensor* HfFolder::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second;
}

}  // namespace rrs_llm
