// A random layer: a valid scheme, a small shape, channels, perhaps a low-rank branch, and data.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "support/layer.hpp"
#include "support/random.hpp"
#include "support/sanitizer.hpp"

namespace rrs_test {

// Cases of a test that does `all` of them: one in 200 where RRS_TEST_QUICK is set (the presets
// ci-clang and asan, forced levels, an emulated CPU), else a tenth under a sanitizer, which has the
// fuzz targets, too.
inline int property_cases(int all) {
  if (std::getenv("RRS_TEST_QUICK") != nullptr) return all / 200;
  return kSanitized ? all / 10 : all;
}

struct RandomLayer {
  std::uint64_t seed = 0;
  LayerData data;
  std::vector<float> divisor, frozen;                        // may be empty
  std::vector<std::int32_t> permutation, group_permutation;  // may be empty
  rrs::LayerChannels channels;
  rrs::PreparedWeight weight;

  const rrs::Scheme& scheme() const { return weight.scheme(); }
  rrs::WindowKind window() const { return scheme().activation.window.kind; }
  // No row depends on another: windows of one token, frozen scales, float activations.
  bool rows_are_alone() const {
    return window() == rrs::WindowKind::kOne || window() == rrs::WindowKind::kFrozen ||
           scheme().activation.bits == rrs::kActivationFloat;
  }
  RandomLayer() = default;
  RandomLayer(const RandomLayer&) = delete;  // channels point into it
  RandomLayer& operator=(const RandomLayer&) = delete;
};

template <std::size_t kCount, class T>
T pick(Random& random, const T (&values)[kCount]) {
  return values[random.integer(0, kCount - 1)];
}

inline rrs::Scheme random_scheme(Random& random) {
  constexpr int kGroups[] = {16, 32, 32, 64, 128, 256, rrs::kRowGroup};
  constexpr int kBlocks[] = {16, 32, 64, 128, 256};
  constexpr int kBits[] = {2, 3, 4, 4, 4, 5, 6, 7, 8, 8, rrs::kActivationFloat};
  constexpr float kClips[] = {1.0f, 1.0f, 0.9f, 0.5f};
  const auto one_in = [&](int n) { return random.integer(1, n) == 1; };
  rrs::Scheme s;
  s.rotation.kind = static_cast<rrs::RotationKind>(random.integer(0, 2));
  s.rotation.block = pick(random, kBlocks);
  s.rotation.random_signs = one_in(3);
  s.rotation.sign_seed = random.bits();
  s.activation.bits = pick(random, kBits);
  s.activation.window.kind = static_cast<rrs::WindowKind>(random.integer(0, 3));
  s.activation.window.rows = random.integer(1, 5);
  s.activation.group = pick(random, kGroups);
  s.activation.range = static_cast<rrs::Range>(random.integer(0, 1));
  s.activation.clip = pick(random, kClips);
  s.activation.token_scale = s.activation.window.kind == rrs::WindowKind::kOne || !one_in(4);
  s.activation.floor = one_in(4) ? 1e-5f : 0.0f;
  s.weight.bits = one_in(3) ? 8 : 4;
  s.weight.group = pick(random, kGroups);
  s.weight.range = static_cast<rrs::Range>(random.integer(0, 1));
  s.weight.scale = one_in(16) ? rrs::WeightScale::kSearch : rrs::WeightScale::kAbsmax;
  if (one_in(12)) {
    s.activation = rrs::presets::rrs_published().activation;
    s.activation.group = pick(random, kGroups);
    s.activation.floor = one_in(2) ? 1e-5f : 0.0f;
    s.weight.group = rrs::kRowGroup;
  }
  return s;
}

inline std::vector<std::int32_t> random_permutation(Random& random, std::int64_t k) {
  std::vector<std::int32_t> p(static_cast<std::size_t>(k));
  for (std::size_t i = 0; i < p.size(); ++i) p[i] = static_cast<std::int32_t>(i);
  for (std::size_t i = p.size(); i > 1; --i) {
    std::swap(p[i - 1], p[static_cast<std::size_t>(random.integer(0, static_cast<int>(i) - 1))]);
  }
  return p;
}

inline void add_channels(Random& random, const rrs::Scheme& s, RandomLayer* l) {
  const rrs::ActivationScheme& a = s.activation;
  const std::int64_t k = l->data.k;
  if (random.integer(1, 4) == 1) {
    for (std::int64_t i = 0; i < k; ++i) l->divisor.push_back(1.5f + random.uniform());
    l->channels.divisor = l->divisor.data();
  }
  if (random.integer(1, 4) == 1) {
    l->permutation = random_permutation(random, k);
    l->channels.input_permutation = l->permutation.data();
  }
  const bool wide =
      a.bits != rrs::kActivationFloat && !a.exact_reference &&
      (a.window.kind == rrs::WindowKind::kWhole || a.window.kind == rrs::WindowKind::kRows);
  if (wide && random.integer(1, 4) == 1) {
    l->group_permutation = random_permutation(random, k);
    l->channels.group_permutation = l->group_permutation.data();
  }
  if (a.window.kind == rrs::WindowKind::kFrozen) {
    for (std::int64_t g = 0; g < rrs::group_count(k, a.group); ++g) {
      l->frozen.push_back(2.5f + random.uniform());
    }
    l->channels.frozen_scales = l->frozen.data();
  }
}

// Layer number `seed`; wherever a test fails, it says this number.
inline void make_random_layer(std::uint64_t seed, RandomLayer* l) {
  Random random(seed);
  const rrs::Scheme s = random_scheme(random);
  l->seed = seed;
  const std::int64_t m = random.integer(1, random.integer(1, 8) == 1 ? 40 : 9);
  const std::int64_t n = random.integer(1, 40);
  const std::int64_t k = random.integer(1, random.integer(1, 8) == 1 ? 600 : 130);
  l->data = make_layer(m, n, k, random.bits());
  add_channels(random, s, l);
  l->weight = prepare(l->data, s, l->channels);
  const std::int64_t rank = (std::min)(random.integer(1, 20), (std::min)(n, k));
  if (s.activation.exact_reference || random.integer(1, 6) > 1) return;
  const std::vector<float> a = normal_vector(n * rank, random.bits());
  const std::vector<float> b = normal_vector(rank * k, random.bits());
  const int bits = random.integer(1, 2) == 1 ? 16 : 8;
  auto both =
      rrs::attach_low_rank(l->weight.view(), {a.data(), n, rank}, {b.data(), rank, k}, bits);
  ASSERT_TRUE(both.ok()) << both.status().message();
  l->weight = std::move(*both);
}

// linear() into a fresh Y.
template <class Executor = rrs::SerialExecutor>
std::vector<float> run_random(const RandomLayer& l, const std::vector<float>& x, std::int64_t m,
                              rrs::Isa isa, const Executor& executor = {}) {
  std::vector<float> y(static_cast<std::size_t>(m * l.data.n), -12345.0f);
  rrs::Workspace ws(rrs::workspace_bytes(m, l.weight.view()));
  rrs::ActivationOptions options;
  options.channels = l.channels;
  options.isa = isa;
  const rrs::Status status =
      rrs::linear(rrs::MatrixView<const float>(x.data(), m, l.data.k), l.weight.view(),
                  rrs::MatrixView<float>(y.data(), m, l.data.n), ws, executor, options);
  EXPECT_TRUE(status.ok()) << "layer " << l.seed << ": " << status.message();
  return y;
}

}  // namespace rrs_test
