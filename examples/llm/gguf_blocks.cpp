#include "gguf_blocks.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "../support/half.hpp"

namespace rrs_llm {
namespace {

constexpr std::array<GgufTypeInfo, 11> kTypes{{{GgufType::kF32, "F32", 1, 4},
                                               {GgufType::kF16, "F16", 1, 2},
                                               {GgufType::kQ4_0, "Q4_0", 32, 18},
                                               {GgufType::kQ4_1, "Q4_1", 32, 20},
                                               {GgufType::kQ5_0, "Q5_0", 32, 22},
                                               {GgufType::kQ5_1, "Q5_1", 32, 24},
                                               {GgufType::kQ8_0, "Q8_0", 32, 34},
                                               {GgufType::kQ4_K, "Q4_K", 256, 144},
                                               {GgufType::kQ5_K, "Q5_K", 256, 176},
                                               {GgufType::kQ6_K, "Q6_K", 256, 210},
                                               {GgufType::kBF16, "BF16", 1, 2}}};

unsigned byte_at(const std::byte* p, std::size_t i) noexcept {
  return std::to_integer<unsigned>(p[i]);
}

std::uint16_t u16_at(const std::byte* p) noexcept {
  return static_cast<std::uint16_t>(byte_at(p, 0) | byte_at(p, 1) << 8);
}

float half_at(const std::byte* p) noexcept { return rrs_examples::f16_to_f32(u16_at(p)); }

float signed_byte(unsigned value) noexcept {
  return static_cast<float>(static_cast<std::int8_t>(static_cast<std::uint8_t>(value)));
}

// 32 codes from 16 bytes: the low nibbles are the first half of the block.
void unpack_nibbles(const std::byte* in, unsigned* codes) noexcept {
  for (std::size_t i = 0; i < 16; ++i) {
    codes[i] = byte_at(in, i) & 15u;
    codes[i + 16] = byte_at(in, i) >> 4;
  }
}

// Adds the fifth bit of each of 32 codes, bit i of a little-endian 32-bit word.
void add_fifth_bits(const std::byte* in, unsigned* codes) noexcept {
  for (std::size_t i = 0; i < 32; ++i) codes[i] += ((byte_at(in, i / 8) >> (i % 8)) & 1u) << 4;
}

void block_q4_0(const std::byte* in, float* out) noexcept {
  unsigned codes[32];
  unpack_nibbles(in + 2, codes);
  const float d = half_at(in);
  for (std::size_t i = 0; i < 32; ++i) out[i] = (static_cast<float>(codes[i]) - 8.0f) * d;
}

void block_q4_1(const std::byte* in, float* out) noexcept {
  unsigned codes[32];
  unpack_nibbles(in + 4, codes);
  const float d = half_at(in);
  const float m = half_at(in + 2);
  for (std::size_t i = 0; i < 32; ++i) out[i] = static_cast<float>(codes[i]) * d + m;
}

void block_q5_0(const std::byte* in, float* out) noexcept {
  unsigned codes[32];
  unpack_nibbles(in + 6, codes);
  add_fifth_bits(in + 2, codes);
  const float d = half_at(in);
  for (std::size_t i = 0; i < 32; ++i) out[i] = (static_cast<float>(codes[i]) - 16.0f) * d;
}

void block_q5_1(const std::byte* in, float* out) noexcept {
  unsigned codes[32];
  unpack_nibbles(in + 8, codes);
  add_fifth_bits(in + 4, codes);
  const float d = half_at(in);
  const float m = half_at(in + 2);
  for (std::size_t i = 0; i < 32; ++i) out[i] = static_cast<float>(codes[i]) * d + m;
}

void block_q8_0(const std::byte* in, float* out) noexcept {
  const float d = half_at(in);
  for (std::size_t i = 0; i < 32; ++i) out[i] = signed_byte(byte_at(in, 2 + i)) * d;
}

// Eight 6-bit scales and eight 6-bit offsets in 12 bytes. The first four of each are the low six
// bits of bytes 0-3 and 4-7; the last four take their low nibble from bytes 8-11 (scale low, offset
// high) and their top two bits from the top of bytes 0-3 and 4-7.
struct KScales {
  unsigned scale[8];
  unsigned offset[8];
};

KScales unpack_k_scales(const std::byte* in) noexcept {
  KScales k{};
  for (std::size_t j = 0; j < 4; ++j) {
    const unsigned scale = byte_at(in, j);
    const unsigned offset = byte_at(in, 4 + j);
    const unsigned shared = byte_at(in, 8 + j);
    k.scale[j] = scale & 63u;
    k.offset[j] = offset & 63u;
    k.scale[4 + j] = (shared & 15u) | (scale >> 6) << 4;
    k.offset[4 + j] = (shared >> 4) | (offset >> 6) << 4;
  }
  return k;
}

// Q4_K and Q5_K: 32 bytes of nibbles serve two sub-blocks of 32, low nibbles first. `high` holds
// the fifth bits of Q5_K (sub-block j in bit j of byte i), or is nullptr.
void k_block(const std::byte* in, const std::byte* high, const std::byte* nibbles,
             float* out) noexcept {
  const float d = half_at(in);
  const float d_offset = half_at(in + 2);
  const KScales k = unpack_k_scales(in + 4);
  for (std::size_t j = 0; j < 8; ++j) {
    const float scale = d * static_cast<float>(k.scale[j]);
    const float offset = d_offset * static_cast<float>(k.offset[j]);
    for (std::size_t i = 0; i < 32; ++i) {
      unsigned code = (byte_at(nibbles, 32 * (j / 2) + i) >> (4 * (j % 2))) & 15u;
      if (high != nullptr) code += ((byte_at(high, i) >> j) & 1u) << 4;
      out[32 * j + i] = static_cast<float>(code) * scale - offset;
    }
  }
}

void block_q4_k(const std::byte* in, float* out) noexcept { k_block(in, nullptr, in + 16, out); }
void block_q5_k(const std::byte* in, float* out) noexcept { k_block(in, in + 16, in + 48, out); }

// Two halves of 128 elements; in each, four runs of 32: runs 0 and 1 are the low nibbles of 64
// bytes, runs 2 and 3 the high ones; run r's upper two bits are bits 2r of 32 further bytes.
void block_q6_k(const std::byte* in, float* out) noexcept {
  const float d = half_at(in + 208);
  for (std::size_t e = 0; e < 256; ++e) {
    const std::size_t half = e / 128;
    const std::size_t run = e % 128 / 32;
    const std::size_t i = e % 32;
    const unsigned low = byte_at(in, 64 * half + 32 * (run % 2) + i) >> (4 * (run / 2));
    const unsigned high = byte_at(in, 128 + 32 * half + i) >> (2 * run);
    const unsigned code = (low & 15u) | (high & 3u) << 4;
    const float scale = d * signed_byte(byte_at(in, 192 + e / 16));
    out[e] = (static_cast<float>(code) - 32.0f) * scale;
  }
}

using BlockFunction = void (*)(const std::byte*, float*) noexcept;

BlockFunction block_function(GgufType type) noexcept {
  switch (type) {
    case GgufType::kQ4_0: return block_q4_0;
    case GgufType::kQ4_1: return block_q4_1;
    case GgufType::kQ5_0: return block_q5_0;
    case GgufType::kQ5_1: return block_q5_1;
    case GgufType::kQ8_0: return block_q8_0;
    case GgufType::kQ4_K: return block_q4_k;
    case GgufType::kQ5_K: return block_q5_k;
    case GgufType::kQ6_K: return block_q6_k;
    case GgufType::kF32:
      return [](const std::byte* in, float* out) noexcept { std::memcpy(out, in, sizeof(float)); };
    case GgufType::kF16:
      return [](const std::byte* in, float* out) noexcept { *out = half_at(in); };
    case GgufType::kBF16: break;
  }
  return [](const std::byte* in, float* out) noexcept {
    *out = rrs_examples::bf16_to_f32(u16_at(in));
  };
}

}  // namespace

const GgufTypeInfo* find_gguf_type(std::uint32_t number) noexcept {
  const auto found = std::find_if(kTypes.begin(), kTypes.end(), [number](const GgufTypeInfo& t) {
    return static_cast<std::uint32_t>(t.type) == number;
  });
  return found == kTypes.end() ? nullptr : &*found;
}

const GgufTypeInfo& gguf_type_info(GgufType type) noexcept {
  return *find_gguf_type(static_cast<std::uint32_t>(type));
}

void dequantize(GgufType type, const std::byte* in, std::size_t count, float* out) noexcept {
  const GgufTypeInfo& info = gguf_type_info(type);
  const BlockFunction block = block_function(type);
  for (std::size_t b = 0; b < count / info.block_elements; ++b) {
    block(in + b * info.block_bytes, out + b * info.block_elements);
  }
}

}  // namespace rrs_llm
