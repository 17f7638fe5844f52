// Dequantization of every GGUF type: codes packed here by the format's definition come back as
// code, scale and offset say, computed in double; and whole rows match the values another
// implementation gives for the same bytes (digest of the float bits).

#include "../../examples/llm/gguf_blocks.hpp"

#include <cstdint>
#include <string>
#include <vector>

#include "../../examples/support/half.hpp"
#include "test_files.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;
using rrs_examples::f16_to_f32;
using rrs_examples::f32_to_f16;

using Bytes = std::vector<unsigned>;

std::vector<float> run(GgufType type, const Bytes& bytes, std::size_t count) {
  std::string text;
  for (const unsigned byte : bytes) text += static_cast<char>(byte);
  std::vector<float> out(count, -12345.0f);
  dequantize(type, reinterpret_cast<const std::byte*>(text.data()), count, out.data());
  return out;
}

// A random half of ordinary size, appended in the file's order; its exact value.
double put_half(Random* random, Bytes* bytes) {
  const unsigned half = f32_to_f16(random->real() * 0.1f);
  bytes->push_back(half & 255u);
  bytes->push_back(half >> 8);
  return static_cast<double>(f16_to_f32(static_cast<std::uint16_t>(half)));
}

Bytes random_codes(Random* random, std::size_t count, unsigned limit) {
  Bytes codes(count);
  for (unsigned& code : codes) code = random->below(limit);
  return codes;
}

// ORs `bits` into the bit string that starts at byte `base`, `position` bits on.
void put_bits(Bytes* bytes, std::size_t base, std::size_t position, unsigned bits) {
  bytes->at(base + position / 8) |= bits << (position % 8);
}

struct SmallFormat {
  GgufType type;
  bool offset;  // has an m
  bool fifth;   // has a fifth bit
};

class SmallBlocks : public ::testing::TestWithParam<SmallFormat> {};

TEST_P(SmallBlocks, MatchTheFormula) {
  const SmallFormat format = GetParam();
  Random random(static_cast<std::uint32_t>(format.type));
  for (int trial = 0; trial < 50; ++trial) {
    Bytes bytes;
    const double d = put_half(&random, &bytes);
    const double m = format.offset ? put_half(&random, &bytes) : 0.0;
    const std::size_t high = bytes.size();
    const std::size_t low = high + (format.fifth ? 4 : 0);
    bytes.resize(low + 16);
    const Bytes codes = random_codes(&random, 32, format.fifth ? 32 : 16);
    for (std::size_t i = 0; i < 32; ++i) {
      put_bits(&bytes, low, 8 * (i % 16) + 4 * (i / 16), codes[i] & 15u);
      if (format.fifth) put_bits(&bytes, high, i, codes[i] >> 4);
    }
    ASSERT_EQ(bytes.size(), gguf_type_info(format.type).block_bytes);
    const double center = format.offset ? 0.0 : format.fifth ? 16.0 : 8.0;
    const auto out = run(format.type, bytes, 32);
    for (std::size_t i = 0; i < 32; ++i) {
      EXPECT_EQ(out[i], static_cast<float>((codes[i] - center) * d + m)) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SmallBlocks,
                         ::testing::Values(SmallFormat{GgufType::kQ4_0, false, false},
                                           SmallFormat{GgufType::kQ4_1, true, false},
                                           SmallFormat{GgufType::kQ5_0, false, true},
                                           SmallFormat{GgufType::kQ5_1, true, true}));

TEST(Blocks, Q8_0MatchesTheFormula) {
  Random random(8);
  Bytes bytes;
  const double d = put_half(&random, &bytes);
  for (unsigned code = 0; code < 32; ++code) bytes.push_back(code * 8 + code % 8);
  const auto out = run(GgufType::kQ8_0, bytes, 32);
  for (std::size_t i = 0; i < 32; ++i) {
    const double code = bytes[2 + i] < 128 ? bytes[2 + i] : bytes[2 + i] - 256.0;
    EXPECT_EQ(out[i], static_cast<float>(code * d)) << i;
  }
}

// The 12 scale bytes are two arrays of six-bit numbers: the low four bits of numbers 4 to 7 are the
// nibbles of bytes 8 to 11, their upper two sit above the six bits of numbers 0 to 3.
void put_k_scales(Bytes* bytes, const Bytes& scales, const Bytes& offsets) {
  const std::size_t base = bytes->size();
  bytes->resize(base + 12);
  for (std::size_t j = 0; j < 8; ++j) {
    for (const bool is_offset : {false, true}) {
      const unsigned value = is_offset ? offsets[j] : scales[j];
      const std::size_t first = base + (is_offset ? 4 : 0);
      if (j < 4) {
        (*bytes)[first + j] |= value;
      } else {
        (*bytes)[first + j - 4] |= (value >> 4) << 6;
        (*bytes)[base + 4 + j] |= (value & 15u) << (is_offset ? 4 : 0);
      }
    }
  }
}

void check_k_block(GgufType type, unsigned limit) {
  Random random(static_cast<std::uint32_t>(type));
  for (int trial = 0; trial < 50; ++trial) {
    Bytes bytes;
    const double d = put_half(&random, &bytes);
    const double d_offset = put_half(&random, &bytes);
    const Bytes scales = random_codes(&random, 8, 64);
    const Bytes offsets = random_codes(&random, 8, 64);
    const Bytes codes = random_codes(&random, 256, limit);
    put_k_scales(&bytes, scales, offsets);
    const std::size_t high = bytes.size();
    const std::size_t low = high + (limit > 16 ? 32 : 0);
    bytes.resize(low + 128);
    for (std::size_t e = 0; e < 256; ++e) {
      const std::size_t pair = e / 64;  // 64 elements share 32 bytes
      const std::size_t upper = (e / 32) % 2;
      put_bits(&bytes, low + 32 * pair, 8 * (e % 32) + 4 * upper, codes[e] & 15u);
      if (limit > 16) put_bits(&bytes, high, 8 * (e % 32) + e / 32, codes[e] >> 4);
    }
    ASSERT_EQ(bytes.size(), gguf_type_info(type).block_bytes);
    const auto out = run(type, bytes, 256);
    for (std::size_t e = 0; e < 256; ++e) {
      const double expected = d * scales[e / 32] * codes[e] - d_offset * offsets[e / 32];
      EXPECT_EQ(out[e], static_cast<float>(expected)) << e;
    }
  }
}

TEST(Blocks, Q4_KMatchesTheFormula) { check_k_block(GgufType::kQ4_K, 16); }
TEST(Blocks, Q5_KMatchesTheFormula) { check_k_block(GgufType::kQ5_K, 32); }

TEST(Blocks, Q6_KMatchesTheFormula) {
  Random random(6);
  for (int trial = 0; trial < 50; ++trial) {
    const Bytes codes = random_codes(&random, 256, 64);
    const Bytes scales = random_codes(&random, 16, 256);
    Bytes bytes(192);
    for (std::size_t e = 0; e < 256; ++e) {
      const std::size_t half = e / 128;
      const std::size_t r = e % 128;
      // Element r of a half: byte r % 64 of 64 low bytes, and byte r % 32 of 32 high bytes.
      put_bits(&bytes, 64 * half, 8 * (r % 64) + 4 * (r / 64), codes[e] & 15u);
      put_bits(&bytes, 128 + 32 * half, 8 * (r % 32) + 2 * (r / 32), codes[e] >> 4);
    }
    bytes.insert(bytes.end(), scales.begin(), scales.end());
    const double d = put_half(&random, &bytes);
    ASSERT_EQ(bytes.size(), gguf_type_info(GgufType::kQ6_K).block_bytes);
    const auto out = run(GgufType::kQ6_K, bytes, 256);
    for (std::size_t e = 0; e < 256; ++e) {
      const double scale = scales[e / 16] < 128 ? scales[e / 16] : scales[e / 16] - 256.0;
      EXPECT_EQ(out[e], static_cast<float>(d * scale * (codes[e] - 32.0))) << e;
    }
  }
}

// Digests of what the format's published Python package gives for the bytes made below.
struct Published {
  GgufType type;
  std::size_t count;
  double second;
  double last;
  std::uint64_t digest;
};

Bytes published_bytes(const GgufTypeInfo& info, std::size_t count) {
  const std::size_t blocks = count / info.block_elements;
  Bytes bytes(blocks * info.block_bytes);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<unsigned>((i * i * 7 + i * 167 + 13) >> 1) & 255u;
  }
  std::vector<std::size_t> halves{0};
  if (info.type == GgufType::kQ6_K) halves = {208};
  if (info.type == GgufType::kQ4_1 || info.type == GgufType::kQ5_1) halves = {0, 2};
  if (info.type == GgufType::kQ4_K || info.type == GgufType::kQ5_K) halves = {0, 2};
  constexpr unsigned kScales[4] = {0x2c35, 0xa811, 0x3401, 0x2222};
  std::size_t used = 0;
  for (std::size_t b = 0; b < blocks; ++b) {
    if (info.block_elements == 1) {
      bytes[2 * b + 1] &= 0x3fu;  // finite
      continue;
    }
    for (const std::size_t at : halves) {
      const unsigned scale = kScales[used++ % 4];
      bytes[b * info.block_bytes + at] = scale & 255u;
      bytes[b * info.block_bytes + at + 1] = scale >> 8;
    }
  }
  return bytes;
}

std::uint64_t digest_of(const std::vector<float>& values) {
  std::uint64_t digest = 0xcbf29ce484222325u;  // FNV-1a
  for (const char byte : raw_all(values)) {
    digest = (digest ^ static_cast<unsigned char>(byte)) * 0x100000001b3u;
  }
  return digest;
}

TEST(Blocks, MatchThePublishedPackage) {
  const std::vector<Published> all{
      {GgufType::kF16, 96u, 0.00923919677734375, 0.0015993118286132812, 0xe292d42132266b6eu},
      {GgufType::kBF16, 96u, 3.1679032227310833e-19, 2.2779778587886114e-25, 0x68c1896a93552a05u},
      {GgufType::kQ4_0, 96u, -0.52587890625, 0.750732421875, 0x7aa45c268a9b8153u},
      {GgufType::kQ4_1, 96u, 0.954254150390625, 0.822784423828125, 0xdabacbe6621fd678u},
      {GgufType::kQ5_0, 96u, 0.6573486328125, 3.753662109375, 0x452886bfbe4c1feau},
      {GgufType::kQ5_1, 96u, 0.033966064453125, 0.033966064453125, 0x08ef92539622db98u},
      {GgufType::kQ8_0, 96u, 2.103515625, 27.777099609375, 0x2f5cf8c07464ea03u},
      {GgufType::kQ4_K, 768u, 4.00762939453125, 5.2060546875, 0x108eb23679da5cd4u},
      {GgufType::kQ5_K, 768u, 16.62872314453125, 30.11737060546875, 0xd94f2731b09e609cu},
      {GgufType::kQ6_K, 768u, 17.7484130859375, -286.279296875, 0xa5868c6dc598e17du},
  };
  for (const Published& p : all) {
    const GgufTypeInfo& info = gguf_type_info(p.type);
    SCOPED_TRACE(info.name);
    const auto out = run(p.type, published_bytes(info, p.count), p.count);
    EXPECT_EQ(out[1], static_cast<float>(p.second));
    EXPECT_EQ(out.back(), static_cast<float>(p.last));
    EXPECT_EQ(digest_of(out), p.digest);
  }
}

TEST(Blocks, F32AndUnknownTypes) {
  Bytes bytes;
  for (const char byte : raw(-2.5f)) bytes.push_back(static_cast<unsigned char>(byte));
  EXPECT_EQ(run(GgufType::kF32, bytes, 1)[0], -2.5f);
  int known = 0;
  for (std::uint32_t number = 0; number < 1000; ++number) {
    if (find_gguf_type(number) != nullptr) ++known;
  }
  EXPECT_EQ(known, 11);
}

}  // namespace
