// Oracle of a whole layer: what the activation lane stores, dequantized, and the exact product with
// the packed weight. Plain loops in double, one stage after the other; no dispatch.
//
//   x^[t,k] = a[t] s[b,g] q[t,k]       Y[t,n] = sum_k x^[t,k] w^[n,k]
//
// from: tests, accuracy programs.  to: comparison with pipeline/linear.hpp. The integer path
// differs where a code lies within rounding of a tie (one step, rare) and by f32 rounding
// elsewhere.
#pragma once

#include <cstdint>
#include <vector>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/reference/pack.hpp"
#include "rrs/reference/quantize.hpp"
#include "rrs/reference/rotate.hpp"
#include "rrs/reference/smooth.hpp"
#include "rrs/rotate/rotate_row.hpp"

RRS_FUNCTIONS_BEGIN

namespace reference {

// x / divisor, permuted, rotated in double, permuted again, rounded to f32. x [m][k].
inline std::vector<float> rotated_rows(const float* x, std::int64_t m, std::int64_t k,
                                       const Scheme& scheme, const LayerChannels& channels) {
  std::vector<float> signs;
  for (std::int64_t i = 0; scheme.rotation.random_signs && i < k; ++i) {
    signs.push_back(rrs::detail::random_sign(scheme.rotation.sign_seed, i));
  }
  std::vector<float> out;
  std::vector<double> row(static_cast<std::size_t>(k));
  for (std::int64_t t = 0; t < m; ++t) {
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int64_t from =
          channels.input_permutation != nullptr ? channels.input_permutation[i] : i;
      const double divisor =
          channels.divisor != nullptr ? static_cast<double>(channels.divisor[from]) : 1.0;
      row[static_cast<std::size_t>(i)] = static_cast<double>(x[t * k + from]) / divisor;
    }
    rotate_row(scheme.rotation, signs.empty() ? nullptr : signs.data(), k, row.data());
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int64_t from =
          channels.group_permutation != nullptr ? channels.group_permutation[i] : i;
      out.push_back(static_cast<float>(row[static_cast<std::size_t>(from)]));
    }
  }
  return out;
}

// Dequantized rows of one window.
inline std::vector<double> dequantized_window(const float* x, std::int64_t rows, std::int64_t k,
                                              const Scheme& scheme, const LayerChannels& channels) {
  const ActivationScheme& a = scheme.activation;
  if (a.bits == kActivationFloat) return std::vector<double>(x, x + rows * k);
  if (a.exact_reference) {
    return rs_dequantized(x, rows, k, a.group == kRowGroup ? static_cast<int>(k) : a.group, a.bits,
                          static_cast<double>(a.floor));
  }
  std::vector<double> scales;
  if (a.window.kind == WindowKind::kFrozen) {
    scales.assign(channels.frozen_scales, channels.frozen_scales + group_count(k, a.group));
  } else if (a.window.kind != WindowKind::kOne) {
    scales = window_scales(x, rows, k, a.group, static_cast<double>(a.floor));
  }
  const std::int64_t step = a.group == kRowGroup ? k : a.group;
  std::vector<double> out;
  for (std::int64_t t = 0; t < rows; ++t) {
    const QuantizedRow row =
        quantize_row(x + t * k, k, a, a.group, scales.empty() ? nullptr : &scales);
    for (std::int64_t i = 0; i < k; ++i) {
      out.push_back(row.token_scale * row.scales[static_cast<std::size_t>(i / step)] *
                    row.codes[static_cast<std::size_t>(i)]);
    }
  }
  return out;
}

// x^ of a whole call, [m][k], in the basis of the packed weight. starts: rows at which sequences
// begin. All rows must be finite.
inline std::vector<double> dequantized_activations(const float* x, std::int64_t m, std::int64_t k,
                                                   const Scheme& scheme,
                                                   const LayerChannels& channels = {},
                                                   const std::vector<std::int64_t>& starts = {}) {
  const std::vector<float> rotated = rotated_rows(x, m, k, scheme, channels);
  Window window = scheme.activation.window;
  const std::vector<std::int64_t> number = window_of_rows(window, m, starts);
  std::vector<double> out;
  std::int64_t first = 0;
  while (first < m) {
    std::int64_t last = first + 1;
    while (last < m &&
           number[static_cast<std::size_t>(last)] == number[static_cast<std::size_t>(first)]) {
      ++last;
    }
    const std::vector<double> part =
        dequantized_window(rotated.data() + first * k, last - first, k, scheme, channels);
    out.insert(out.end(), part.begin(), part.end());
    first = last;
  }
  return out;
}

// Y [m][n] of the layer, bias and accumulate left out.
inline std::vector<double> linear(const float* x, std::int64_t m, const WeightView& w,
                                  const Scheme& scheme, const LayerChannels& channels = {},
                                  const std::vector<std::int64_t>& starts = {}) {
  const std::vector<double> activations =
      dequantized_activations(x, m, w.k, scheme, channels, starts);
  const std::vector<double> weights = dequantize(w);
  std::vector<double> y;
  for (std::int64_t t = 0; t < m; ++t) {
    for (std::int64_t n = 0; n < w.n; ++n) {
      double sum = 0.0;
      for (std::int64_t k = 0; k < w.k; ++k) {
        sum += activations[static_cast<std::size_t>(t * w.k + k)] *
               weights[static_cast<std::size_t>(n * w.k + k)];
      }
      y.push_back(sum);
    }
  }
  return y;
}

}  // namespace reference

RRS_FUNCTIONS_END
