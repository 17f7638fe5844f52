#pragma once
// HTML text from untrusted bytes.
//
// From: model files, texts, tokens; to: doctor_page.cpp. The result is valid UTF-8 that no browser
// reads as markup, inside elements and inside double-quoted attributes.

#include <string>
#include <string_view>

namespace rrs_llm {

// & < > " ' as entities; bytes that are not UTF-8, and control characters that XML forbids, as
// U+FFFD.
std::string html_text(std::string_view bytes);
// The same, with spaces, line ends and tabs made visible: for single tokens.
std::string html_token(std::string_view bytes);

}  // namespace rrs_llm
