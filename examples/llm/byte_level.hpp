#pragma once
// The byte-level alphabet: each byte has a printable character, under which vocabularies spell it.
//
// Bytes that are printable in Latin-1 stand for themselves (0x21-0x7e, 0xa1-0xac, 0xae-0xff), the
// other 68 in increasing order for U+0100, U+0101, ... Consumers: the tokenizer's tables.

#include <array>
#include <string>
#include <string_view>

namespace rrs_llm {

// Byte b as UTF-8 text of its character.
const std::array<std::string, 256>& byte_characters();

// The bytes a token's text spells. A text with a character outside the alphabet stands for itself.
std::string spelled_bytes(std::string_view text);

}  // namespace rrs_llm
