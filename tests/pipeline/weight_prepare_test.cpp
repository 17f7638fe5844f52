// pipeline/weight.hpp: the weight lane against its own stages, the float layer and its error
// contract.
#include "rrs/pipeline/weight.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rrs/core/presets.hpp"
#include "rrs/reference/pack.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"

namespace {

using rrs::MatrixView;
using rrs::Scheme;
using rrs::StatusCode;
using rrs::WeightOptions;
using rrs::WeightView;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Runs tasks on three threads, last index first.
struct BackwardsOnThreads {
  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const {
    std::vector<std::thread> threads;
    for (std::int64_t t = 0; t < 3; ++t) {
      threads.emplace_back([&task, n_tasks, t] {
        for (std::int64_t i = n_tasks - 1 - t; i >= 0; i -= 3) task(i);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
};

std::vector<std::int32_t> random_permutation(std::int64_t k, std::uint64_t seed) {
  std::vector<std::int32_t> p(at(k));
  std::iota(p.begin(), p.end(), 0);
  rrs_test::Random random(seed);
  for (std::int64_t i = k - 1; i > 0; --i) std::swap(p[at(i)], p[at(random.integer(0, i))]);
  return p;
}

struct Channels {
  std::vector<std::int32_t> input, group;
  std::vector<float> divisor;
  explicit Channels(std::int64_t k)
      : input(random_permutation(k, 1)), group(random_permutation(k, 2)), divisor(at(k)) {
    rrs_test::Random random(3);
    for (float& d : divisor) d = 0.1f + std::fabs(random.normal());
  }
  rrs::LayerChannels view(bool with_group) const {
    rrs::LayerChannels c;
    c.input_permutation = input.data();
    c.divisor = divisor.data();
    if (with_group) c.group_permutation = group.data();
    return c;
  }
};

bool is_wide(const Scheme& s) {
  return s.activation.bits != rrs::kActivationFloat && !s.activation.exact_reference &&
         (s.activation.window.kind == rrs::WindowKind::kWhole ||
          s.activation.window.kind == rrs::WindowKind::kRows);
}

std::vector<std::uint8_t> stored_bytes(const WeightView& w) {
  std::vector<std::uint8_t> bytes(at(w.stored_bytes()));
  const std::size_t panels = at(rrs::panel_count(w.n) * w.panel_bytes);
  if (panels == 0) return bytes;
  std::memcpy(bytes.data(), w.panels, panels);
  std::memcpy(bytes.data() + panels, w.scales, bytes.size() - panels);
  return bytes;
}

// The stages by hand: transform, RTN per row, compare with what is stored.
void expect_equals_stages(const WeightView& w, const std::vector<float>& transformed) {
  std::vector<rrs::f16> scales(at(w.groups));
  std::vector<std::int8_t> codes(at(w.k));
  const int bias = w.scheme.weight.bits == 4 ? 8 : 128;
  for (std::int64_t n = 0; n < w.n; ++n) {
    ASSERT_TRUE(rrs::rtn_row(transformed.data() + n * w.k, w.k, w.scheme.weight, scales.data(),
                             codes.data()));
    for (std::int64_t g = 0; g < w.groups; ++g) {
      ASSERT_EQ(rrs::reference::scale(w, n, g).bits, scales[at(g)].bits);
    }
    for (std::int64_t k = 0; k < w.k; ++k) {
      ASSERT_EQ(rrs::reference::stored_code(w, n, k), codes[at(k)] + bias);
    }
  }
  for (std::int64_t n = w.n; n < rrs::panel_count(w.n) * 16; ++n) {
    for (std::int64_t g = 0; g < w.groups; ++g) {
      ASSERT_EQ(rrs::reference::scale(w, n, g).bits, 0);
    }
  }
}

TEST(PrepareWeight, EqualsItsStagesForEveryPreset) {
  int cases = 0, refused = 0;
  rrs::presets::for_each([&](const rrs::NamedPreset& preset) {
    for (const auto& [n, k] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 1}, {16, 32}, {17, 577}, {33, 200}}) {
      SCOPED_TRACE(preset.name);
      const std::vector<float> w = rrs_test::normal_vector(n * k, 11);
      const MatrixView<const float> view(w.data(), n, k);
      const Channels channels(k);
      WeightOptions options;
      options.channels = channels.view(is_wide(preset.scheme));
      const auto prepared = rrs::prepare_weight(view, preset.scheme, options);
      if (preset.scheme.simulated) {
        EXPECT_EQ(prepared.status().code, StatusCode::kSimulatedOnly);
        ++refused;
        continue;
      }
      ASSERT_TRUE(prepared.ok()) << prepared.status().message();
      std::vector<float> transformed(w.size());
      ASSERT_TRUE(rrs::transform_weight(view, preset.scheme,
                                        MatrixView<float>(transformed.data(), n, k), options)
                      .ok());
      expect_equals_stages(*prepared, transformed);
      EXPECT_EQ(prepared->view().channels_fingerprint,
                rrs::channels_fingerprint(options.channels, k));
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(prepared->view().panels) % 64, 0u);
      ++cases;
    }
  });
  EXPECT_EQ(cases, 4 * 14);
  EXPECT_EQ(refused, 4);
}

TEST(PrepareWeight, SameBytesOnEveryIsaAndExecutor) {
  int cases = 0;
  for (Scheme s : {rrs::presets::rrs(), rrs::presets::quarot(), rrs::presets::rrs_whole()}) {
    s.rotation.random_signs = true;
    const std::vector<float> w = rrs_test::normal_vector(70 * 448, 12);
    const MatrixView<const float> view(w.data(), 70, 448);
    std::vector<std::uint8_t> expected;
    rrs_test::each_isa([&](const rrs::KernelTable&) {
      const auto serial = rrs::prepare_weight(view, s);
      const auto threads = rrs::prepare_weight(view, s, WeightOptions{}, BackwardsOnThreads{});
      ASSERT_TRUE(serial.ok() && threads.ok());
      if (expected.empty()) expected = stored_bytes(*serial);
      EXPECT_TRUE(rrs_test::bits_equal(expected, stored_bytes(*serial)));
      EXPECT_TRUE(rrs_test::bits_equal(expected, stored_bytes(*threads)));
      ++cases;
    });
  }
  EXPECT_EQ(cases, 3 * static_cast<int>(rrs_test::supported_isas().size()));
}

// x~ w~^T = x W^T: permutations, divisor and rotation on both sides cancel.
TEST(PrepareWeight, TransformLeavesTheProductUnchanged) {
  int cases = 0;
  for (const Scheme& s : {rrs::presets::rrs(), rrs::presets::quarot(), rrs::presets::rrs_whole(),
                          rrs::presets::rrs_g128(), rrs::presets::rtn()}) {
    for (const std::int64_t k : {1, 96, 577}) {
      const std::int64_t n = 5;
      const Channels channels(k);
      WeightOptions options;
      options.channels = channels.view(is_wide(s));
      const std::vector<float> w = rrs_test::normal_vector(n * k, 13);
      const std::vector<float> x = rrs_test::normal_vector(k, 14);
      std::vector<float> wt(w.size());
      ASSERT_TRUE(rrs::transform_weight(MatrixView<const float>(w.data(), n, k), s,
                                        MatrixView<float>(wt.data(), n, k), options)
                      .ok());
      // The activation through the same transform, with the reciprocal divisor.
      std::vector<float> reciprocal(at(k)), xt(at(k));
      for (std::int64_t i = 0; i < k; ++i) reciprocal[at(i)] = 1.0f / channels.divisor[at(i)];
      options.channels.divisor = reciprocal.data();
      ASSERT_TRUE(rrs::transform_weight(MatrixView<const float>(x.data(), 1, k), s,
                                        MatrixView<float>(xt.data(), 1, k), options)
                      .ok());
      for (std::int64_t row = 0; row < n; ++row) {
        double direct = 0.0, rotated = 0.0, size = 0.0;
        for (std::int64_t i = 0; i < k; ++i) {
          const double a = static_cast<double>(w[at(row * k + i)]) * static_cast<double>(x[at(i)]);
          const double b =
              static_cast<double>(wt[at(row * k + i)]) * static_cast<double>(xt[at(i)]);
          direct += a;
          rotated += b;
          size += std::fabs(a) + std::fabs(b);
        }
        ASSERT_LE(std::fabs(direct - rotated), 4e-6 * size);
      }
      ++cases;
    }
  }
  EXPECT_EQ(cases, 15);
}

// Without rotation the transform is a gather of exact products; the group permutation comes last.
TEST(PrepareWeight, TransformAppliesDivisorAndPermutationsInOrder) {
  const std::int64_t n = 3, k = 70;
  const std::vector<float> w = rrs_test::normal_vector(n * k, 16);
  const MatrixView<const float> view(w.data(), n, k);
  const Channels channels(k);
  std::vector<float> plain(w.size()), grouped(w.size());
  WeightOptions options;
  options.channels = channels.view(false);
  ASSERT_TRUE(rrs::transform_weight(view, rrs::presets::rs_g32(),
                                    MatrixView<float>(plain.data(), n, k), options)
                  .ok());
  for (std::int64_t i = 0; i < n * k; ++i) {
    const std::int64_t from = channels.input[at(i % k)];
    ASSERT_EQ(plain[at(i)], w[at(i / k * k + from)] * channels.divisor[at(from)]);
  }
  const Scheme s = rrs::presets::rrs_whole();
  ASSERT_TRUE(rrs::transform_weight(view, s, MatrixView<float>(plain.data(), n, k), options).ok());
  options.channels = channels.view(true);
  ASSERT_TRUE(
      rrs::transform_weight(view, s, MatrixView<float>(grouped.data(), n, k), options).ok());
  for (std::int64_t i = 0; i < n * k; ++i) {
    ASSERT_EQ(grouped[at(i)], plain[at(i / k * k + channels.group[at(i % k)])]);
  }
}

TEST(PrepareWeight, AllElementTypesAndStrides) {
  const std::int64_t n = 18, k = 40, stride = 45;
  std::vector<float> exact(at(n * k)), wide(at(n * stride), 1e9f);
  std::vector<rrs::f16> halves(at(n * k));
  std::vector<rrs::bf16> brains(at(n * k));
  rrs_test::Random random(15);
  for (std::int64_t i = 0; i < n * k; ++i) {
    brains[at(i)] = rrs::to_bf16(random.normal());  // 8 bits: exact in f16 too at this magnitude
    exact[at(i)] =
        std::fabs(rrs::to_f32(brains[at(i)])) < 0x1p-7f ? 0.5f : rrs::to_f32(brains[at(i)]);
    brains[at(i)] = rrs::to_bf16(exact[at(i)]);
    halves[at(i)] = rrs::to_f16(exact[at(i)]);
    wide[at(i / k * stride + i % k)] = exact[at(i)];
  }
  const Scheme s = rrs::presets::rrs();
  const auto a = rrs::prepare_weight(MatrixView<const float>(exact.data(), n, k), s);
  const auto b = rrs::prepare_weight(MatrixView<rrs::f16>(halves.data(), n, k), s);
  const auto c = rrs::prepare_weight(MatrixView<const rrs::bf16>(brains.data(), n, k), s);
  const auto d = rrs::prepare_weight(MatrixView<float>(wide.data(), n, k, stride), s);
  ASSERT_TRUE(a.ok() && b.ok() && c.ok() && d.ok());
  EXPECT_TRUE(rrs_test::bits_equal(stored_bytes(*a), stored_bytes(*b)));
  EXPECT_TRUE(rrs_test::bits_equal(stored_bytes(*a), stored_bytes(*c)));
  EXPECT_TRUE(rrs_test::bits_equal(stored_bytes(*a), stored_bytes(*d)));
}

TEST(PrepareWeight, SizesAndOwnership) {
  const std::vector<float> w(64 * 256, 0.25f);
  auto a = rrs::prepare_weight(MatrixView<const float>(w.data(), 64, 256), rrs::presets::rrs());
  ASSERT_TRUE(a.ok());
  EXPECT_DOUBLE_EQ(a->bits_per_weight(), 4.5);
  const auto channel = rrs::prepare_weight(MatrixView<const float>(w.data(), 64, 256),
                                           rrs::presets::smoothquant_w8a8());
  EXPECT_DOUBLE_EQ(channel->bits_per_weight(), 8.0 + 16.0 / 256.0);
  const std::vector<std::uint8_t> before = stored_bytes(*a);
  const std::uint8_t* panels = a->view().panels;
  rrs::PreparedWeight moved = std::move(*a);
  EXPECT_EQ(moved.view().panels, panels);
  EXPECT_TRUE(rrs_test::bits_equal(before, stored_bytes(moved)));
  const auto empty = rrs::prepare_weight(MatrixView<const float>(nullptr, 0, 32), Scheme{});
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->view().stored_bytes(), 0);
  EXPECT_EQ(empty->bits_per_weight(), 0.0);
}

TEST(PrepareWeight, QuantizedCodesInTheBasisOfAScheme) {
  const std::vector<std::int8_t> codes(17 * 32, -3);
  const std::vector<rrs::f16> scales(17, rrs::to_f16(0.5f));
  const auto w = rrs::weight_from_quantized(MatrixView<const std::int8_t>(codes.data(), 17, 32),
                                            MatrixView<const rrs::f16>(scales.data(), 17, 1),
                                            rrs::presets::rrs(), 42);
  ASSERT_TRUE(w.ok());
  EXPECT_EQ(w->scheme().rotation.kind, rrs::RotationKind::kBlock);
  EXPECT_EQ(w->view().channels_fingerprint, 42u);
  EXPECT_EQ(rrs::reference::dequantize(*w), std::vector<double>(17 * 32, -1.5));
}

TEST(PrepareWeight, NonFiniteAndOverflowingRowsAreNamed) {
  int cases = 0;
  for (const float bad : {std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN(), 3e38f, 1e7f}) {
    std::vector<float> w(40 * 64, 0.5f);
    w[21 * 64 + 3] = bad;
    w[21 * 64 + 4] = bad;
    w[35 * 64 + 4] = bad;  // a later panel: the first row is still reported
    const auto r = rrs::prepare_weight(MatrixView<const float>(w.data(), 40, 64), Scheme{},
                                       WeightOptions{}, BackwardsOnThreads{});
    EXPECT_EQ(r.status().code, StatusCode::kInvalidArgument);
    EXPECT_STREQ(r.status().argument, "W");
    EXPECT_EQ(r.status().value, 21) << bad;
    ++cases;
  }
  EXPECT_EQ(cases, 4);
}

TEST(PrepareWeight, RefusesBadArguments) {
  const std::int64_t k = 64;
  const std::vector<float> w(at(2 * k), 1.0f);
  const auto argument = [&](const Scheme& s, const WeightOptions& o) {
    return std::string(
        rrs::prepare_weight(MatrixView<const float>(w.data(), 2, k), s, o).status().argument);
  };
  Channels channels(k);
  WeightOptions o;
  o.channels = channels.view(true);
  EXPECT_EQ(argument(rrs::presets::rrs(), o), "channels.group_permutation");
  EXPECT_EQ(argument(rrs::presets::rrs_published(), o), "channels.group_permutation");
  EXPECT_EQ(argument(rrs::presets::rrs_whole(), o), "");
  channels.input[5] = 64;
  EXPECT_EQ(argument(rrs::presets::rrs_whole(), o), "channels.input_permutation");
  channels.input[5] = channels.input[6];
  EXPECT_EQ(argument(rrs::presets::rrs_whole(), o), "channels.input_permutation");
  channels = Channels(k);
  o.channels = channels.view(true);
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    channels.divisor[9] = bad;
    EXPECT_EQ(argument(rrs::presets::rrs_whole(), o), "channels.divisor");
  }
  Scheme s;
  s.weight.bits = 5;
  EXPECT_EQ(argument(s, WeightOptions{}), "weight.bits");
  o = WeightOptions{};
  o.isa = static_cast<rrs::Isa>(17);
  EXPECT_EQ(argument(Scheme{}, o), "isa");
  const auto status = [&](const float* data, std::int64_t rows, std::int64_t cols,
                          std::int64_t stride) {
    return std::string(
        rrs::prepare_weight(MatrixView<const float>(data, rows, cols, stride), Scheme{})
            .status()
            .argument);
  };
  EXPECT_EQ(status(nullptr, 2, k, k), "W.data");
  EXPECT_EQ(status(w.data(), -2, k, k), "W.rows");
  EXPECT_EQ(status(w.data(), 2, k, k - 1), "W.row_stride");
  EXPECT_EQ(status(w.data(), 2, 0, 0), "K");
  EXPECT_EQ(status(w.data(), INT64_MAX / 64, k, k), "W.row_stride");
}

TEST(ChannelsFingerprint, SeesEveryChange) {
  const std::int64_t k = 33;
  Channels c(k);
  EXPECT_EQ(rrs::channels_fingerprint(rrs::LayerChannels{}, k), 0u);
  const std::uint64_t whole = rrs::channels_fingerprint(c.view(true), k);
  EXPECT_NE(whole, 0u);
  EXPECT_NE(whole, rrs::channels_fingerprint(c.view(false), k));
  rrs::LayerChannels as_input, as_group;
  as_input.input_permutation = c.input.data();
  as_group.group_permutation = c.input.data();
  EXPECT_NE(rrs::channels_fingerprint(as_input, k), rrs::channels_fingerprint(as_group, k));
  int cases = 0;
  for (std::size_t i = 0; i < c.divisor.size(); ++i) {
    const float old = std::exchange(c.divisor[i], c.divisor[i] * 1.5f);
    EXPECT_NE(rrs::channels_fingerprint(c.view(true), k), whole);
    c.divisor[i] = old;
    ++cases;
  }
  EXPECT_EQ(cases, 33);
  EXPECT_EQ(rrs::channels_fingerprint(c.view(true), k), whole);
}

TEST(AlignedBuffer, AlignsMovesAndFails) {
  rrs::AlignedBuffer a;
  ASSERT_TRUE(a.allocate(100).ok());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % 64, 0u);
  const std::byte* data = a.data();
  rrs::AlignedBuffer b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(b.size(), 100);
  EXPECT_EQ(b.allocate(INT64_MAX).code, StatusCode::kOutOfMemory);
  EXPECT_EQ(b.allocate(-1).code, StatusCode::kInvalidArgument);
  EXPECT_EQ(b.data(), data);  // failures change nothing
  ASSERT_TRUE(b.allocate(0).ok());
  EXPECT_EQ(b.data(), nullptr);
}

}  // namespace
