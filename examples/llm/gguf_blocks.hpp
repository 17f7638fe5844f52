#pragma once
// GGUF tensor types: block sizes and dequantization to float.
//
// From: raw rows of a mapped GGUF file; to: f32 rows. A row is a whole number of blocks. Formulas
// (d and m are the block's f16 scale and offset, q an unsigned code):
//   Q4_0 (q-8)*d   Q5_0 (q-16)*d   Q8_0 q*d (signed)   Q4_1, Q5_1 q*d + m
//   Q4_K, Q5_K q*(d*s) - dmin*o, s and o 6-bit per 32 elements   Q6_K (q-32)*(d*s), s i8 per 16
// The file's integers and halves are read byte by byte: blocks have no alignment.

#include <cstddef>
#include <cstdint>

namespace rrs_llm {

// Values are the format's own type numbers.
enum class GgufType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct GgufTypeInfo {
  GgufType type;
  const char* name;
  std::size_t block_elements;
  std::size_t block_bytes;
};

// nullptr for a type number that is not supported.
const GgufTypeInfo* find_gguf_type(std::uint32_t number) noexcept;
const GgufTypeInfo& gguf_type_info(GgufType type) noexcept;

// `count` is a multiple of the type's block_elements; `in` holds count / block_elements blocks.
void dequantize(GgufType type, const std::byte* in, std::size_t count, float* out) noexcept;

}  // namespace rrs_llm
