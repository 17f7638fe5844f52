// The GGUF half of the tokenizer: tokenizer.ggml.* metadata.

#include <stdexcept>

#include "../support/quoted_name.hpp"
#include "tokenizer.hpp"

namespace rrs_llm {
namespace {

using rrs_examples::quoted_name;

constexpr const char* kPrefix = "tokenizer.ggml.";

// The format's token types.
enum : std::int64_t {
  kNormalType = 1,
  kUnknownType,
  kControlType,
  kUserType,
  kUnusedType,
  kByteType
};

[[noreturn]] void fail(const Gguf& file, const std::string& key, const std::string& problem) {
  throw std::runtime_error(file.path() + ": metadata " + quoted_name(kPrefix + key) + ": " +
                           problem);
}

TokenKind kind_of(const Gguf& file, std::int64_t type, std::size_t index) {
  switch (type) {
    case kNormalType: return TokenKind::kNormal;
    case kUnknownType:
    case kControlType: return TokenKind::kControl;
    case kUserType: return TokenKind::kUserDefined;
    case kUnusedType: return TokenKind::kUnused;
    case kByteType: return TokenKind::kNormal;
    default: break;
  }
  fail(file, "token_type",
       "value " + std::to_string(type) + " of token " + std::to_string(index) + " is not 1 to 6");
}

std::optional<TokenId> find_id(const Gguf& file, const std::string& key) {
  const std::string full = kPrefix + key;
  // Absent is also written as the largest number.
  const std::uint64_t value = file.uint_or(full, 0xffffffffu, 0xffffffffu);
  if (value == 0xffffffffu) return std::nullopt;
  const std::size_t tokens = file.require_strings(std::string(kPrefix) + "tokens").size();
  if (value >= tokens) {
    fail(file, key, std::to_string(value) + " is not a token, there are " + std::to_string(tokens));
  }
  return static_cast<TokenId>(value);
}

std::pair<std::string_view, std::string_view> split_merge(const Gguf& file, std::string_view merge,
                                                          std::size_t index) {
  const std::size_t space = merge.find(' ', 1);  // a first character that is a space is a symbol
  if (space == std::string_view::npos || space + 1 == merge.size()) {
    fail(file, "merges",
         "entry " + std::to_string(index) + " " + quoted_name(merge) + " is not two symbols");
  }
  return {merge.substr(0, space), merge.substr(space + 1)};
}

void read_vocabulary(const Gguf& file, TokenizerData* data) {
  const auto& tokens = file.require_strings(std::string(kPrefix) + "tokens");
  if (tokens.size() > kMaxVocabulary) {
    fail(file, "tokens",
         std::to_string(tokens.size()) + " tokens exceed " + std::to_string(kMaxVocabulary));
  }
  data->texts.assign(tokens.begin(), tokens.end());
  const std::string type_key = std::string(kPrefix) + "token_type";
  if (!file.has(type_key)) {
    data->kinds.assign(tokens.size(), TokenKind::kNormal);
    return;
  }
  const auto types = file.require_ints(type_key);
  for (std::size_t i = 0; i < types.size(); ++i) data->kinds.push_back(kind_of(file, types[i], i));
}

}  // namespace

Tokenizer tokenizer_from_gguf(const Gguf& file) {
  const std::string prefix = kPrefix;
  const std::string_view model = file.require_string(prefix + "model");
  if (model != "gpt2") {
    fail(file, "model", quoted_name(model) + " is not supported, only 'gpt2' (byte-level BPE) is");
  }
  TokenizerData data;
  data.source = file.path();
  read_vocabulary(file, &data);
  const auto& merges = file.require_strings(prefix + "merges");
  for (std::size_t i = 0; i < merges.size(); ++i) {
    data.merges.push_back(split_merge(file, merges[i], i));
  }
  const std::string_view pre = file.string_or(prefix + "pre", "default");
  data.pre_tokenizer = named_pre_tokenizer(pre, file.path() + ": metadata '" + prefix + "pre'");
  // LLaMA 3's files leave both rules to the name of their pre-tokenizer.
  const bool llama3 = pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3";
  data.ignore_merges = llama3;
  data.bos = find_id(file, "bos_token_id");
  data.add_bos = file.bool_or(prefix + "add_bos_token", llama3 && data.bos.has_value());
  data.unknown = find_id(file, "unknown_token_id");
  for (const char* key : {"eos_token_id", "eot_token_id"}) {
    const auto id = find_id(file, key);
    if (id && (data.ends.empty() || data.ends.front() != *id)) data.ends.push_back(*id);
  }
  return Tokenizer(std::move(data));
}

}  // namespace rrs_llm
