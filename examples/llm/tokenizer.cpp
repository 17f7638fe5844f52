#include "tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "../support/quoted_name.hpp"
#include "byte_level.hpp"

namespace rrs_llm {

using rrs_examples::quoted_name;

struct Tokenizer::Encoding {
  EncodeOptions options;
  const char* begin = nullptr;  // of the whole text, for offsets in messages
  std::size_t size = 0;
  std::vector<TokenId> ids;
  std::vector<TokenId> piece_ids;
  MergeTable::Workspace workspace;
};

Tokenizer::Tokenizer(TokenizerData data) : data_(std::move(data)) {
  check();
  bytes_.reserve(data_.texts.size());
  by_text_.reserve(data_.texts.size());
  for (std::size_t i = 0; i < data_.texts.size(); ++i) {
    const std::string& text = data_.texts[i];
    const bool spelled = data_.kinds[i] == TokenKind::kNormal;
    bytes_.push_back(spelled ? spelled_bytes(text) : text);
    if (!text.empty()) by_text_.emplace(text, static_cast<TokenId>(i));
    if (spelled && data_.ignore_merges) {
      by_bytes_.emplace(bytes_.back(), static_cast<TokenId>(i));  // bytes_ was reserved: stable
    }
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = find(byte_characters()[byte]).value_or(kNoToken);
  }
  build_merges();
  build_added();
}

void Tokenizer::fail(const std::string& problem) const {
  throw std::runtime_error(data_.source + ": tokenizer: " + problem);
}

void Tokenizer::check() const {
  const std::size_t count = data_.texts.size();
  if (count == 0) fail("the vocabulary is empty");
  if (count > kMaxVocabulary) {
    fail(std::to_string(count) + " tokens exceed " + std::to_string(kMaxVocabulary));
  }
  if (data_.kinds.size() != count) {
    fail(std::to_string(data_.kinds.size()) + " token types for " + std::to_string(count) +
         " tokens");
  }
  std::vector<TokenId> named = data_.ends;
  if (data_.bos) named.push_back(*data_.bos);
  if (data_.unknown) named.push_back(*data_.unknown);
  for (const TokenId id : named) index_of(id);
  if (data_.add_bos && !data_.bos) fail("add_bos is set, but there is no BOS token");
}

void Tokenizer::build_merges() {
  merges_.reserve(data_.merges.size());
  std::string joined;
  for (std::size_t i = 0; i < data_.merges.size(); ++i) {
    const auto& [left, right] = data_.merges[i];
    joined.assign(left).append(right);
    const auto left_id = find(left);
    const auto right_id = find(right);
    const auto merged_id = find(joined);
    if (!left_id || !right_id || !merged_id) {
      fail("merge " + std::to_string(i) + " " + quoted_name(left) + " " + quoted_name(right) +
           " uses a token that is not in the vocabulary");
    }
    merges_.add(*left_id, *right_id, *merged_id);
  }
  data_.merges.clear();
  data_.merges.shrink_to_fit();
}

void Tokenizer::build_added() {
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    const TokenKind kind = data_.kinds[i];
    if (kind != TokenKind::kControl && kind != TokenKind::kUserDefined) continue;
    if (bytes_[i].empty()) continue;
    added_[static_cast<unsigned char>(bytes_[i][0])].push_back(static_cast<TokenId>(i));
  }
  for (auto& ids : added_) {
    std::stable_sort(ids.begin(), ids.end(), [this](TokenId a, TokenId b) {
      return token_bytes(a).size() > token_bytes(b).size();
    });
  }
}

std::size_t Tokenizer::index_of(TokenId id) const {
  const std::size_t count = data_.texts.size();
  if (id < 0 || static_cast<std::size_t>(id) >= count) {
    fail("token id " + std::to_string(id) + " is not in [0, " + std::to_string(count) + ")");
  }
  return static_cast<std::size_t>(id);
}

std::string_view Tokenizer::token_bytes(TokenId id) const { return bytes_[index_of(id)]; }

bool Tokenizer::is_special(TokenId id) const {
  const TokenKind kind = data_.kinds[index_of(id)];
  return kind == TokenKind::kControl || kind == TokenKind::kUnused;
}

std::optional<TokenId> Tokenizer::find(std::string_view token_text) const {
  const auto found = by_text_.find(token_text);
  if (found == by_text_.end()) return std::nullopt;
  return found->second;
}

TokenId Tokenizer::added_at(std::string_view text, bool parse_special) const {
  for (const TokenId id : added_[static_cast<unsigned char>(text[0])]) {
    const auto index = static_cast<std::size_t>(id);
    if (!parse_special && data_.kinds[index] == TokenKind::kControl) continue;
    const std::string& bytes = bytes_[index];
    if (text.substr(0, bytes.size()) == bytes) return id;
  }
  return kNoToken;
}

void Tokenizer::encode_piece(std::string_view piece, Encoding* encoding) const {
  if (data_.ignore_merges) {
    const auto whole = by_bytes_.find(piece);
    if (whole != by_bytes_.end()) {
      encoding->ids.push_back(whole->second);
      return;
    }
  }
  auto& ids = encoding->piece_ids;
  ids.clear();
  for (std::size_t i = 0; i < piece.size(); ++i) {
    const auto byte = static_cast<unsigned char>(piece[i]);
    TokenId id = byte_ids_[byte];
    if (id == kNoToken && encoding->options.missing_byte == MissingByte::kRefuse) {
      fail("text has byte " + std::to_string(byte) + " at offset " +
           std::to_string(piece.data() + i - encoding->begin) +
           ", for which the vocabulary has no token");
    }
    ids.push_back(id);
  }
  merges_.merge(&ids, &encoding->workspace);
  for (const TokenId id : ids) {
    if (id == kNoToken && !data_.unknown) fail("there is no unknown token to stand for a byte");
    encoding->ids.push_back(id == kNoToken ? *data_.unknown : id);
  }
}

void Tokenizer::encode_plain(std::string_view text, Encoding* encoding) const {
  if (text.empty()) return;
  std::size_t pieces = 0;
  for (const std::string_view piece : data_.pre_tokenizer.split(text)) {
    encode_piece(piece, encoding);
    if (++pieces % 4096 != 0 || !encoding->options.progress) continue;
    encoding->options.progress(static_cast<std::size_t>(piece.data() - encoding->begin),
                               encoding->size);
  }
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  // Positions within a piece are 32-bit.
  constexpr std::size_t kLongest = std::numeric_limits<std::int32_t>::max();
  if (text.size() > kLongest) {
    fail("text of " + std::to_string(text.size()) + " bytes exceeds " + std::to_string(kLongest));
  }
  Encoding encoding;
  encoding.options = std::move(options);
  encoding.begin = text.data();
  encoding.size = text.size();
  if (encoding.options.prepend_bos) {
    if (!data_.bos) fail("there is no BOS token to prepend");
    encoding.ids.push_back(*data_.bos);
  }
  std::size_t plain = 0;  // start of the text not yet encoded
  for (std::size_t i = 0; i < text.size();) {
    const TokenId id = added_at(text.substr(i), encoding.options.parse_special);
    if (id == kNoToken) {
      ++i;
      continue;
    }
    encode_plain(text.substr(plain, i - plain), &encoding);
    encoding.ids.push_back(id);
    i += token_bytes(id).size();
    plain = i;
  }
  encode_plain(text.substr(plain), &encoding);
  return std::move(encoding.ids);
}

std::string Tokenizer::decode(const std::vector<TokenId>& ids) const {
  std::string text;
  for (const TokenId id : ids) text += token_bytes(id);
  return text;
}

}  // namespace rrs_llm
