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

template <class Element>
std::vector<Element> random_elements(std::int64_t count, std::uint64_t seed);
template <>
std::vector<rrs::f16> random_elements(std::int64_t count, std::uint64_t seed) {
  std::vector<rrs::f16> out;
  for (const float v : rrs_test::normal_vector(count, seed)) {
    out.push_back(rrs::to_f16(out.size() % 17 == 3 ? v * 1e-7f : v));  // subnormals too
  }
  return out;
}
template <>
std::vector<std::int8_t> random_elements(std::int64_t count, std::uint64_t seed) {
  rrs_test::Random random(seed);
  std::vector<std::int8_t> out;
  for (std::int64_t i = 0; i < count; ++i) {
    out.push_back(static_cast<std::int8_t>(random.integer(-128, 127)));
  }
  return out;
}

float value(rrs::f16 v) { return rrs::to_f32(v); }
float value(std::int8_t v) { return static_cast<float>(v); }

void run(const rrs::KernelTable& table, const rrs::LowRankArgs<rrs::f16>& a) {
  table.gemm.low_rank16(a);
}
void run(const rrs::KernelTable& table, const rrs::LowRankArgs<std::int8_t>& a) {
  table.gemm.low_rank8(a);
}

// The written order, element by element.
template <class Element>
std::vector<float> written_order(const rrs::LowRankArgs<Element>& a,
                                 const std::vector<float>& before) {
  std::vector<float> out = before;
  for (int t = 0; t < a.rows; ++t) {
    for (int p = 0; p < a.panels; ++p) {
      for (int o = 0; o < a.width; ++o) {
        float& sum = out[static_cast<std::size_t>(t * a.out_stride + p * 16 + o)];
        sum = a.start_scale == nullptr ? 0.0f : a.start_scale[t] * sum;
        for (std::int64_t k = 0; k < a.inputs; ++k) {
          const Element w = a.weights[(p * a.inputs + k) * a.width + o];
          sum = std::fma(a.x[t * a.x_stride + k], value(w), sum);
        }
      }
    }
  }
  return out;
}

template <class Element>
void every_tile_gives_the_written_order() {
  const std::vector<float> x = rrs_test::normal_vector(70 * 60, 1);
  const std::vector<float> scales = rrs_test::normal_vector(70, 3);
  const std::vector<Element> all = random_elements<Element>(5 * 60 * 16, 2);
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    int cases = 0;
    for (int rows = 1; rows <= 64; rows += rows < 15 ? 1 : 7) {
      for (int panels = 1; panels <= 5; ++panels) {
        for (const std::int64_t inputs : {std::int64_t{1}, std::int64_t{8}, std::int64_t{57}}) {
          rrs::LowRankArgs<Element> a{};
          a.rows = rows, a.panels = panels, a.inputs = inputs;
          a.width = panels == 1 && (rows + inputs) % 2 == 0 ? 8 : 16;
          a.x = x.data() + 1, a.x_stride = 59;
          // A copy of exactly what may be read, so that a sanitizer sees any read beyond it.
          const std::vector<Element> w(all.begin(), all.begin() + panels * inputs * a.width);
          a.weights = w.data();
          a.start_scale = cases % 3 == 0 ? nullptr : scales.data();
          a.out_stride = panels * 16 + (cases % 2);
          std::vector<float> out =
              rrs_test::normal_vector(rows * a.out_stride, static_cast<std::uint64_t>(cases));
          const std::vector<float> expected = written_order(a, out);  // gaps keep their values
          a.out = out.data();
          run(table, a);
          ASSERT_TRUE(rrs_test::bits_equal(out, expected))
              << "rows " << rows << " panels " << panels << " width " << a.width;
          ++cases;
        }
      }
    }
    EXPECT_EQ(cases, 22 * 5 * 3);
  });
}

TEST(LowRank, EveryTileGivesTheWrittenOrder) {
  every_tile_gives_the_written_order<rrs::f16>();
  every_tile_gives_the_written_order<std::int8_t>();
}

// u = B x in order, times the scale of its rank where there is one.
template <class Element>
std::vector<float> down_in_order(const std::vector<float>& x, const std::vector<Element>& b,
                                 std::int64_t rank, std::int64_t inputs,
                                 const std::vector<float>& scales) {
  const std::int64_t columns = rrs::low_rank_columns(rank);
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / inputs;
  std::vector<float> u(static_cast<std::size_t>(rows * columns));
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t j = 0; j < rank; ++j) {
      float sum = 0.0f;
      for (std::int64_t k = 0; k < inputs; ++k) {
        sum = std::fma(x[static_cast<std::size_t>(t * inputs + k)],
                       value(b[static_cast<std::size_t>(j * inputs + k)]), sum);
      }
      if (!scales.empty()) sum *= scales[static_cast<std::size_t>(j)];
      u[static_cast<std::size_t>(t * columns + j)] = sum;
    }
  }
  return u;
}

// Every rank up to 40: panels of L_B and its short last panel.
template <class Element>
void down_covers_every_rank(int bits) {
  constexpr std::int64_t kInputs = 37, kRows = 13;
  const std::vector<float> x = rrs_test::normal_vector(kRows * kInputs, 4);
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (std::int64_t rank = 1; rank <= 40; ++rank) {
      const std::int64_t columns = rrs::low_rank_columns(rank);
      const std::vector<Element> b = random_elements<Element>(rank * kInputs, 5);
      std::vector<Element> packed(
          static_cast<std::size_t>(rrs::low_rank_down_elements(rank, kInputs)));
      for (std::int64_t j = 0; j < rank; ++j) {
        for (std::int64_t k = 0; k < kInputs; ++k) {
          packed[static_cast<std::size_t>(rrs::low_rank_down_index(rank, kInputs, j, k))] =
              b[static_cast<std::size_t>(j * kInputs + k)];
        }
      }
      std::vector<float> scales;
      if (bits == 8) {
        scales = rrs_test::normal_vector(rank, 6);
        scales.resize(static_cast<std::size_t>(columns));
      }
      std::vector<float> u(static_cast<std::size_t>(kRows * columns), -1.0f);
      const rrs::LowRankView view{rank, 64, kInputs, packed.data(), nullptr, bits, scales.data()};
      rrs::detail::low_rank_down(table.gemm, view, x.data(), kInputs, kRows, u.data());
      ASSERT_TRUE(rrs_test::bits_equal(u, down_in_order(x, b, rank, kInputs, scales)))
          << "rank " << rank << " bits " << bits;
    }
  });
}

TEST(LowRank, DownCoversEveryRank) {
  down_covers_every_rank<rrs::f16>(16);
  down_covers_every_rank<std::int8_t>(8);
}

}  // namespace
