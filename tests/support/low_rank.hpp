// Low-rank branches for tests: given in f32, stored in 16 or 8 bits, and the layer that has one.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "rrs/rrs.hpp"
#include "support/random.hpp"

namespace rrs_test {

inline constexpr int kLowRankBits[] = {16, 8};

struct Factors {
  std::int64_t rank;
  std::vector<float> a, b;  // what is given
  int bits;
  std::vector<float> up, down, s;  // what is stored: L_A[n,j] L_B[j,k] = s[j] up[n,j] down[j,k]
};

// Rank j of a factor, `count` values from `first` in steps, as codes; the largest magnitude.
inline double to_codes(const std::vector<float>& in, std::int64_t first, std::int64_t step,
                       std::int64_t count, std::vector<float>* out) {
  double most = 0.0;
  const auto at = [=](std::int64_t i) { return static_cast<std::size_t>(first + i * step); };
  for (std::int64_t i = 0; i < count; ++i) {
    most = (std::max)(most, std::abs(static_cast<double>(in[at(i)])));
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const double code = std::nearbyint(127.0 * static_cast<double>(in[at(i)]) / most);
    (*out)[at(i)] = most > 0.0 ? static_cast<float>(code) : 0.0f;
  }
  return most;
}

// What attach_low_rank is to make of a and b.
inline void store_factors(std::int64_t n, std::int64_t k, Factors* f) {
  f->up = f->a, f->down = f->b;
  f->s.assign(static_cast<std::size_t>(f->rank), 1.0f);
  for (std::int64_t j = 0; f->bits == 8 && j < f->rank; ++j) {
    const double in_a = to_codes(f->a, j, f->rank, n, &f->up);
    const double in_b = to_codes(f->b, j * k, 1, k, &f->down);
    f->s[static_cast<std::size_t>(j)] = static_cast<float>(in_a * in_b / (127.0 * 127.0));
  }
}

inline Factors make_factors(std::int64_t n, std::int64_t k, std::int64_t rank, std::uint64_t seed,
                            int bits = 16) {
  Factors f{rank, normal_vector(n * rank, seed), normal_vector(rank * k, seed + 1), bits, {}, {},
            {}};
  for (float& v : f.a) v = rrs::to_f32(rrs::to_f16(0.1f * v));
  for (float& v : f.b) v = rrs::to_f32(rrs::to_f16(0.1f * v));
  store_factors(n, k, &f);
  return f;
}

inline rrs::PreparedWeight attach(const rrs::WeightView& w, const Factors& f) {
  auto both = rrs::attach_low_rank(w, rrs::MatrixView<const float>(f.a.data(), w.n, f.rank),
                                   rrs::MatrixView<const float>(f.b.data(), f.rank, w.k), f.bits);
  EXPECT_TRUE(both.ok()) << both.status().message();
  return std::move(*both);
}

struct Call {
  rrs::Isa isa = rrs::Isa::kScalar;
  rrs::LayerChannels channels;
  rrs::GemmOptions gemm;
};

template <class Executor = rrs::SerialExecutor>
std::vector<float> run_linear(const rrs::MatrixView<const float>& X, const rrs::WeightView& w,
                              const Call& call, const Executor& executor = {}) {
  std::vector<float> y(static_cast<std::size_t>(X.rows * w.n), 0.5f);
  rrs::Workspace ws(rrs::workspace_bytes(X.rows, w));
  rrs::ActivationOptions options;
  options.isa = call.isa;
  options.channels = call.channels;
  const rrs::Status status = rrs::linear(X, w, rrs::MatrixView<float>(y.data(), X.rows, w.n), ws,
                                         executor, options, call.gemm);
  EXPECT_TRUE(status.ok()) << status.message();
  return y;
}

}  // namespace rrs_test
