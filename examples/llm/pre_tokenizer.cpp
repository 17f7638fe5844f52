#include "pre_tokenizer.hpp"

#include <array>
#include <cstdint>
#include <stdexcept>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace rrs_llm {

// Spelled by the published tokenizers; parts: contractions, words, numbers, other, white space.
// White space before a word leaves its last character to the word.
const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

constexpr const char* kSingleDigits = R"(\p{N})";
constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDefaultPunctuation = R"([\p{P}\$\+<=>\^~\|]+)";
constexpr const char* kDigitRuns = R"(\p{N}+)";
constexpr const char* kDigitTriples = R"([0-9][0-9][0-9])";

struct CodeDeleter {
  void operator()(pcre2_code* code) const noexcept { pcre2_code_free(code); }
};
struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const noexcept { pcre2_match_data_free(data); }
};

std::string error_text(int code) {
  std::array<unsigned char, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

unsigned byte_of(std::string_view text, std::size_t i) noexcept {
  return static_cast<unsigned char>(text[i]);
}

// Length of the well-formed character at `i`, or 0.
std::size_t character_length(std::string_view text, std::size_t i) noexcept {
  const unsigned lead = byte_of(text, i);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (length > text.size() - i) return 0;
  for (std::size_t k = 1; k < length; ++k) {
    if ((byte_of(text, i + k) & 0xc0u) != 0x80u) return 0;
  }
  const unsigned second = byte_of(text, i + 1);
  if (lead == 0xe0 && second < 0xa0) return 0;   // overlong
  if (lead == 0xed && second >= 0xa0) return 0;  // surrogate
  if (lead == 0xf0 && second < 0x90) return 0;   // overlong
  if (lead == 0xf4 && second >= 0x90) return 0;  // beyond U+10FFFF
  return length;
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view text) noexcept {
  std::size_t i = 0;
  while (i < text.size()) {
    const std::size_t length = character_length(text, i);
    if (length == 0) break;
    i += length;
  }
  return i;
}

struct PreTokenizer::Pattern {
  std::unique_ptr<pcre2_code, CodeDeleter> code;
  std::string where;
};

void PreTokenizer::add_stage(const std::string& pattern, const std::string& where) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto compiled = std::make_shared<Pattern>();
  compiled->where = where;
  // \C could end a match inside a character, which the UTF promise to PCRE2 excludes.
  constexpr std::uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
  compiled->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                     kOptions, &error, &offset, nullptr));
  if (compiled->code == nullptr) {
    throw std::runtime_error(where + ": pattern is invalid at character " + std::to_string(offset) +
                             ": " + error_text(error));
  }
  // May fail where executable memory is forbidden; the interpreter then gives the same matches.
  pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE);
  stages_.push_back(std::move(compiled));
}

void PreTokenizer::apply(const Pattern& pattern, std::string_view text,
                         std::vector<std::string_view>* pieces) {
  const std::unique_ptr<pcre2_match_data, MatchDataDeleter> match(
      pcre2_match_data_create_from_pattern(pattern.code.get(), nullptr));
  if (match == nullptr) throw std::bad_alloc();
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
  std::size_t done = 0;  // everything before is in pieces
  std::size_t from = 0;
  while (from < text.size()) {
    std::uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int found =
        pcre2_match(pattern.code.get(), subject, text.size(), from, options, match.get(), nullptr);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter's stack is on the heap
      options |= PCRE2_NO_JIT;
      found = pcre2_match(pattern.code.get(), subject, text.size(), from, options, match.get(),
                          nullptr);
    }
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      throw std::runtime_error(pattern.where + ": matching failed at byte " + std::to_string(from) +
                               ": " + error_text(found));
    }
    // \K in a look-around can report a range that does not advance.
    if (range[0] < done || range[1] <= range[0] || range[1] > text.size()) {
      throw std::runtime_error(pattern.where + ": pattern gives a match that does not advance");
    }
    if (range[0] > done) pieces->push_back(text.substr(done, range[0] - done));
    pieces->push_back(text.substr(range[0], range[1] - range[0]));
    done = from = range[1];
  }
  if (done < text.size()) pieces->push_back(text.substr(done));
}

void PreTokenizer::split_valid(std::string_view text, std::vector<std::string_view>* pieces) const {
  std::vector<std::string_view> current{text};
  std::vector<std::string_view> next;
  for (const auto& stage : stages_) {
    next.clear();
    for (const std::string_view piece : current) apply(*stage, piece, &next);
    current.swap(next);
  }
  pieces->insert(pieces->end(), current.begin(), current.end());
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  std::vector<std::string_view> pieces;
  while (!text.empty()) {
    const std::size_t valid = valid_utf8_prefix(text);
    if (valid > 0) split_valid(text.substr(0, valid), &pieces);
    text.remove_prefix(valid);
    std::size_t invalid = 0;
    while (invalid < text.size() && character_length(text, invalid) == 0) ++invalid;
    if (invalid > 0) pieces.push_back(text.substr(0, invalid));
    text.remove_prefix(invalid);
  }
  return pieces;
}

PreTokenizer named_pre_tokenizer(std::string_view name, const std::string& where) {
  struct Named {
    std::string_view name;
    std::vector<const char*> stages;
  };
  static const std::array<Named, 7> known{{
      {"smollm", {kSingleDigits, kGpt2Pattern}},
      {"gpt-2", {kGpt2Pattern}},
      {"llama-bpe", {kLlama3Pattern}},
      {"llama3", {kLlama3Pattern}},
      {"llama-v3", {kLlama3Pattern}},
      {"qwen2", {kQwen2Pattern}},
      {"default", {kDefaultPunctuation, kGpt2Pattern, kDigitRuns, kDigitTriples}},
  }};
  for (const Named& entry : known) {
    if (entry.name != name) continue;
    PreTokenizer result;
    for (const char* stage : entry.stages) result.add_stage(stage, where);
    return result;
  }
  throw std::runtime_error(where + ": pre-tokenizer '" + std::string(name.substr(0, 60)) +
                           "' is not supported (smollm, gpt-2, llama-bpe, qwen2 and default are)");
}

}  // namespace rrs_llm
