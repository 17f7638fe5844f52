// explain names the level and kernel that a call would use, and what the rotation does and costs.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "rrs/rrs.hpp"
#include "support/each_isa.hpp"

namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Explain, NamesLevelKernelAndTilesOfEveryPreset) {
  int explained = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    rrs::presets::for_each([&](const rrs::NamedPreset& preset) {
      const rrs::Explanation e = rrs::explain(preset.scheme, 70, 33, 576);
      if (preset.scheme.simulated) {
        EXPECT_EQ(e.status.code, rrs::StatusCode::kSimulatedOnly);
        return;
      }
      ASSERT_TRUE(e.status.ok()) << preset.name << ": " << e.status.message();
      const rrs::GemmKernel& kernel = rrs::select_gemm_kernel(table, preset.scheme);
      EXPECT_STREQ(e.isa, table.name);
      EXPECT_STREQ(e.kernel, kernel.name);
      EXPECT_EQ(e.tile_rows, kernel.max_rows);
      EXPECT_GE(e.row_tiles * e.tile_rows, 70);
      EXPECT_TRUE(contains(e.to_string(), "forced by ForceIsa")) << e.to_string();
      ++explained;
    });
  });
  const int levels = static_cast<int>(rrs_test::supported_isas().size());
  EXPECT_EQ(explained, (static_cast<int>(rrs::presets::kCount) - 1) * levels);
}

TEST(Explain, SaysHowTheRotationIsBuiltAndWhatItCosts) {
  EXPECT_EQ(rrs::explain(rrs::presets::quarot(), 1, 16, 576).rotation,
            "full (576 = sylvester 4 * paley1 12 * paley1 12, 26 additions per element)");
  EXPECT_EQ(rrs::explain(rrs::presets::rrs(), 1, 16, 576).rotation,
            "blocks of 32 (5 additions per element)");
  EXPECT_EQ(rrs::explain(rrs::presets::rtn(), 1, 16, 576).rotation, "none");
}

// A low-rank branch is the one thing that a weight knows and its scheme does not.
TEST(Explain, OfAWeightIsThatOfItsSchemeButForALowRankBranch) {
  constexpr std::int64_t kN = 33, kK = 576;
  const std::vector<float> values(static_cast<std::size_t>(kN * kK), 0.5f);
  const auto plain =
      rrs::prepare_weight(rrs::MatrixView<const float>(values.data(), kN, kK), rrs::presets::rrs());
  ASSERT_TRUE(plain.ok());
  const auto branch =
      rrs::attach_low_rank(*plain, rrs::MatrixView<const float>(values.data(), kN, 2),
                           rrs::MatrixView<const float>(values.data(), 2, kK));
  ASSERT_TRUE(branch.ok());
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    const rrs::Explanation expected = rrs::explain(rrs::presets::rrs(), 70, kN, kK);
    EXPECT_EQ(rrs::explain(70, *plain).to_string(), expected.to_string());
    const rrs::Explanation e = rrs::explain(70, *branch);
    EXPECT_FALSE(e.fused) << table.name;
    EXPECT_EQ(expected.fused, table.isa != rrs::Isa::kScalar) << table.name;
    EXPECT_STREQ(e.kernel, expected.kernel);
  });
  EXPECT_EQ(rrs::explain(-1, *plain).status.code, rrs::StatusCode::kInvalidArgument);
}

TEST(Explain, RefusesWhatTheCallWouldRefuse) {
  const rrs::Explanation e = rrs::explain(rrs::presets::rrs(), 1, -1, 576);
  EXPECT_EQ(e.status.code, rrs::StatusCode::kInvalidArgument);
  EXPECT_EQ(e.to_string(), e.status.message());
  EXPECT_TRUE(contains(e.to_string(), "N must not be negative (found -1")) << e.to_string();
  EXPECT_FALSE(rrs::explain(rrs::presets::rrs(), 1, 1, 0).status.ok());
}

}  // namespace
