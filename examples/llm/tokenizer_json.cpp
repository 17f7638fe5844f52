// The Hugging Face half of the tokenizer: tokenizer.json and tokenizer_config.json.

#include <algorithm>
#include <stdexcept>

#include "../support/json_strict.hpp"
#include "tokenizer.hpp"

namespace rrs_llm {
namespace {

using nlohmann::json;
using rrs_examples::quoted_name;

// A position in the file for messages, with the readers that need it.
class Reader {
 public:
  explicit Reader(std::string path) : path_(std::move(path)) {}

  [[noreturn]] void fail(const std::string& field, const std::string& problem) const {
    throw std::runtime_error(path_ + ": field '" + field + "': " + problem);
  }

  // Absent and null are the same.
  static const json* find(const json& object, const char* key) {
    if (!object.is_object()) return nullptr;
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }

  const json& require(const json& object, const char* key) const {
    const json* value = find(object, key);
    if (value == nullptr) fail(key, "missing");
    return *value;
  }

  const std::string& string(const json& object, const char* key) const {
    const json& value = require(object, key);
    if (!value.is_string()) fail(key, "not a string");
    return value.get_ref<const std::string&>();
  }

  bool flag(const json& object, const char* key, bool otherwise) const {
    const json* value = find(object, key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) fail(key, "not true or false");
    return value->get<bool>();
  }

  TokenId id(const json& value, const std::string& field) const {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= kMaxVocabulary) {
      fail(field, quoted_name(value.dump()) + " is not a token id below " +
                      std::to_string(kMaxVocabulary));
    }
    return static_cast<TokenId>(value.get<std::uint64_t>());
  }

  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

void place_token(const Reader& reader, TokenId id, const std::string& text, TokenKind kind,
                 TokenizerData* data) {
  const auto index = static_cast<std::size_t>(id);
  if (index >= data->texts.size()) {
    data->texts.resize(index + 1);
    data->kinds.resize(index + 1, TokenKind::kUnused);  // holes
  }
  if (!data->texts[index].empty() && data->texts[index] != text) {
    reader.fail("vocab", "id " + std::to_string(id) + " belongs to " +
                             quoted_name(data->texts[index]) + " and " + quoted_name(text));
  }
  data->texts[index] = text;
  data->kinds[index] = kind;
}

void read_vocabulary(const Reader& reader, const json& model, TokenizerData* data) {
  const json& vocabulary = reader.require(model, "vocab");
  if (!vocabulary.is_object()) reader.fail("vocab", "not an object");
  // An id far beyond the count would make a table of holes.
  const std::size_t limit = 2 * vocabulary.size() + 65536;
  for (const auto& [text, value] : vocabulary.items()) {
    const TokenId id = reader.id(value, "vocab");
    if (static_cast<std::size_t>(id) >= limit) {
      reader.fail("vocab", "id " + std::to_string(id) + " of " + quoted_name(text) + " exceeds " +
                               std::to_string(limit));
    }
    place_token(reader, id, text, TokenKind::kNormal, data);
  }
}

void read_added_tokens(const Reader& reader, const json& root, TokenizerData* data) {
  const json* added = Reader::find(root, "added_tokens");
  if (added == nullptr) return;
  if (!added->is_array()) reader.fail("added_tokens", "not an array");
  const std::size_t limit = data->texts.size() + added->size() + 65536;
  for (const json& token : *added) {
    const std::string& text = reader.string(token, "content");
    for (const char* rule : {"lstrip", "rstrip", "single_word"}) {
      if (reader.flag(token, rule, false)) {
        reader.fail("added_tokens", quoted_name(text) + ": rule '" + rule + "' is not supported");
      }
    }
    const TokenId id = reader.id(reader.require(token, "id"), "added_tokens");
    if (static_cast<std::size_t>(id) >= limit) {
      reader.fail("added_tokens", "id " + std::to_string(id) + " of " + quoted_name(text) +
                                      " exceeds " + std::to_string(limit));
    }
    const bool special = reader.flag(token, "special", false);
    place_token(reader, id, text, special ? TokenKind::kControl : TokenKind::kUserDefined, data);
  }
}

std::pair<std::string_view, std::string_view> parse_merge(const Reader& reader, const json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  if (!merge.is_string()) reader.fail("merges", quoted_name(merge.dump()) + " is not two symbols");
  const std::string_view text = merge.get_ref<const std::string&>();
  const std::size_t space = text.find(' ', 1);
  if (space == std::string_view::npos || space + 1 == text.size()) {
    reader.fail("merges", quoted_name(text) + " is not two symbols");
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

void read_model(const Reader& reader, const json& root, TokenizerData* data) {
  const json& model = reader.require(root, "model");
  if (const json* type = Reader::find(model, "type"); type != nullptr && *type != "BPE") {
    reader.fail("model.type", quoted_name(type->dump()) + " is not supported, only BPE is");
  }
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix", "dropout"}) {
    const json* value = Reader::find(model, option);
    if (value == nullptr) continue;
    const auto* text = value->get_ptr<const std::string*>();
    if (text == nullptr || !text->empty()) reader.fail(option, "not supported");
  }
  if (reader.flag(model, "byte_fallback", false)) reader.fail("byte_fallback", "not supported");
  data->ignore_merges = reader.flag(model, "ignore_merges", false);
  read_vocabulary(reader, model, data);
  const json& merges = reader.require(model, "merges");
  if (!merges.is_array()) reader.fail("merges", "not an array");
  for (const json& merge : merges) data->merges.push_back(parse_merge(reader, merge));
}

void check_normalizer(const Reader& reader, const json& normalizer) {
  const std::string& type = reader.string(normalizer, "type");
  if (type == "NFC") return;  // see tokenizer.hpp for why it is passed over
  if (type != "Sequence") reader.fail("normalizer", quoted_name(type) + " is not supported");
  const json& parts = reader.require(normalizer, "normalizers");
  if (!parts.is_array()) reader.fail("normalizers", "not an array");
  for (const json& part : parts) {
    if (reader.string(part, "type") != "NFC") reader.fail("normalizer", "only NFC is supported");
  }
}

std::string escaped_literal(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x80 || byte == '_' || (byte >= '0' && byte <= '9') ||
                       ((byte | 0x20u) >= 'a' && (byte | 0x20u) <= 'z');
    if (!plain) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

// Adds the stages of one pre-tokenizer; *byte_level tells whether the last one was found.
void add_pre_tokenizer(const Reader& reader, const json& part, bool* byte_level,
                       PreTokenizer* result) {
  const std::string& type = reader.string(part, "type");
  const std::string where = reader.path() + ": field 'pre_tokenizer'";
  if (*byte_level) reader.fail("pre_tokenizer", quoted_name(type) + " follows ByteLevel");
  if (type == "Split") {
    const std::string& behavior = reader.string(part, "behavior");
    // "Removed" inverted keeps the matches; these patterns match every character.
    if (behavior != "Isolated" && !(behavior == "Removed" && reader.flag(part, "invert", false))) {
      reader.fail("behavior", quoted_name(behavior) + " is not supported");
    }
    const json& pattern = reader.require(part, "pattern");
    const bool literal = Reader::find(pattern, "String") != nullptr;
    result->add_stage(literal ? escaped_literal(reader.string(pattern, "String"))
                              : reader.string(pattern, "Regex"),
                      where);
  } else if (type == "Digits") {
    result->add_stage(reader.flag(part, "individual_digits", false) ? "\\p{N}" : "\\p{N}+", where);
  } else if (type == "ByteLevel") {
    *byte_level = true;
    if (reader.flag(part, "add_prefix_space", true)) {
      reader.fail("add_prefix_space", "true is not supported");
    }
    if (reader.flag(part, "use_regex", true)) result->add_stage(kGpt2Pattern, where);
  } else {
    reader.fail("pre_tokenizer", quoted_name(type) + " is not supported");
  }
}

void read_pre_tokenizer(const Reader& reader, const json& root, TokenizerData* data) {
  const json& pre = reader.require(root, "pre_tokenizer");
  bool byte_level = false;
  if (reader.string(pre, "type") == "Sequence") {
    const json& parts = reader.require(pre, "pretokenizers");
    if (!parts.is_array()) reader.fail("pretokenizers", "not an array");
    for (const json& part : parts) {
      add_pre_tokenizer(reader, part, &byte_level, &data->pre_tokenizer);
    }
  } else {
    add_pre_tokenizer(reader, pre, &byte_level, &data->pre_tokenizer);
  }
  if (!byte_level) reader.fail("pre_tokenizer", "no ByteLevel part: not a byte-level tokenizer");
}

std::optional<TokenId> find_text(const TokenizerData& data, std::string_view text) {
  const auto found = std::find(data.texts.begin(), data.texts.end(), text);
  if (found == data.texts.end() || text.empty()) return std::nullopt;
  return static_cast<TokenId>(found - data.texts.begin());
}

// A post-processor that puts a token before the text names the BOS.
void read_template(const Reader& reader, const json& processor, TokenizerData* data) {
  const json* type = Reader::find(processor, "type");
  if (type == nullptr) return;
  if (*type == "Sequence") {
    const json& parts = reader.require(processor, "processors");
    if (!parts.is_array()) reader.fail("processors", "not an array");
    for (const json& part : parts) {
      if (Reader::find(part, "processors") == nullptr) read_template(reader, part, data);
    }
  }
  const json* single = Reader::find(processor, "single");
  if (*type != "TemplateProcessing" || single == nullptr || !single->is_array()) return;
  if (single->empty()) return;
  const json* token = Reader::find(single->front(), "SpecialToken");
  if (token == nullptr) return;
  data->bos = find_text(*data, reader.string(*token, "id"));
  if (!data->bos) reader.fail("post_processor", "its first token is not in the vocabulary");
  data->add_bos = true;
}

// Tokens are written as text or as an object with the text in "content".
std::optional<TokenId> config_token(const Reader& reader, const json& config, const char* key,
                                    const TokenizerData& data) {
  const json* value = Reader::find(config, key);
  if (value == nullptr) return std::nullopt;
  if (value->is_object()) value = &reader.require(*value, "content");
  if (!value->is_string()) reader.fail(key, "not a token text");
  const auto id = find_text(data, value->get_ref<const std::string&>());
  if (!id) reader.fail(key, quoted_name(value->get<std::string>()) + " is not in the vocabulary");
  return id;
}

void read_config(const Reader& reader, const json& config, TokenizerData* data) {
  if (!config.is_object()) reader.fail("", "not a JSON object");
  if (const auto bos = config_token(reader, config, "bos_token", *data)) data->bos = bos;
  if (const auto eos = config_token(reader, config, "eos_token", *data)) data->ends = {*eos};
  if (const auto unk = config_token(reader, config, "unk_token", *data)) data->unknown = unk;
  data->add_bos = reader.flag(config, "add_bos_token", data->add_bos);
  if (!data->bos) data->add_bos = false;
}

}  // namespace

Tokenizer tokenizer_from_json(std::string_view text, const std::string& path,
                              std::string_view config_text, const std::string& config_path) {
  const Reader reader(path);
  const json root = rrs_examples::parse_json_strict(text, path);
  if (!root.is_object()) reader.fail("", "not a JSON object");
  TokenizerData data;
  data.source = path;
  read_model(reader, root, &data);
  read_added_tokens(reader, root, &data);
  if (const json* normalizer = Reader::find(root, "normalizer")) {
    check_normalizer(reader, *normalizer);
  }
  read_pre_tokenizer(reader, root, &data);
  if (const json* processor = Reader::find(root, "post_processor")) {
    read_template(reader, *processor, &data);
  }
  if (const json* unknown = Reader::find(root["model"], "unk_token")) {
    if (!unknown->is_string()) reader.fail("unk_token", "not a string");
    data.unknown = find_text(data, unknown->get_ref<const std::string&>());
  }
  if (!config_text.empty()) {
    read_config(Reader(config_path), rrs_examples::parse_json_strict(config_text, config_path),
                &data);
  }
  return Tokenizer(std::move(data));
}

}  // namespace rrs_llm
