#pragma once
// A Hugging Face model folder: config.json, tokenizer.json and one or several safetensors files.
//
// From: a folder; to: the JSON files as text and tensors by their Hugging Face names. Shards are
// found by model.safetensors.index.json, else model.safetensors, else every *.safetensors in the
// folder. Refused: an index that names a file outside the folder or a tensor its file lacks, and a
// tensor that two unindexed files hold.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../support/mapped_file.hpp"
#include "../support/safetensors.hpp"

namespace rrs_llm {

class HfFolder {
 public:
  explicit HfFolder(const std::string& folder);

  const std::string& path() const noexcept { return folder_; }
  const rrs_examples::MappedFile& config() const noexcept { return config_; }
  const rrs_examples::MappedFile& tokenizer() const noexcept { return tokenizer_; }
  // tokenizer_config.json and generation_config.json: nullptr when absent.
  const rrs_examples::MappedFile* tokenizer_config() const noexcept;
  const rrs_examples::MappedFile* generation_config() const noexcept;

  const rrs_examples::Tensor* find(std::string_view name) const;
  const std::map<std::string, const rrs_examples::Tensor*, std::less<>>& tensors() const noexcept {
    return tensors_;
  }
  std::size_t shards() const noexcept { return shards_.size(); }
  void release_pages() const noexcept {
    for (const auto& shard : shards_) shard->release_pages();
  }

 private:
  std::string file(const char* name) const { return folder_ + "/" + name; }
  void open_indexed(const std::string& index);
  void open_all(const std::vector<std::string>& paths);

  std::string folder_;
  rrs_examples::MappedFile config_;
  rrs_examples::MappedFile tokenizer_;
  std::optional<rrs_examples::MappedFile> tokenizer_config_;
  std::optional<rrs_examples::MappedFile> generation_config_;
  std::vector<std::unique_ptr<rrs_examples::Safetensors>> shards_;
  std::map<std::string, const rrs_examples::Tensor*, std::less<>> tensors_;
};

}  // namespace rrs_llm
