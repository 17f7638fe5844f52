#pragma once
// Names that come from files, made fit for messages: only printable ASCII, and not endless.

#include <cstddef>
#include <string>
#include <string_view>

namespace rrs_examples {

inline std::string quoted_name(std::string_view name) {
  constexpr std::size_t kLongest = 100;
  std::string out = "'";
  for (const char c : name.substr(0, kLongest)) out += (c < 0x20 || c > 0x7e) ? '?' : c;
  return out + (name.size() > kLongest ? "...'" : "'");
}

}  // namespace rrs_examples
