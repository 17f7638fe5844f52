// A low-rank branch as bytes: its codes in 8 bits, what is counted, files of both widths.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "support/compare.hpp"
#include "support/layer.hpp"
#include "support/low_rank.hpp"

namespace {

using rrs::PreparedWeight;
using rrs::StatusCode;
using rrs_test::attach;
using rrs_test::Call;
using rrs_test::Factors;
using rrs_test::kLowRankBits;
using rrs_test::LayerData;
using rrs_test::make_factors;
using rrs_test::run_linear;

rrs::AlignedBuffer serialize(const rrs::WeightView& w) {
  rrs::AlignedBuffer bytes(rrs::serialized_bytes(w));
  EXPECT_TRUE(rrs::serialize_weight(w, bytes.data(), static_cast<std::size_t>(bytes.size())).ok());
  return bytes;
}

TEST(LowRankFormat, FilesKeepTheBranch) {
  const LayerData d = rrs_test::make_layer(5, 40, 96, 61);
  const PreparedWeight base = rrs_test::prepare(d, rrs::presets::rrs());
  for (const int bits : kLowRankBits) {
    for (const std::int64_t rank : {1, 8, 17, 40}) {
      const PreparedWeight w = attach(base, make_factors(d.n, d.k, rank, 62, bits));
      rrs::AlignedBuffer bytes = serialize(w);
      const auto size = static_cast<std::size_t>(bytes.size());
      EXPECT_EQ(static_cast<int>(bytes.data()[8]), bits == 8 ? 3 : 2);  // file version
      const auto view = rrs::view_weight(bytes.data(), size);
      ASSERT_TRUE(view.ok()) << view.status().message();
      EXPECT_EQ(view->low_rank.rank, rank);
      EXPECT_EQ(view->low_rank.bits, bits);
      EXPECT_EQ(view->stored_bytes(), w.view().stored_bytes());
      EXPECT_TRUE(
          rrs_test::bits_equal(run_linear(d.X(), *view, Call{}), run_linear(d.X(), w, Call{})));
      EXPECT_TRUE(rrs_test::bits_equal(serialize(*view).data(), bytes.data(), size));
      // A changed factor or scale, a cut file.
      for (const std::int64_t back : {100, 60}) {
        bytes.data()[bytes.size() - back] ^= std::byte{1};
        EXPECT_EQ(rrs::view_weight(bytes.data(), size).status().code, StatusCode::kCorruptData);
        bytes.data()[bytes.size() - back] ^= std::byte{1};
      }
      EXPECT_TRUE(rrs::view_weight(bytes.data(), size).ok());
      EXPECT_EQ(rrs::view_weight(bytes.data(), size - 64).status().code, StatusCode::kCorruptData);
    }
  }
  // Without a branch: version 1, as before.
  EXPECT_EQ(static_cast<int>(serialize(base).data()[8]), 1);
}

// Bytes written before there were 8 bits: read, and written again as they were.
TEST(LowRankFormat, FilesOfEarlierReleasesStay) {
  struct Seed {
    const char* name;
    int version;
  };
  const Seed seeds[] = {{"seed_low_rank", 2}, {"seed_low_rank_w8a8", 2}, {"seed_rrs", 1}};
  int cases = 0;
  for (const Seed& seed : seeds) {
    std::ifstream in(RRS_SOURCE_DIR "/tests/fuzz/corpus/weight_file/" + std::string(seed.name),
                     std::ios::binary);
    const std::vector<char> file{std::istreambuf_iterator<char>(in), {}};
    ASSERT_GT(file.size(), 321u) << seed.name;  // a byte for the fuzzer, then the weight
    rrs::AlignedBuffer bytes(file.size() - 1);
    std::memcpy(bytes.data(), file.data() + 1, file.size() - 1);
    EXPECT_EQ(static_cast<int>(bytes.data()[8]), seed.version) << seed.name;
    const auto view = rrs::view_weight(bytes.data(), file.size() - 1);
    ASSERT_TRUE(view.ok()) << seed.name << ": " << view.status().message();
    EXPECT_EQ(view->low_rank.rank > 0, seed.version == 2);
    EXPECT_EQ(view->low_rank.bits, 16);
    const rrs::AlignedBuffer again = serialize(*view);
    ASSERT_EQ(again.size(), bytes.size());
    EXPECT_TRUE(rrs_test::bits_equal(again.data(), bytes.data(), file.size() - 1)) << seed.name;
    ++cases;
  }
  EXPECT_EQ(cases, 3);
}

// Headers that lie about the width of the branch, checksum and all.
TEST(LowRankFormat, FilesWithTheWrongBitsAreRefusedByField) {
  const LayerData d = rrs_test::make_layer(5, 40, 96, 65);
  const PreparedWeight base = rrs_test::prepare(d, rrs::presets::rrs());
  using Header = rrs::detail::WeightFileHeader;
  int cases = 0;
  const auto refused = [&](int bits, const char* field, const auto& change) {
    const PreparedWeight w = attach(base, make_factors(d.n, d.k, 9, 66, bits == 0 ? 16 : bits));
    rrs::AlignedBuffer bytes = serialize(bits == 0 ? base.view() : w.view());
    Header h;
    std::memcpy(&h, bytes.data(), sizeof h);
    EXPECT_EQ(h.rank_bits, bits == 8 ? 8 : 0);
    change(&h);
    h.header_checksum = rrs::detail::header_checksum(h);
    std::memcpy(bytes.data(), &h, sizeof h);
    const auto view = rrs::view_weight(bytes.data(), static_cast<std::size_t>(bytes.size()),
                                       rrs::Checksum::kSkip);
    EXPECT_EQ(view.status().code, StatusCode::kCorruptData) << field;
    EXPECT_EQ(std::string(view.status().argument), field) << bits;
    ++cases;
  };
  refused(8, "file_version", [](Header* h) { h->file_version = 4; });
  refused(8, "file_version", [](Header* h) { h->file_version = 1; });
  refused(8, "file_version", [](Header* h) { h->rank = 0; });
  refused(8, "rank_bits", [](Header* h) { h->file_version = 2; });
  refused(8, "rank_bits", [](Header* h) { h->rank_bits = 0; });
  refused(8, "rank_bits", [](Header* h) { h->rank_bits = 16; });
  refused(8, "down_bytes", [](Header* h) { h->file_version = 2, h->rank_bits = 0; });
  refused(8, "rank_scales_at", [](Header* h) { h->rank_scales_at += 64; });
  refused(8, "rank_scales_bytes", [](Header* h) { h->rank_scales_bytes = 0; });
  refused(16, "rank_bits", [](Header* h) { h->file_version = 3; });
  refused(16, "rank_bits", [](Header* h) { h->rank_bits = 8; });
  refused(16, "down_bytes", [](Header* h) { h->file_version = 3, h->rank_bits = 8; });
  refused(16, "rank_scales_bytes", [](Header* h) { h->rank_scales_bytes = 64; });
  refused(0, "file_version", [](Header* h) { h->file_version = 3, h->rank_bits = 8; });
  refused(0, "rank_bits", [](Header* h) { h->rank_bits = 8; });
  EXPECT_EQ(cases, 15);
}

TEST(LowRankFormat, BitsPerWeightCountBothFactors) {
  const LayerData d = rrs_test::make_layer(1, 64, 128, 71);
  const PreparedWeight base = rrs_test::prepare(d, rrs::presets::rrs());
  for (const int bits : kLowRankBits) {
    for (const std::int64_t rank : {8, 16, 64}) {
      const PreparedWeight w = attach(base, make_factors(d.n, d.k, rank, 72, bits));
      const double elements = static_cast<double>(rank * (d.n + d.k));
      const double scales = bits == 8 ? 32.0 * static_cast<double>(rank) : 0.0;
      const double more = (bits * elements + scales) / static_cast<double>(d.n * d.k);
      EXPECT_DOUBLE_EQ(w.bits_per_weight(), base.bits_per_weight() + more);
    }
  }
}

int code_at(const void* codes, std::int64_t index) {
  return static_cast<const std::int8_t*>(codes)[index];
}

// Half a step at most, and not less than a rounding makes; ties to even; what is a code already
// stays; a rank of zeros is zero.
TEST(LowRankFormat, EightBitFactorsAreTheNearestCodes) {
  const LayerData d = rrs_test::make_layer(1, 40, 96, 75);
  const PreparedWeight base = rrs_test::prepare(d, rrs::presets::rrs());
  Factors f = make_factors(d.n, d.k, 11, 76, 8);
  for (std::int64_t k = 0; k < d.k; ++k) f.b[static_cast<std::size_t>(4 * d.k + k)] = 0.0f;
  // Rank 5 of L_B: 127 steps of 2, then values between codes.
  const float ties[] = {254.0f, 1.0f, 3.0f, -5.0f, 253.0f, -254.0f};
  const int expected[] = {127, 0, 2, -2, 126, -127};
  std::fill_n(f.b.begin() + 5 * d.k, d.k, 0.0f);
  std::copy(std::begin(ties), std::end(ties), f.b.begin() + 5 * d.k);
  rrs_test::store_factors(d.n, d.k, &f);
  const PreparedWeight w = attach(base, f);
  const rrs::LowRankView& b = w.view().low_rank;
  double worst = 0.0, total = 0.0;
  const auto compare = [&](int code, float given, float stored, double most) {
    ASSERT_EQ(static_cast<float>(code), stored);
    const double error = std::abs(127.0 * static_cast<double>(given) / most - code);
    ASSERT_TRUE(error <= 0.5) << error;
    worst = (std::max)(worst, error);
    total += error;
  };
  for (std::int64_t j = 0; j < f.rank; ++j) {
    double in_a = 0.0, in_b = 0.0;
    for (std::int64_t n = 0; n < d.n; ++n) {
      in_a = (std::max)(
          in_a, std::abs(static_cast<double>(f.a[static_cast<std::size_t>(n * f.rank + j)])));
    }
    for (std::int64_t k = 0; k < d.k; ++k) {
      in_b = (std::max)(in_b,
                        std::abs(static_cast<double>(f.b[static_cast<std::size_t>(j * d.k + k)])));
    }
    EXPECT_EQ(b.scales[j], static_cast<float>(in_a * in_b / 16129.0)) << j;
    for (std::int64_t n = 0; n < d.n; ++n) {
      const auto at = static_cast<std::size_t>(n * f.rank + j);
      compare(code_at(b.up, rrs::low_rank_up_index(f.rank, n, j)), f.a[at], f.up[at], in_a);
    }
    for (std::int64_t k = 0; k < d.k; ++k) {
      const int code = code_at(b.down, rrs::low_rank_down_index(f.rank, d.k, j, k));
      if (j == 4) {
        EXPECT_EQ(code, 0);
        continue;
      }
      if (j == 5 && k < 6) {
        EXPECT_EQ(code, expected[k]) << k;
      }
      const auto at = static_cast<std::size_t>(j * d.k + k);
      compare(code, f.b[at], f.down[at], in_b);
    }
  }
  EXPECT_GT(worst, 0.49);
  const double count = static_cast<double>(f.rank * (d.n + d.k));
  EXPECT_GT(total / count, 0.15);  // evenly spread over half a step: 0.25
  // The codes times a scale that is exact, again.
  Factors again = f;
  for (std::size_t i = 0; i < f.a.size(); ++i) again.a[i] = 0.25f * f.up[i];
  for (std::size_t i = 0; i < f.b.size(); ++i) again.b[i] = 8.0f * f.down[i];
  rrs_test::store_factors(d.n, d.k, &again);
  EXPECT_EQ(again.up, f.up);
  EXPECT_EQ(again.down, f.down);
  const PreparedWeight same = attach(base, again);
  EXPECT_TRUE(
      rrs_test::bits_equal(static_cast<const std::int8_t*>(same.view().low_rank.up),
                           static_cast<const std::int8_t*>(b.up),
                           static_cast<std::size_t>(rrs::low_rank_up_elements(f.rank, d.n))));
  EXPECT_TRUE(
      rrs_test::bits_equal(static_cast<const std::int8_t*>(same.view().low_rank.down),
                           static_cast<const std::int8_t*>(b.down),
                           static_cast<std::size_t>(rrs::low_rank_down_elements(f.rank, d.k))));
  for (std::int64_t j = 0; j < f.rank; ++j) {
    EXPECT_EQ(same.view().low_rank.scales[j], j == 4 ? 0.0f : 2.0f) << j;
  }
}

// The branch that is stored is as close to the one given as the steps of its codes allow.
TEST(LowRankFormat, EightBitsLoseAHalfStepPerFactor) {
  const LayerData d = rrs_test::make_layer(12, 40, 96, 77);
  LayerData zero = d;
  std::fill(zero.w.begin(), zero.w.end(), 0.0f);
  rrs::Scheme a16;
  a16.activation.bits = rrs::kActivationFloat;
  const PreparedWeight base = rrs_test::prepare(zero, a16);
  const std::vector<float> fine = run_linear(d.X(), attach(base, make_factors(40, 96, 6, 78)), {});
  const std::vector<float> coarse =
      run_linear(d.X(), attach(base, make_factors(40, 96, 6, 78, 8)), {});
  double error = 0.0, all = 0.0;
  for (std::size_t i = 0; i < fine.size(); ++i) {
    error += std::pow(static_cast<double>(fine[i]) - static_cast<double>(coarse[i]), 2);
    all += std::pow(static_cast<double>(fine[i]), 2);
  }
  // Steps of max / 127 on values of a normal distribution, max about 2.7 of its widths: each factor
  // errs by 2.7 / 127 / sqrt(12) = 0.6 % of its size.
  EXPECT_LT(std::sqrt(error / all), 0.015);
  EXPECT_GT(std::sqrt(error / all), 0.004);
}

}  // namespace
