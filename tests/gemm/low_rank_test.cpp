// Low-rank leaf: every level gives the bits of the written order, for every shape of tile.
#include "rrs/gemm/low_rank.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"

namespace {

std::vector<rrs::f16> random_f16(std::int64_t count, std::uint64_t seed) {
  std::vector<rrs::f16> out;
  for (const float v : rrs_test::normal_vector(count, seed)) {
    out.push_back(rrs::to_f16(out.size() % 17 == 3 ? v * 1e-7f : v));  // subnormals too
  }
  return out;
}

// The written order, element by element.
std::vector<float> written_order(const rrs::LowRankArgs& a, const std::vector<float>& before) {
  std::vector<float> out = before;
  for (int t = 0; t < a.rows; ++t) {
    for (int p = 0; p < a.panels; ++p) {
      for (int o = 0; o < a.width; ++o) {
        float& sum = out[static_cast<std::size_t>(t * a.out_stride + p * 16 + o)];
        sum = a.start_scale == nullptr ? 0.0f : a.start_scale[t] * sum;
        for (std::int64_t k = 0; k < a.inputs; ++k) {
          const rrs::f16 w = a.weights[(p * a.inputs + k) * a.width + o];
          sum = std::fma(a.x[t * a.x_stride + k], rrs::to_f32(w), sum);
        }
      }
    }
  }
  return out;
}

TEST(LowRank, EveryTileGivesTheWrittenOrder) {
  const std::vector<float> x = rrs_test::normal_vector(70 * 60, 1);
  const std::vector<rrs::f16> w = random_f16(5 * 60 * 16, 2);
  const std::vector<float> scales = rrs_test::normal_vector(70, 3);
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    int cases = 0;
    for (int rows = 1; rows <= 64; rows += rows < 15 ? 1 : 7) {
      for (int panels = 1; panels <= 5; ++panels) {
        for (const std::int64_t inputs : {std::int64_t{1}, std::int64_t{8}, std::int64_t{57}}) {
          rrs::LowRankArgs a{};
          a.rows = rows, a.panels = panels, a.inputs = inputs;
          a.width = panels == 1 && (rows + inputs) % 2 == 0 ? 8 : 16;
          a.x = x.data() + 1, a.x_stride = 59;
          a.weights = w.data();
          a.start_scale = cases % 3 == 0 ? nullptr : scales.data();
          a.out_stride = panels * 16 + (cases % 2);
          std::vector<float> out =
              rrs_test::normal_vector(rows * a.out_stride, static_cast<std::uint64_t>(cases));
          const std::vector<float> expected = written_order(a, out);  // gaps keep their values
          a.out = out.data();
          table.gemm.low_rank(a);
          ASSERT_TRUE(rrs_test::bits_equal(out, expected))
              << "rows " << rows << " panels " << panels << " width " << a.width;
          ++cases;
        }
      }
    }
    EXPECT_EQ(cases, 22 * 5 * 3);
  });
}

// Every rank up to 40: panels of L_B and its short last panel, against u = B x in order.
TEST(LowRank, DownCoversEveryRank) {
  constexpr std::int64_t kInputs = 37, kRows = 13;
  const std::vector<float> x = rrs_test::normal_vector(kRows * kInputs, 4);
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (std::int64_t rank = 1; rank <= 40; ++rank) {
      const std::int64_t columns = rrs::low_rank_columns(rank);
      const std::vector<rrs::f16> b = random_f16(rank * kInputs, 5);
      std::vector<rrs::f16> packed(
          static_cast<std::size_t>(rrs::low_rank_down_elements(rank, kInputs)));
      for (std::int64_t j = 0; j < rank; ++j) {
        for (std::int64_t k = 0; k < kInputs; ++k) {
          packed[static_cast<std::size_t>(rrs::low_rank_down_index(rank, kInputs, j, k))] =
              b[static_cast<std::size_t>(j * kInputs + k)];
        }
      }
      std::vector<float> u(static_cast<std::size_t>(kRows * columns), -1.0f), expected(u.size());
      const rrs::LowRankView view{rank, 64, kInputs, packed.data(), nullptr};
      rrs::detail::low_rank_down(table.gemm, view, x.data(), kInputs, kRows, u.data(), columns);
      for (std::int64_t t = 0; t < kRows; ++t) {
        for (std::int64_t j = 0; j < rank; ++j) {
          float sum = 0.0f;
          for (std::int64_t k = 0; k < kInputs; ++k) {
            sum = std::fma(x[static_cast<std::size_t>(t * kInputs + k)],
                           rrs::to_f32(b[static_cast<std::size_t>(j * kInputs + k)]), sum);
          }
          expected[static_cast<std::size_t>(t * columns + j)] = sum;
        }
      }
      ASSERT_TRUE(rrs_test::bits_equal(u, expected)) << "rank " << rank;
    }
  });
}

}  // namespace
