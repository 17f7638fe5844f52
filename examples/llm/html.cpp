#include "html.hpp"

#include <cstddef>

namespace rrs_llm {
namespace {

constexpr const char* kReplacement = "&#xFFFD;";

bool continuation(std::string_view s, std::size_t at) {
  return at < s.size() && (static_cast<unsigned char>(s[at]) & 0xc0u) == 0x80u;
}

// Bytes of the valid UTF-8 character at `at`; 0 when there is none (overlong forms, surrogates and
// values above U+10FFFF included).
std::size_t character_length(std::string_view s, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned lead = byte(at);
  if (lead < 0x80u) return 1;
  if (lead < 0xc2u || lead > 0xf4u || !continuation(s, at + 1)) return 0;
  if (lead < 0xe0u) return 2;
  const unsigned second = byte(at + 1);
  if (!continuation(s, at + 2)) return 0;
  if (lead < 0xf0u) {
    const bool overlong = lead == 0xe0u && second < 0xa0u;
    const bool surrogate = lead == 0xedu && second >= 0xa0u;
    const bool not_xml = lead == 0xefu && second == 0xbfu && byte(at + 2) >= 0xbeu;
    return overlong || surrogate || not_xml ? 0 : 3;
  }
  const bool outside = (lead == 0xf0u && second < 0x90u) || (lead == 0xf4u && second >= 0x90u);
  return outside || !continuation(s, at + 3) ? 0 : 4;
}

std::string escape(std::string_view s, bool visible) {
  std::string out;
  for (std::size_t at = 0; at < s.size();) {
    const std::size_t length = character_length(s, at);
    const char c = s[at];
    if (length > 1) {
      out += s.substr(at, length);
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\'') {
      out += "&#39;";
    } else if (visible && c == ' ') {
      out += "&#x2423;";
    } else if (visible && c == '\n') {
      out += "&#x21B5;";
    } else if (visible && c == '\t') {
      out += "&#x21E5;";
    } else if (length == 1 && (c == '\n' || c == '\t' || (c >= ' ' && c != 0x7f))) {
      out += c;
    } else {
      out += kReplacement;
    }
    at += length == 0 ? 1 : length;
  }
  return out;
}

}  // namespace

std::string html_text(std::string_view bytes) { return escape(bytes, false); }
std::string html_token(std::string_view bytes) { return escape(bytes, true); }

}  // namespace rrs_llm
