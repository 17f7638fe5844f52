// Tile leaves: every level gives the scalar bits; integer sums are exact at the extremes.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/gemm_tiles.hpp"
#include "support/shapes.hpp"

namespace rrs_test {
namespace {

struct Precision {
  int activation_bits, weight_bits;
};
constexpr Precision kPrecisions[] = {{4, 4}, {8, 4}, {8, 8}, {16, 4}, {16, 8}};
constexpr int kGroups[] = {16, 32, 64, 128, 256, rrs::kRowGroup};

std::string describe(const GemmCase& c, const char* kernel) {
  char text[200];
  std::snprintf(text, sizeof text, "%s m%ld n%ld k%ld a%d w%d ag%d wg%d offsets%d", kernel,
                static_cast<long>(c.m), static_cast<long>(c.n), static_cast<long>(c.k),
                c.activation_bits, c.weight_bits, c.activation_group, c.weight_group, c.offsets);
  return text;
}

// All m rows as one tile, all panels of the case in one call (both within the leaf's limits).
std::vector<float> run_tile(const GemmData& d, const rrs::KernelTable& table) {
  const PackedTiles tiles = pack_tiles(d, table.pack, static_cast<int>(d.c.m));
  const rrs::GemmProblem p = gemm_problem(d, tiles);
  Aligned<float> out(d.c.m * d.panels * 16);
  std::memset(out.get(), 0xff, out.bytes());
  kernel_of(table.gemm, d.c)
      .tile(rrs::detail::tile_args(p, 0, 0, static_cast<int>(d.panels), out.get()));
  return std::vector<float>(out.get(), out.get() + out.size());
}

// Compares one tile of this level with the scalar leaf on the same data.
void check_tile(const GemmCase& c, const rrs::KernelTable& table, Fill fill, std::uint64_t seed) {
  const GemmData d = make_gemm_data(c, fill, seed);
  const std::vector<float> scalar = run_tile(d, table_of(rrs::Isa::kScalar));
  ASSERT_TRUE(bits_equal(run_tile(d, table), scalar)) << describe(c, kernel_of(table.gemm, c).name);
}

// Every row count that the leaf accepts, and every panel count.
TEST(GemmTile, EveryTileShapeGivesScalarBits) {
  each_isa([](const rrs::KernelTable& table) {
    int cases = 0, expected = 0;
    for (const Precision p : kPrecisions) {
      GemmCase c;
      c.activation_bits = p.activation_bits, c.weight_bits = p.weight_bits;
      const rrs::GemmKernel& kernel = kernel_of(table.gemm, c);
      ASSERT_LE(kernel.max_rows * kernel.max_panels * 16, rrs::kMaxTileOutputs) << kernel.name;
      expected += kernel.max_rows + kernel.max_panels - 1;
      const int shapes = kernel.max_rows + kernel.max_panels - 1;
      for (int i = 0; i < shapes; ++i) {  // all rows, panels in turn; then all panels of one row
        c.m = i < kernel.max_rows ? i + 1 : 1;
        const int panels =
            i < kernel.max_rows ? i % kernel.max_panels + 1 : i - kernel.max_rows + 2;
        c.n = panels * 16, c.k = 40 + 8 * (i % 3);
        check_tile(c, table, Fill::kRandom, static_cast<std::uint64_t>(i));
        ++cases;
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
    ASSERT_EQ(cases, expected);
  });
}

// The leaves of few rows, whose thresholds differ by level, precision and group: every row count
// around each of them, at every group that has code of its own, more than one chunk of any leaf
// (256 blocks: 2048 inputs of W4, 1024 of W8) and a short last group. One panel and two in turns.
// Where RRS_TEST_QUICK is set (an emulated CPU is some hundred times slower), the first and the
// last group.
TEST(GemmTile, FewRowsOfEveryGroupGiveScalarBits) {
  constexpr int kOwn[] = {32, 64, 128, 256, rrs::kRowGroup};
  // 12: avx2_few_rows.hpp; 24: pack/amx.hpp; the others are below.
  constexpr int kRows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 23, 24, 25};
  const int step = std::getenv("RRS_TEST_QUICK") != nullptr ? 4 : 1;
  int cases = 0, expected = 0;
  for (const Precision p : kPrecisions) {
    for (int i = 0; i < 5; i += step) {
      expected += 16;
      for (const int rows : kRows) {
        const std::int64_t k = p.weight_bits == 4 ? 2048 + 136 : 1024 + 136;
        const GemmCase c{
            rows, rows % 2 == 0 ? 16 : 32, k, p.activation_bits, p.weight_bits, kOwn[i], kOwn[i],
            false};
        const GemmData d = make_gemm_data(c, Fill::kRandom, static_cast<std::uint64_t>(cases));
        const std::vector<float> scalar = run_tile(d, table_of(rrs::Isa::kScalar));
        each_isa([&](const rrs::KernelTable& table) {
          if (table.isa == rrs::Isa::kScalar) return;
          ASSERT_GE(kernel_of(table.gemm, c).max_rows, rows);
          ASSERT_TRUE(bits_equal(run_tile(d, table), scalar))
              << describe(c, kernel_of(table.gemm, c).name);
        });
        ++cases;
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
  ASSERT_EQ(cases, expected);
}

// Groups of both sides x offsets x precisions, on a K with a short last group.
TEST(GemmTile, EveryGroupPairGivesScalarBits) {
  each_isa([](const rrs::KernelTable& table) {
    int cases = 0;
    for (const Precision p : kPrecisions) {
      for (const int weight_group : kGroups) {
        for (const int activation_group : kGroups) {
          if (p.activation_bits == 16 && activation_group != weight_group) continue;
          for (const bool offsets : {false, true}) {
            GemmCase c{
                1,      16, 536, p.activation_bits, p.weight_bits, activation_group, weight_group,
                offsets};
            const rrs::GemmKernel& kernel = kernel_of(table.gemm, c);
            // 41: tile registers, the last of 16 rows overlapping; where max_rows is less, that.
            for (const int rows :
                 {1, 2, (std::min)(9, kernel.max_rows), (std::min)(41, kernel.max_rows)}) {
              c.m = rows, c.n = 16 * (rows == 2 ? kernel.max_panels : 1);
              c.k = rows == 1 ? 531 : 296;  // the last group is short
              check_tile(c, table, Fill::kRandom, static_cast<std::uint64_t>(cases));
              ++cases;
              if (::testing::Test::HasFatalFailure()) return;
            }
          }
        }
      }
    }
    ASSERT_EQ(cases, 3 * 36 * 2 * 4 + 2 * 6 * 2 * 4);
  });
}

// One scale per channel: the leaves cut K into parts and blocks of their own and carry int32 sums
// from one to the next. K: less than a part, over every block, parts with a short last one; tall
// tiles take the last alone (the scalar leaf is slow).
TEST(GemmTile, RowGroupsGiveScalarBitsAtEveryRowCount) {
  each_isa([](const rrs::KernelTable& table) {
    for (const Precision p : kPrecisions) {
      int cases = 0;
      constexpr int kAllKs = 16;  // up to that many rows
      GemmCase c;
      c.activation_bits = p.activation_bits, c.weight_bits = p.weight_bits;
      c.activation_group = c.weight_group = rrs::kRowGroup;
      const rrs::GemmKernel& kernel = kernel_of(table.gemm, c);
      for (c.m = 1; c.m <= kernel.max_rows; ++c.m) {
        for (const int k : {24, 2088, 1132}) {
          if (c.m > kAllKs && k != 1132) continue;
          c.k = k, c.n = 16 * (1 + c.m % kernel.max_panels), c.offsets = c.m % 4 == 0;
          check_tile(c, table, Fill::kRandom, static_cast<std::uint64_t>(c.m));
          ++cases;
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
      ASSERT_EQ(cases, kernel.max_rows + 2 * (std::min)(kAllKs, kernel.max_rows));
    }
  });
}

// Largest magnitudes of codes and weights, at every group size: the integer sums must equal int64
// ones. v = s = 1 makes acc the isum itself, exact below 2^24 (and rounded once above).
TEST(GemmTile, ExtremesAreExact) {
  each_isa([](const rrs::KernelTable& table) {
    int cases = 0;
    for (const Precision p : kPrecisions) {
      if (p.activation_bits == 16) continue;
      for (const int group : kGroups) {
        for (const bool offsets : {false, true}) {
          const std::int64_t k = group == rrs::kRowGroup ? 4104 : group;
          GemmCase c{1, 16, k, p.activation_bits, p.weight_bits, group, group, offsets};
          const rrs::GemmKernel& kernel = kernel_of(table.gemm, c);
          for (const int rows : {1, 2, 3, kernel.max_rows}) {
            c.m = (std::min)(rows, kernel.max_rows);
            c.n = 16 * kernel.max_panels;
            GemmData d = make_gemm_data(c, Fill::kExtreme);
            for (std::int64_t i = 0; i < d.scales.size(); ++i) d.scales[i] = rrs::to_f16(1.0f);
            for (std::int64_t i = 0; i < d.offsets.size(); ++i) d.offsets[i] = 0.0f;
            for (std::int64_t i = 0; i < d.s.size(); ++i) d.s[i] = 1.0f;
            const std::vector<float> out = run_tile(d, table);
            const int zero = offsets ? 0 : c.weight_bits == 8 ? 128 : 8;
            for (std::int64_t t = 0; t < c.m; ++t) {
              for (std::int64_t n = 0; n < c.n; ++n) {
                std::int64_t sum = 0;
                for (std::int64_t i = 0; i < k; ++i) {
                  sum += d.codes[t * d.k_padded + i] *
                         (d.u[static_cast<std::size_t>(n * k + i)] - zero);
                }
                ASSERT_EQ(out[static_cast<std::size_t>(t * c.n + n)], static_cast<float>(sum))
                    << describe(c, kernel.name) << " t" << t << " n" << n;
              }
            }
            ++cases;
          }
        }
      }
    }
    ASSERT_EQ(cases, 3 * 6 * 2 * 4);
  });
}

}  // namespace
}  // namespace rrs_test
