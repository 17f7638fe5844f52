#pragma once
// Byte-level BPE tokenizer from GGUF metadata or a tokenizer.json.
//
// From: text, any bytes; to: token ids and back. Encoding: added tokens found in the text become
// their ids (control tokens only when asked), the rest is split by the pre-tokenizer, each piece
// spelled in byte tokens, then merged. decode(encode(text)) == text for any bytes the vocabulary
// has tokens for. Some vocabularies lack a few bytes (SmolLM2's lacks 21, such as 0x04 and 0xff):
// text with one of those is refused unless the caller accepts the unknown token in its place.
// Unicode normalization (NFC) that a tokenizer.json asks for is not applied: text in NFC, which
// nearly all text is, gives the same ids, and other text round-trips instead of changing.
// Thread safety: const members may run concurrently.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bpe.hpp"
#include "gguf.hpp"
#include "pre_tokenizer.hpp"

namespace rrs_llm {

enum class TokenKind : std::uint8_t {
  kNormal,       // spelled in the byte-level alphabet
  kUserDefined,  // literal text, always found in the input
  kControl,      // literal text, found only when special tokens are parsed
  kUnused,       // literal text or a hole, never produced
};

inline constexpr std::size_t kMaxVocabulary = std::size_t{1} << 24;

// What both file formats reduce to.
struct TokenizerData {
  std::string source;  // file, for messages
  std::vector<std::string> texts;
  std::vector<TokenKind> kinds;
  std::vector<std::pair<std::string_view, std::string_view>> merges;  // valid during construction
  PreTokenizer pre_tokenizer;
  bool ignore_merges = false;  // a piece that is a token as a whole is not merged from bytes
  bool add_bos = false;
  std::optional<TokenId> bos;
  std::optional<TokenId> unknown;
  std::vector<TokenId> ends;  // generation stops at any of them
};

enum class MissingByte { kRefuse, kUnknownToken };

struct EncodeOptions {
  bool parse_special = false;
  bool prepend_bos = false;
  MissingByte missing_byte = MissingByte::kRefuse;
  std::function<void(std::size_t done, std::size_t all)> progress;  // bytes of the text
};

class Tokenizer {
 public:
  explicit Tokenizer(TokenizerData data);
  Tokenizer(Tokenizer&&) = default;
  Tokenizer& operator=(Tokenizer&&) = default;

  std::vector<TokenId> encode(std::string_view text, EncodeOptions options = {}) const;
  std::string decode(const std::vector<TokenId>& ids) const;

  std::size_t size() const noexcept { return bytes_.size(); }
  std::string_view token_bytes(TokenId id) const;  // throws for an id outside the vocabulary
  bool is_special(TokenId id) const;               // control or unused
  std::optional<TokenId> find(std::string_view token_text) const;  // by its text in the file
  bool has_byte(unsigned char byte) const noexcept { return byte_ids_[byte] != kNoToken; }

  bool add_bos() const noexcept { return data_.add_bos; }
  std::optional<TokenId> bos() const noexcept { return data_.bos; }
  const std::vector<TokenId>& ends() const noexcept { return data_.ends; }

 private:
  struct Encoding;  // one call's state
  void check() const;
  void build_merges();
  void build_added();
  std::size_t index_of(TokenId id) const;
  // Longest added token at the start of `text`, or kNoToken.
  TokenId added_at(std::string_view text, bool parse_special) const;
  void encode_plain(std::string_view text, Encoding* encoding) const;
  void encode_piece(std::string_view piece, Encoding* encoding) const;
  [[noreturn]] void fail(const std::string& problem) const;

  TokenizerData data_;
  std::vector<std::string> bytes_;
  std::unordered_map<std::string_view, TokenId> by_text_;   // keys view data_.texts
  std::unordered_map<std::string_view, TokenId> by_bytes_;  // only with ignore_merges
  TokenId byte_ids_[256];
  MergeTable merges_;
  std::vector<TokenId> added_[256];  // by first byte, longest first
};

Tokenizer tokenizer_from_gguf(const Gguf& file);

// `config_text`: the folder's tokenizer_config.json, or empty.
Tokenizer tokenizer_from_json(std::string_view text, const std::string& path,
                              std::string_view config_text, const std::string& config_path);

}  // namespace rrs_llm
