#include "byte_level.hpp"

#include <cstddef>

namespace rrs_llm {
namespace {

constexpr unsigned kFirstSubstitute = 0x100;
constexpr unsigned kCharacters = kFirstSubstitute + 68;  // the alphabet lies below U+0144

bool stands_for_itself(unsigned byte) noexcept {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

std::array<unsigned, 256> make_code_points() noexcept {
  std::array<unsigned, 256> points{};
  unsigned next = kFirstSubstitute;
  for (unsigned byte = 0; byte < 256; ++byte) {
    points[byte] = stands_for_itself(byte) ? byte : next++;
  }
  return points;
}

std::array<int, kCharacters> make_bytes() noexcept {
  std::array<int, kCharacters> bytes{};
  bytes.fill(-1);
  const auto points = make_code_points();
  for (unsigned byte = 0; byte < 256; ++byte) bytes[points[byte]] = static_cast<int>(byte);
  return bytes;
}

std::string utf8(unsigned point) {
  if (point < 0x80) return {static_cast<char>(point)};
  return {static_cast<char>(0xc0u | point >> 6), static_cast<char>(0x80u | (point & 0x3fu))};
}

}  // namespace

const std::array<std::string, 256>& byte_characters() {
  static const auto characters_of_bytes = [] {
    std::array<std::string, 256> result;
    const auto points = make_code_points();
    for (std::size_t byte = 0; byte < 256; ++byte) result[byte] = utf8(points[byte]);
    return result;
  }();
  return characters_of_bytes;
}

std::string spelled_bytes(std::string_view text) {
  static const auto bytes = make_bytes();
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned point = static_cast<unsigned char>(text[i]);
    if (point >= 0x80) {  // the alphabet needs one and two byte forms only
      const bool two = point >= 0xc2 && point < 0xe0 && i + 1 < text.size();
      const unsigned second = two ? static_cast<unsigned char>(text[++i]) : 0u;
      if ((second & 0xc0u) != 0x80u) return std::string(text);
      point = (point & 0x1fu) << 6 | (second & 0x3fu);
    }
    if (point >= bytes.size() || bytes[point] < 0) return std::string(text);
    result += static_cast<char>(bytes[point]);
  }
  return result;
}

}  // namespace rrs_llm
