// The layer of main.cpp in a normal build: the same bits at every level and with every compiler.
#pragma once

#include <cstdint>
#include <vector>

struct Expected {
  const char* name;                   // of the preset
  std::uint64_t codes;                // hash_bytes of the packed codes
  std::vector<std::uint32_t> scales;  // [rows][groups], then those of tokens [rows]
  std::vector<std::uint32_t> y;       // [rows][outputs]
};

inline std::vector<Expected> expected() {
  return {
      {"rrs",
       0x6f13239f0be675f5,
       {0xbf5ad3d3, 0x3e1119bc, 0x00000000, 0xbe82fc6b, 0xa78ac203, 0xa6863432, 0x3f800000,
        0x3f800000, 0x3f800000},
       {0x41eaa95b, 0x40e23480, 0xb97c1e11, 0x4004273b, 0x4050d7c8, 0xb791f3c2, 0x2a0669a1,
        0x2901d646, 0x2163cf0e}},
      {"rrs-w4a8",
       0xd04174ccb9242d5b,
       {0xbd458b37, 0x3c1119bc, 0x00000000, 0xbc82fc6b, 0xa587ab7e, 0xa4863432, 0x3f800000,
        0x3f800000, 0x3f800000},
       {0x41eb57bb, 0x40d8ff0f, 0xb99a8ebd, 0x40096262, 0x4055ad5e, 0xb78a2221, 0x2a03b3b8,
        0x28bbbfe8, 0x2197e972}},
      {"rtn",
       0xed587515cbf963ea,
       {0x407fa000, 0x3e3c0000, 0x28a5d925, 0x3f800000, 0x3f800000, 0x3f800000},
       {0x41eb15b7, 0x40a92c78, 0x00000000, 0x401a5e8e, 0x4064d7aa, 0x37186200, 0x2a188598,
        0x28db84a2, 0x00000000}},
  };
}
