// Activation tiles: every element at the place that pack/layout.hpp states, nothing written beyond.
#include <gtest/gtest.h>

#include <vector>

#include "rrs/core/kernel_tables.hpp"
#include "rrs/pack/layout.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"

namespace {

constexpr std::int64_t kLengths[] = {8, 16, 24, 32, 40, 56, 64, 72, 120, 128, 136, 264, 576};

// Where a level puts code k of a row: layout.hpp, or for tile registers pack/amx.hpp.
std::size_t code_place(rrs::Isa isa, int rows, int group, std::int64_t k_padded, int row,
                       std::int64_t k) {
#if RRS_HAS_AMX
  if (isa == rrs::Isa::kAmx && rrs::amx::amx_takes(rows, group)) {
    const std::int64_t chunk = k / 64 * 64, width = k_padded - chunk < 64 ? k_padded - chunk : 64;
    return static_cast<std::size_t>(chunk * rows + row * width + k % 64);
  }
#endif
  (void)isa, (void)group, (void)k_padded;
  return static_cast<std::size_t>(k / 4 * rows * 4 + row * 4 + k % 4);
}

// The canonical codes_a8 form, and floats; a level may transform codes_a4 (its gemm test checks
// it).
TEST(ActivationPack, EveryElementIsAtItsPlace) {
  int cases = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    for (int rows = 1; rows <= 40; ++rows) {
      for (const std::int64_t k : kLengths) {
        const std::int64_t stride = k + rows % 3 * 5;
        rrs_test::Random random(static_cast<std::uint64_t>(rows * 1000 + k));
        // Exactly the last row's end: a sanitizer sees reads beyond it.
        const std::size_t extent = static_cast<std::size_t>((rows - 1) * stride + k);
        std::vector<std::int8_t> codes(extent);
        std::vector<float> x(extent);
        for (std::int8_t& c : codes) c = static_cast<std::int8_t>(random.integer(-128, 127));
        for (float& v : x) v = random.uniform();
        const std::size_t size = static_cast<std::size_t>(rows * k);
        std::vector<std::int8_t> packed(size + 16, 77);
        std::vector<float> floats(size + 16, 77.0f);
        const int group = k % 3 == 0 ? 32 : k % 3 == 1 ? 128 : rrs::kRowGroup;
        table.pack.codes_a8(codes.data(), stride, rows, group, k, packed.data());
        table.pack.floats(x.data(), stride, rows, k, floats.data());
        for (int row = 0; row < rows; ++row) {
          for (std::int64_t i = 0; i < k; ++i) {
            const std::size_t from = static_cast<std::size_t>(row * stride + i);
            ASSERT_EQ(packed[code_place(table.isa, rows, group, k, row, i)], codes[from]);
            ASSERT_EQ(floats[static_cast<std::size_t>(i * rows + row)], x[from]);
          }
        }
        for (std::size_t i = size; i < size + 16; ++i) {
          ASSERT_EQ(packed[i], 77);
          ASSERT_EQ(floats[i], 77.0f);
        }
        ++cases;
      }
    }
  });
  EXPECT_EQ(cases, 40 * 13 * static_cast<int>(rrs_test::supported_isas().size()));
}

// Levels that do not transform A4 codes give the same bytes as for A8.
TEST(ActivationPack, A4EqualsA8OnTheLevelsOfThisStage) {
  const std::vector<rrs::PackKernels> kernels = {
    rrs::scalar::pack_kernels(),
#if RRS_X86_64
    rrs::isa_supported(rrs::Isa::kAvx2) ? rrs::avx2::pack_kernels(rrs::scalar::pack_kernels())
                                        : rrs::scalar::pack_kernels(),
    rrs::isa_supported(rrs::Isa::kAvx512) ? rrs::avx512::pack_kernels(rrs::scalar::pack_kernels())
                                          : rrs::scalar::pack_kernels(),
#endif
  };
  for (const rrs::PackKernels& pack : kernels) {
    for (const int rows : {1, 6, 8, 12, 14, 16}) {
      std::vector<std::int8_t> codes(static_cast<std::size_t>(rows) * 64), a4(codes.size()),
          a8 = a4;
      rrs_test::Random random(7);
      for (std::int8_t& c : codes) c = static_cast<std::int8_t>(random.integer(-8, 7));
      pack.codes_a4(codes.data(), 64, rows, 32, 64, a4.data());
      pack.codes_a8(codes.data(), 64, rows, 32, 64, a8.data());
      EXPECT_TRUE(rrs_test::bits_equal(a4, a8));
    }
  }
}

}  // namespace
