// pack/pack.hpp: the canonical panels, checked byte by byte against the description of the format.
#include "rrs/pack/pack.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "rrs/reference/pack.hpp"
#include "support/compare.hpp"
#include "support/random.hpp"

namespace {

using rrs::MatrixView;
using rrs::StatusCode;

std::vector<std::int8_t> random_codes(std::int64_t count, int bits, std::uint64_t seed) {
  rrs_test::Random random(seed);
  std::vector<std::int8_t> codes(static_cast<std::size_t>(count));
  const int qmax = rrs::max_code(bits);
  for (std::int8_t& c : codes) c = static_cast<std::int8_t>(random.integer(-qmax - 1, qmax));
  return codes;
}

TEST(WeightPack, UnpackInvertsForEveryShape) {
  int cases = 0;
  for (const int bits : {4, 8}) {
    for (const std::int64_t n : {1, 2, 7, 15, 16, 17, 31, 32, 33, 50}) {
      for (std::int64_t k = 1; k <= 70; ++k) {
        const std::vector<std::int8_t> codes =
            random_codes(n * k, bits, static_cast<std::uint64_t>(n * 100 + k));
        const std::int64_t bytes = rrs::panel_count(n) * rrs::panel_bytes(k, bits);
        std::vector<std::uint8_t> panels(static_cast<std::size_t>(bytes) + 1, 0x5a);
        ASSERT_TRUE(rrs::pack_weight(MatrixView<const std::int8_t>(codes.data(), n, k), bits,
                                     panels.data(), bytes)
                        .ok());
        ASSERT_EQ(panels.back(), 0x5a);
        std::vector<std::int8_t> back(codes.size(), 99);
        ASSERT_TRUE(rrs::unpack_weight(panels.data(), bytes, bits,
                                       MatrixView<std::int8_t>(back.data(), n, k))
                        .ok());
        ASSERT_TRUE(rrs_test::bits_equal(codes, back));
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 2 * 10 * 70);
}

// Every element of the padded matrix, through the oracle's own reading of the format.
TEST(WeightPack, BytesAreTheDescribedOnesAndPaddingIsCodeZero) {
  std::int64_t checked = 0;
  for (const int bits : {4, 8}) {
    const int bias = bits == 4 ? 8 : 128;
    for (const std::int64_t n : {1, 16, 19}) {
      for (const std::int64_t k : {1, 5, 8, 13, 32}) {
        const std::vector<std::int8_t> codes = random_codes(n * k, bits, 3);
        rrs::WeightView w;
        w.scheme.weight.bits = bits;
        w.panel_bytes = rrs::panel_bytes(k, bits);
        std::vector<std::uint8_t> panels(
            static_cast<std::size_t>(rrs::panel_count(n) * w.panel_bytes));
        w.panels = panels.data();
        ASSERT_TRUE(rrs::pack_weight(MatrixView<const std::int8_t>(codes.data(), n, k), bits,
                                     panels.data(), static_cast<std::int64_t>(panels.size()))
                        .ok());
        for (std::int64_t row = 0; row < rrs::panel_count(n) * 16; ++row) {
          for (std::int64_t col = 0; col < rrs::padded_inputs(k); ++col) {
            const bool inside = row < n && col < k;
            const int code = inside ? codes[static_cast<std::size_t>(row * k + col)] : 0;
            ASSERT_EQ(rrs::reference::stored_code(w, row, col), code + bias);
            ++checked;
          }
        }
      }
    }
  }
  EXPECT_EQ(checked, 2 * (16 + 16 + 32) * (8 + 8 + 8 + 16 + 32));
}

TEST(WeightPack, UnsignedCodesAreStoredAsTheyAre) {
  std::vector<std::uint8_t> codes(3 * 9);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i % 16);
  std::vector<std::uint8_t> panels(static_cast<std::size_t>(rrs::panel_bytes(9, 4)));
  ASSERT_TRUE(rrs::pack_weight(MatrixView<const std::uint8_t>(codes.data(), 3, 9), 4, panels.data(),
                               rrs::panel_bytes(9, 4))
                  .ok());
  for (int n = 0; n < 3; ++n) {
    for (int k = 0; k < 9; ++k) {
      EXPECT_EQ(rrs::packed_code(panels.data(), n, k, 4),
                codes[static_cast<std::size_t>(n * 9 + k)]);
    }
  }
}

TEST(WeightPack, StridesOfTheCodesAreRespected) {
  const std::vector<std::int8_t> wide = random_codes(18 * 50, 4, 8);
  const MatrixView<const std::int8_t> view(wide.data() + 3, 18, 40, 50);
  std::vector<std::uint8_t> panels(static_cast<std::size_t>(2 * rrs::panel_bytes(40, 4)));
  const auto bytes = static_cast<std::int64_t>(panels.size());
  ASSERT_TRUE(rrs::pack_weight(view, 4, panels.data(), bytes).ok());
  std::vector<std::int8_t> back(18 * 60, 77);
  ASSERT_TRUE(
      rrs::unpack_weight(panels.data(), bytes, 4, MatrixView<std::int8_t>(back.data(), 18, 40, 60))
          .ok());
  for (std::size_t n = 0; n < 18; ++n) {
    for (std::size_t k = 0; k < 60; ++k) {
      ASSERT_EQ(back[n * 60 + k], k < 40 ? wide[n * 50 + 3 + k] : 77);
    }
  }
}

TEST(WeightPack, GroupValuesRoundTripAndPadWithZero) {
  int cases = 0;
  for (const std::int64_t n : {0, 1, 16, 21}) {
    for (const std::int64_t groups : {1, 3}) {
      std::vector<float> values = rrs_test::normal_vector(n * groups, 4);
      std::vector<float> packed(static_cast<std::size_t>(rrs::panel_count(n) * groups * 16), 5.0f);
      rrs::pack_group_values(values.data(), groups, n, groups, packed.data());
      std::vector<float> back(values.size());
      rrs::unpack_group_values(packed.data(), n, groups, back.data(), groups);
      EXPECT_TRUE(rrs_test::bits_equal(values, back));
      for (std::int64_t row = n; row < rrs::panel_count(n) * 16; ++row) {
        for (std::int64_t g = 0; g < groups; ++g) {
          const std::int64_t at = (row / 16 * groups + g) * 16 + row % 16;
          EXPECT_EQ(rrs::float_bits(packed[static_cast<std::size_t>(at)]), 0u);
        }
      }
      ++cases;
    }
  }
  EXPECT_EQ(cases, 8);
}

TEST(WeightPack, RefusesBadArguments) {
  std::vector<std::int8_t> codes(16 * 8, 0);
  std::vector<std::uint8_t> panels(64, 0x11);
  const MatrixView<const std::int8_t> view(codes.data(), 16, 8);
  const auto argument = [&](const rrs::Status& s) { return std::string(s.argument); };
  EXPECT_EQ(argument(rrs::pack_weight(view, 5, panels.data(), 64)), "bits");
  EXPECT_EQ(argument(rrs::pack_weight(view, 4, panels.data(), 63)), "panels.bytes");
  EXPECT_EQ(argument(rrs::pack_weight(view, 4, nullptr, 64)), "panels");
  EXPECT_EQ(argument(rrs::pack_weight(MatrixView<const std::int8_t>(nullptr, 16, 8), 4,
                                      panels.data(), 64)),
            "codes.data");
  EXPECT_EQ(argument(rrs::pack_weight(MatrixView<const std::int8_t>(codes.data(), -1, 8), 4,
                                      panels.data(), 64)),
            "codes.rows");
  EXPECT_EQ(argument(rrs::pack_weight(MatrixView<const std::int8_t>(codes.data(), 16, 8, 7), 4,
                                      panels.data(), 64)),
            "codes.row_stride");
  codes[5 * 8 + 2] = 8;
  const rrs::Status high = rrs::pack_weight(view, 4, panels.data(), 64);
  EXPECT_EQ(high.code, StatusCode::kInvalidArgument);
  EXPECT_EQ(high.value, 5);
  codes[5 * 8 + 2] = -9;
  EXPECT_EQ(rrs::pack_weight(view, 4, panels.data(), 64).value, 5);
  const std::vector<std::uint8_t> big(16 * 8, 16);
  EXPECT_FALSE(
      rrs::pack_weight(MatrixView<const std::uint8_t>(big.data(), 16, 8), 4, panels.data(), 64));
  EXPECT_EQ(panels, std::vector<std::uint8_t>(64, 0x11));  // never written
}

}  // namespace
