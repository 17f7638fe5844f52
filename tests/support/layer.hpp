// A whole layer for tests: data, a prepared weight, and one call that returns Y.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rrs/rrs.hpp"
#include "support/random.hpp"

namespace rrs_test {

struct NamedScheme {
  std::string name;
  rrs::Scheme scheme;
};

// Every integer preset, and the corners that no preset covers.
inline std::vector<NamedScheme> integer_schemes() {
  std::vector<NamedScheme> all;
  rrs::presets::for_each([&](const rrs::NamedPreset& p) {
    if (!p.scheme.simulated) all.push_back({p.name, p.scheme});
  });
  const auto add = [&](const char* name, auto change) {
    rrs::Scheme s;
    change(s);
    all.push_back({name, s});
  };
  using rrs::Scheme;
  add("block16_g16", [](Scheme& s) {
    s.rotation.block = 16;
    s.activation.group = s.weight.group = 16;
  });
  add("block256_g256", [](Scheme& s) {
    s.rotation.block = 256;
    s.activation.group = s.weight.group = 256;
  });
  add("a_row_w32", [](Scheme& s) { s.activation.group = rrs::kRowGroup; });
  add("a32_w_row", [](Scheme& s) { s.weight.group = rrs::kRowGroup; });
  add("a128_w32", [](Scheme& s) { s.activation.group = 128; });
  add("a32_w128", [](Scheme& s) { s.weight.group = 128; });
  add("signs", [](Scheme& s) {
    s.rotation.random_signs = true;
    s.rotation.sign_seed = 7;
  });
  add("w8a8_g32", [](Scheme& s) { s.weight.bits = s.activation.bits = 8; });
  add("w8a16", [](Scheme& s) {
    s.weight.bits = 8;
    s.activation.bits = rrs::kActivationFloat;
  });
  add("a2_symmetric", [](Scheme& s) {
    s.activation.bits = 2;
    s.activation.range = rrs::Range::kSymmetric;
  });
  add("a6_clip", [](Scheme& s) {
    s.activation.bits = 6;
    s.activation.clip = 0.8f;
  });
  add("whole_full_rotation", [](Scheme& s) {
    s.rotation.kind = rrs::RotationKind::kFull;
    s.activation.window.kind = rrs::WindowKind::kWhole;
  });
  add("per_tensor", [](Scheme& s) {
    s.activation.window.kind = rrs::WindowKind::kWhole;
    s.activation.group = rrs::kRowGroup;
    s.activation.token_scale = false;
  });
  return all;
}

struct LayerData {
  std::int64_t m, n, k;
  std::vector<float> x, w;
  rrs::MatrixView<const float> X() const { return {x.data(), m, k}; }
  rrs::MatrixView<const float> W() const { return {w.data(), n, k}; }
};

inline LayerData make_layer(std::int64_t m, std::int64_t n, std::int64_t k, std::uint64_t seed) {
  return {m, n, k, llm_activations(m, k, m > 2 ? 1 : -1, seed), normal_vector(n * k, seed + 1)};
}

struct RunOptions {
  std::optional<rrs::Isa> isa;
  bool fused = true;
  rrs::ActivationOptions activation;  // channels, sequences
  rrs::GemmOptions gemm;
};

// smooth_rotate_quantize and gemm into a fresh Y; every Status must be ok.
template <class Executor = rrs::SerialExecutor>
std::vector<float> run_layer(const rrs::MatrixView<const float>& X, const rrs::PreparedWeight& w,
                             RunOptions options = {}, const Executor& executor = {}) {
  const rrs::Scheme& scheme = w.scheme();
  std::vector<float> y(static_cast<std::size_t>(X.rows * w.n()), -12345.0f);
  rrs::Workspace ws(rrs::workspace_bytes(X.rows, X.cols, scheme, w.n()));
  rrs::PreparedActivation a;
  options.activation.isa = options.isa;
  options.activation.fused = options.fused;
  rrs::Status status = rrs::smooth_rotate_quantize(X, scheme, ws, a, executor, options.activation);
  EXPECT_TRUE(status.ok()) << status.message();
  status = rrs::gemm(a, w, rrs::MatrixView<float>(y.data(), X.rows, w.n()), executor, options.gemm);
  EXPECT_TRUE(status.ok()) << status.message();
  return y;
}

inline rrs::PreparedWeight prepare(const LayerData& d, const rrs::Scheme& scheme,
                                   const rrs::LayerChannels& channels = {}) {
  rrs::WeightOptions options;
  options.channels = channels;
  rrs::Result<rrs::PreparedWeight> w = rrs::prepare_weight(d.W(), scheme, options);
  EXPECT_TRUE(w.ok()) << w.status().message();
  return std::move(*w);
}

}  // namespace rrs_test
