#pragma once
// Splits text into the pieces that byte-pair merges may not cross.
//
// From: any bytes; to: views that, joined, are the text again (nothing is lost). Stages run in
// order, each on the pieces of the one before: every match of a pattern becomes a piece, and so
// does the text between matches. Patterns run in PCRE2 with UTF and UCP, compiled to machine code
// where the system allows. Bytes that are not UTF-8 are set aside first; a run of them is one
// piece.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rrs_llm {

// Length of the longest prefix that is well-formed UTF-8 (no overlong forms, no surrogates, at most
// U+10FFFF). PCRE2 relies on it: malformed text is undefined behaviour there.
std::size_t valid_utf8_prefix(std::string_view text) noexcept;

class PreTokenizer {
 public:
  // `where` names the file and field for messages; an invalid pattern throws.
  void add_stage(const std::string& pattern, const std::string& where);
  std::size_t stages() const noexcept { return stages_.size(); }

  std::vector<std::string_view> split(std::string_view text) const;

 private:
  struct Pattern;
  static void apply(const Pattern& pattern, std::string_view text,
                    std::vector<std::string_view>* pieces);
  void split_valid(std::string_view text, std::vector<std::string_view>* pieces) const;

  std::vector<std::shared_ptr<const Pattern>> stages_;
};

// The stages of a GGUF pre-tokenizer name; throws for an unknown one.
PreTokenizer named_pre_tokenizer(std::string_view name, const std::string& where);

// The pattern that GPT-2's byte-level pre-tokenizer carries.
extern const char* const kGpt2Pattern;

}  // namespace rrs_llm
