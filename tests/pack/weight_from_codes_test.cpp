// Weights from other people's codes: every code and every scale bit must come through.
#include "rrs/pipeline/weight_from_codes.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "rrs/reference/pack.hpp"
#include "support/compare.hpp"
#include "support/random.hpp"

namespace {

using rrs::CodesOptions;
using rrs::f16;
using rrs::MatrixView;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Finite f16 of either sign.
f16 random_f16(rrs_test::Random* random) { return rrs::to_f16(random->normal() * 0.01f); }

struct Q4Tensor {
  std::vector<std::uint8_t> bytes;  // one byte of misalignment in front
  const std::uint8_t* blocks() const { return bytes.data() + 1; }
};

Q4Tensor random_q4(std::int64_t n, std::int64_t k, bool with_minimum, std::uint64_t seed) {
  rrs_test::Random random(seed);
  Q4Tensor t;
  t.bytes.push_back(0);
  for (std::int64_t b = 0; b < n * k / 32; ++b) {
    for (int i = 0; i < (with_minimum ? 2 : 1); ++i) {
      const f16 h = random_f16(&random);
      t.bytes.push_back(static_cast<std::uint8_t>(h.bits & 255));
      t.bytes.push_back(static_cast<std::uint8_t>(h.bits >> 8));
    }
    for (int i = 0; i < 16; ++i) t.bytes.push_back(static_cast<std::uint8_t>(random.bits()));
  }
  return t;
}

// Compares a prepared weight with the blocks that it came from; returns the number of codes.
std::int64_t check_q4(const rrs::WeightView& w, const std::uint8_t* blocks, bool with_minimum) {
  const std::int64_t size = with_minimum ? 20 : 18, head = with_minimum ? 4 : 2;
  std::int64_t checked = 0;
  for (std::int64_t n = 0; n < w.n; ++n) {
    for (std::int64_t k = 0; k < w.k; ++k) {
      const std::uint8_t* block = blocks + (n * w.k / 32 + k / 32) * size;
      const std::uint8_t byte = block[head + k % 16];
      const int u = k % 32 < 16 ? byte & 15 : byte >> 4;
      EXPECT_EQ(rrs::reference::stored_code(w, n, k), u);
      f16 d, m;
      std::memcpy(&d, block, 2);
      EXPECT_EQ(rrs::reference::scale(w, n, k / 32).bits, d.bits);
      if (with_minimum) {
        std::memcpy(&m, block + 2, 2);
        EXPECT_EQ(rrs::reference::offset(w, n, k / 32), rrs::to_f32(m));
      }
      ++checked;
    }
  }
  return checked;
}

TEST(WeightFromQ4, EveryCodeAndScaleBitIsKept) {
  int cases = 0;
  for (const bool with_minimum : {false, true}) {
    for (const std::int64_t n : {1, 15, 16, 17, 40}) {
      for (const std::int64_t k : {32, 64, 288}) {
        const Q4Tensor t = random_q4(n, k, with_minimum, static_cast<std::uint64_t>(n * k));
        const auto w = with_minimum ? rrs::weight_from_q4_1(t.blocks(), n, k)
                                    : rrs::weight_from_q4_0(t.blocks(), n, k);
        ASSERT_TRUE(w.ok()) << w.status().message();
        EXPECT_EQ(check_q4(w->view(), t.blocks(), with_minimum), n * k);
        EXPECT_EQ(w->view().offsets != nullptr, with_minimum);
        EXPECT_EQ(w->scheme().rotation.kind, rrs::RotationKind::kNone);
        EXPECT_EQ(w->scheme().weight.group, 32);
        EXPECT_EQ(w->view().channels_fingerprint, 0u);
        if (n == 16) {
          EXPECT_DOUBLE_EQ(w->bits_per_weight(), with_minimum ? 5.5 : 4.5);
        }
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 30);
}

// w = d (u - 8) and w = d u + m, in value.
TEST(WeightFromQ4, ValuesAreThoseOfTheFormat) {
  const Q4Tensor t0 = random_q4(5, 64, false, 1), t1 = random_q4(5, 64, true, 2);
  const auto w0 = rrs::weight_from_q4_0(t0.blocks(), 5, 64);
  const auto w1 = rrs::weight_from_q4_1(t1.blocks(), 5, 64);
  const std::vector<double> d0 = rrs::reference::dequantize(*w0);
  const std::vector<double> d1 = rrs::reference::dequantize(*w1);
  for (std::int64_t i = 0; i < 5 * 64; ++i) {
    const std::uint8_t* b0 = t0.blocks() + i / 32 * 18;
    const std::uint8_t* b1 = t1.blocks() + i / 32 * 20;
    f16 d, m;
    std::memcpy(&d, b0, 2);
    const int u0 = i % 32 < 16 ? b0[2 + i % 16] & 15 : b0[2 + i % 16] >> 4;
    EXPECT_EQ(d0[at(i)], static_cast<double>(rrs::to_f32(d)) * (u0 - 8));
    std::memcpy(&d, b1, 2);
    std::memcpy(&m, b1 + 2, 2);
    const int u1 = i % 32 < 16 ? b1[4 + i % 16] & 15 : b1[4 + i % 16] >> 4;
    EXPECT_EQ(d1[at(i)],
              static_cast<double>(rrs::to_f32(d)) * u1 + static_cast<double>(rrs::to_f32(m)));
  }
}

TEST(WeightFromQ4, RefusesWhatItCannotKeep) {
  Q4Tensor t = random_q4(3, 64, false, 3);
  EXPECT_STREQ(rrs::weight_from_q4_0(nullptr, 3, 64).status().argument, "blocks");
  EXPECT_STREQ(rrs::weight_from_q4_0(t.blocks(), -1, 64).status().argument, "n");
  EXPECT_STREQ(rrs::weight_from_q4_0(t.blocks(), 3, 48).status().argument, "k");
  EXPECT_STREQ(rrs::weight_from_q4_0(t.blocks(), 3, 0).status().argument, "K");
  EXPECT_TRUE(rrs::weight_from_q4_0(nullptr, 0, 64).ok());
  t.bytes[1 + 2 * 36 + 1] = 0x7c;  // row 2: infinite scale
  const auto bad = rrs::weight_from_q4_0(t.blocks(), 3, 64);
  EXPECT_STREQ(bad.status().argument, "blocks");
  EXPECT_EQ(bad.status().value, 2);
}

struct Codes {
  std::int64_t n, k, groups;
  std::vector<std::uint8_t> codes, zeros;
  std::vector<f16> scales;
  MatrixView<const std::uint8_t> view() const { return {codes.data(), n, k}; }
  MatrixView<const f16> scale_view() const { return {scales.data(), n, groups}; }
  MatrixView<const std::uint8_t> zero_view() const { return {zeros.data(), n, groups}; }
};

Codes random_codes(std::int64_t n, std::int64_t k, int bits, int group) {
  rrs_test::Random random(static_cast<std::uint64_t>(n * 1000 + k + bits));
  Codes c{n, k, rrs::group_count(k, group), {}, {}, {}};
  for (std::int64_t i = 0; i < n * k; ++i) {
    c.codes.push_back(static_cast<std::uint8_t>(random.bits() & ((1u << bits) - 1u)));
  }
  for (std::int64_t i = 0; i < n * c.groups; ++i) {
    c.scales.push_back(random_f16(&random));
    c.zeros.push_back(static_cast<std::uint8_t>(random.bits() & ((1u << bits) - 1u)));
  }
  return c;
}

TEST(WeightFromCodes, SymmetricAndZeroPointsAreExact) {
  int cases = 0;
  for (const int bits : {4, 8}) {
    for (const int group : {16, 64, 128, rrs::kRowGroup}) {
      for (const std::int64_t k : {40, 256}) {
        for (const bool zero_points : {false, true}) {
          const Codes c = random_codes(18, k, bits, group);
          CodesOptions options;
          options.bits = bits;
          options.group = group;
          if (zero_points) options.zero_points = c.zero_view();
          const auto w = rrs::weight_from_codes(c.view(), c.scale_view(), options);
          ASSERT_TRUE(w.ok()) << w.status().message();
          const std::vector<double> dense = rrs::reference::dequantize(*w);
          const std::int64_t step = group == rrs::kRowGroup ? k : group;
          for (std::int64_t i = 0; i < 18 * k; ++i) {
            const std::int64_t g = i / k * c.groups + i % k / step;
            const int zero = zero_points ? c.zeros[at(g)] : (bits == 4 ? 8 : 128);
            const double v = static_cast<double>(rrs::to_f32(c.scales[at(g)]));
            ASSERT_EQ(dense[at(i)], v * (c.codes[at(i)] - zero)) << i;
          }
          ++cases;
        }
      }
    }
  }
  EXPECT_EQ(cases, 32);
}

TEST(WeightFromCodes, SignedCodesEqualUnsignedOnes) {
  const Codes c = random_codes(20, 96, 4, 32);
  std::vector<std::int8_t> signed_codes;
  for (const std::uint8_t u : c.codes) signed_codes.push_back(static_cast<std::int8_t>(u - 8));
  std::vector<float> scales;
  for (const f16 s : c.scales) scales.push_back(rrs::to_f32(s));
  const auto a = rrs::weight_from_codes(c.view(), c.scale_view());
  const auto b = rrs::weight_from_codes(MatrixView<const std::int8_t>(signed_codes.data(), 20, 96),
                                        MatrixView<const float>(scales.data(), 20, 3));
  ASSERT_TRUE(a.ok() && b.ok());
  const rrs::WeightView &va = *a, &vb = *b;
  EXPECT_TRUE(rrs_test::bits_equal(va.panels, vb.panels, at(2 * va.panel_bytes)));
  EXPECT_TRUE(rrs_test::bits_equal(va.scales, vb.scales, at(2 * va.panel_scales())));
}

TEST(WeightFromCodes, FractionalZeroPointsAndMinimums) {
  const Codes c = random_codes(4, 64, 4, 32);
  std::vector<float> values = rrs_test::normal_vector(8, 6);
  CodesOptions options;
  options.zero_points_f32 = MatrixView<const float>(values.data(), 4, 2);
  const auto z = rrs::weight_from_codes(c.view(), c.scale_view(), options);
  ASSERT_TRUE(z.ok());
  for (std::int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(rrs::reference::offset(*z, i / 2, i % 2),
              -(rrs::to_f32(c.scales[at(i)]) * values[at(i)]));
  }
  options = CodesOptions{};
  options.minimums = MatrixView<const float>(values.data(), 4, 2);
  const auto m = rrs::weight_from_codes(c.view(), c.scale_view(), options);
  ASSERT_TRUE(m.ok());
  for (std::int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(rrs::reference::offset(*m, i / 2, i % 2), values[at(i)]);
  }
}

TEST(WeightFromCodes, RefusesBadArguments) {
  const Codes c = random_codes(4, 64, 4, 32);
  const std::vector<float> floats(8, 1.0f);
  const auto argument = [&](const CodesOptions& o) {
    return std::string(rrs::weight_from_codes(c.view(), c.scale_view(), o).status().argument);
  };
  CodesOptions o;
  o.bits = 3;
  EXPECT_EQ(argument(o), "weight.bits");
  o = CodesOptions{};
  o.group = 48;
  EXPECT_EQ(argument(o), "weight.group");
  o.group = 64;
  EXPECT_EQ(argument(o), "scales.cols");
  o = CodesOptions{};
  o.activation.clip = 0.0f;
  EXPECT_EQ(argument(o), "activation.clip");
  o = CodesOptions{};
  o.zero_points = c.zero_view();
  o.minimums = MatrixView<const float>(floats.data(), 4, 2);
  EXPECT_EQ(argument(o), "zero_points");
  o = CodesOptions{};
  o.minimums = MatrixView<const float>(floats.data(), 2, 2);
  EXPECT_EQ(argument(o), "minimums.rows");
  std::vector<float> bad = floats;
  bad[5] = std::numeric_limits<float>::quiet_NaN();
  o.minimums = MatrixView<const float>(bad.data(), 4, 2);
  EXPECT_EQ(argument(o), "minimums");
  o = CodesOptions{};
  o.zero_points_f32 = MatrixView<const float>(bad.data(), 4, 2);
  const auto nan_zero = rrs::weight_from_codes(c.view(), c.scale_view(), o);
  EXPECT_STREQ(nan_zero.status().argument, "zero_points");
  EXPECT_EQ(nan_zero.status().value, 2);
  // Scales: NaN, and 65520 which overflows f16.
  EXPECT_EQ(
      rrs::weight_from_codes(c.view(), MatrixView<const float>(bad.data(), 4, 2)).status().value,
      2);
  bad[5] = 65520.0f;
  EXPECT_STREQ(
      rrs::weight_from_codes(c.view(), MatrixView<const float>(bad.data(), 4, 2)).status().argument,
      "scales");
  // Zero points with signed codes, codes out of range.
  const std::vector<std::int8_t> codes(4 * 64, 0);
  o = CodesOptions{};
  o.zero_points = c.zero_view();
  EXPECT_STREQ(
      rrs::weight_from_codes(MatrixView<const std::int8_t>(codes.data(), 4, 64), c.scale_view(), o)
          .status()
          .argument,
      "zero_points");
  const std::vector<std::uint8_t> large(4 * 64, 16);
  EXPECT_STREQ(
      rrs::weight_from_codes(MatrixView<const std::uint8_t>(large.data(), 4, 64), c.scale_view())
          .status()
          .argument,
      "codes");
}

}  // namespace
