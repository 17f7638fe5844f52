// Reference GEMM: plain loops in double over unpacked codes. No dispatch, no intrinsics, no layout.
//
//   Y[t,n] = a[t] * sum_k s[t, k/ag] * x[t,k] * W[n,k] + bias[n]
//   W[n,k] = v[n, k/wg] * (u[n,k] - zero)   or, with offsets,   v * u + offset
// from: tests.  to: the bounds of gemm/gemm.hpp, through `magnitude`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"

RRS_FUNCTIONS_BEGIN

namespace reference {

// All row-major and unpadded. x: activation codes, or the float activations.
struct GemmInputs {
  std::int64_t m = 0, n = 0, k = 0;
  int activation_group = 32;
  int weight_group = 32;
  int zero = 8;                 // subtracted from u when there are no offsets
  std::vector<double> x;        // [m][k]
  std::vector<double> s;        // [m][groups(k, activation_group)]; empty: 1
  std::vector<double> a;        // [m]; empty: 1
  std::vector<double> u;        // [n][k], stored unsigned codes
  std::vector<double> v;        // [n][groups(k, weight_group)]
  std::vector<double> offsets;  // the same shape, or empty
  std::vector<double> bias;     // [n], or empty
};

struct GemmResult {
  std::vector<double> y;          // [m][n]
  std::vector<double> magnitude;  // the sum of the magnitudes of all rounded terms, times |a|
};

// A signed index, as vectors take it.
inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Index of the group of input k.
inline std::int64_t group_of(std::int64_t k, int group) {
  return group == kRowGroup ? 0 : k / group;
}

// One output. Integer sums are exact in double, so terms are collected per inner group, as the
// kernels round them; float activations round every product (`per_input`).
inline void gemm_output(const GemmInputs& in, std::int64_t t, std::int64_t n, bool per_input,
                        double* y, double* magnitude) {
  const std::int64_t ag = group_count(in.k, in.activation_group);
  const std::int64_t wg = group_count(in.k, in.weight_group);
  const int inner = inner_group(in.activation_group, in.weight_group);
  double sum = 0.0, terms = 0.0;
  for (std::int64_t g = 0; g < group_count(in.k, inner); ++g) {
    const std::int64_t first = inner == kRowGroup ? 0 : g * inner;
    const std::int64_t last = inner == kRowGroup ? in.k : (std::min)(first + inner, in.k);
    const std::int64_t weight_at = n * wg + group_of(first, in.weight_group);
    const double v = in.v[at(weight_at)];
    const double offset = in.offsets.empty() ? 0.0 : in.offsets[at(weight_at)];
    const double zero = in.offsets.empty() ? in.zero : 0.0;
    const double s = in.s.empty() ? 1.0 : in.s[at(t * ag + group_of(first, in.activation_group))];
    double dot = 0.0, code_sum = 0.0, magnitudes = 0.0;
    for (std::int64_t k = first; k < last; ++k) {
      const double x = in.x[at(t * in.k + k)], code = in.u[at(n * in.k + k)] - zero;
      dot += x * code;
      code_sum += x;
      magnitudes += std::abs(x) * (std::abs(code * v) + std::abs(offset));
    }
    sum += s * (v * dot + offset * code_sum);
    terms +=
        std::abs(s) * (per_input ? magnitudes : std::abs(v * dot) + std::abs(offset * code_sum));
  }
  const double a = in.a.empty() ? 1.0 : in.a[at(t)];
  const double bias = in.bias.empty() ? 0.0 : in.bias[at(n)];
  *y = a * sum + bias;
  *magnitude = std::abs(a) * terms + std::abs(bias);
}

// Every output; `per_input` for float activations.
inline GemmResult gemm(const GemmInputs& in, bool per_input) {
  GemmResult r;
  r.y.resize(at(in.m * in.n));
  r.magnitude.resize(at(in.m * in.n));
  for (std::int64_t t = 0; t < in.m; ++t) {
    for (std::int64_t n = 0; n < in.n; ++n) {
      gemm_output(in, t, n, per_input, &r.y[at(t * in.n + n)], &r.magnitude[at(t * in.n + n)]);
    }
  }
  return r;
}

}  // namespace reference

RRS_FUNCTIONS_END
