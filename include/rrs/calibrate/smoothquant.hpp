// SmoothQuant: per-input divisors that move difficulty from activations to weights.
//
//   s_j = max|X_j|^alpha / max|W_j|^(1 - alpha),  both maxima floored at 1e-5
//   X_j: input j over all calibration tokens; W_j: column j over all outputs of every weight that
//   shares the input (q, k and v together; gate and up together). x / s, w * s leave X W^T
//   unchanged.
//
// from: calibration activations and float weights.  to: LayerChannels::divisor of prepare_weight
// and smooth_rotate_quantize (one division per activation at run time); or, where a norm precedes
// the linears, folded into it by fold_into_norm: then nothing is left to divide. Shapes: maxima and
// s have K elements. alpha in [0, 1]: 0.5 by default, 0.8 to 0.85 for LLaMA-class, or the one of
// least output error (smoothquant_search.hpp). Numeric contract: computed in double, rounded once
// to f32; s is finite and > 0. Cost: one pass over X and W.
// Offline: allocates. Paper: Xiao et al., SmoothQuant, 2023.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"
#include "rrs/core/view.hpp"

RRS_TYPES_BEGIN

inline constexpr double kSmoothQuantFloor = 1e-5;

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// maxima[j] = max(maxima[j], max over rows of |m[.,j]|): call once per batch of activations, or
// once per weight. An empty `maxima` starts at zero. A non-finite value is kNonFinite with its row,
// and leaves `maxima` untouched.
template <class T>
Status update_channel_maxima(const MatrixView<T>& m, std::vector<float>* maxima) {
  if (maxima == nullptr) return invalid_argument("maxima", "must not be null", 0, 1);
  if (Status s = validate_view(erase(m), kNamesX); !s) return s;
  const auto k = static_cast<std::size_t>(m.cols);
  if (!maxima->empty() && maxima->size() != k) {
    return invalid_argument("X.cols", "must equal the number of maxima", m.cols,
                            static_cast<std::int64_t>(maxima->size()));
  }
  std::vector<float> next = maxima->empty() ? std::vector<float>(k, 0.0f) : *maxima;
  for (std::int64_t t = 0; t < m.rows; ++t) {
    const T* row = m.row(t);
    std::uint32_t worst = 0;
    for (std::size_t j = 0; j < k; ++j) {
      const std::uint32_t magnitude = float_bits(to_f32(row[j])) & 0x7fffffffu;
      if (magnitude > float_bits(next[j])) next[j] = float_from_bits(magnitude);
      worst = magnitude > worst ? magnitude : worst;
    }
    if (!is_finite_bits(worst)) {
      return Status{StatusCode::kNonFinite, "X", "must be finite (found: row)", t, m.rows, nullptr};
    }
  }
  *maxima = std::move(next);
  return Status{};
}

namespace detail {

inline Status validate_maxima(const std::vector<float>& maxima, const char* name) {
  for (std::size_t j = 0; j < maxima.size(); ++j) {
    if (float_bits(maxima[j]) >= 0x7f800000u && float_bits(maxima[j]) != 0x80000000u) {
      return invalid_argument(name, "must be finite and >= 0 (found: index)",
                              static_cast<std::int64_t>(j),
                              static_cast<std::int64_t>(maxima.size()));
    }
  }
  return Status{};
}

}  // namespace detail

// s [K] from activation maxima and weight column maxima (of all weights that share the input).
inline Result<std::vector<float>> smoothquant_scales(const std::vector<float>& activation_maxima,
                                                     const std::vector<float>& weight_maxima,
                                                     float alpha = 0.5f) {
  const std::size_t k = activation_maxima.size();
  if (weight_maxima.size() != k) {
    return invalid_argument("weight_maxima", "must have one element per input",
                            static_cast<std::int64_t>(weight_maxima.size()),
                            static_cast<std::int64_t>(k));
  }
  // By bits, since NaN must fail under -ffast-math too: 0x3f800000 is 1.0f; -0 counts as 0.
  const std::uint32_t alpha_bits = float_bits(alpha);
  if (alpha_bits > 0x3f800000u && alpha_bits != 0x80000000u) {
    return invalid_argument("alpha", "times 1000 must be in [0, 1000]",
                            is_finite_bits(alpha_bits) && std::fabs(alpha) < 1e9f
                                ? static_cast<std::int64_t>(alpha * 1000.0f)
                                : -1,
                            1000);
  }
  if (Status s = detail::validate_maxima(activation_maxima, "activation_maxima"); !s) return s;
  if (Status s = detail::validate_maxima(weight_maxima, "weight_maxima"); !s) return s;
  std::vector<float> scales(k);
  const double a = static_cast<double>(alpha);
  for (std::size_t j = 0; j < k; ++j) {
    const double x = (std::fmax)(static_cast<double>(activation_maxima[j]), kSmoothQuantFloor);
    const double w = (std::fmax)(static_cast<double>(weight_maxima[j]), kSmoothQuantFloor);
    scales[j] = static_cast<float>(std::pow(x, a) / std::pow(w, 1.0 - a));
  }
  return scales;
}

// gain[j] / s[j], rounded once: the gain of the norm before the linears, with their division in it.
//
//   (x / rms) gain / s = (x / rms) (gain / s), so the norm's output is x / s, up to the rounding of
//   one quotient and one product (2^-23 relative); bit for bit where s is a power of two
//
// Shapes: gain [K] of an RMS or layer norm (as multiplied: 1 + g where a model stores g; the bias
// of a layer norm divides likewise), scales [K]. The weights: multiplied by s in f32 beforehand,
// then prepared without LayerChannels::divisor. Everything that reads the norm's output must expect
// it divided: q, k and v together, gate and up together. Errors: sizes that differ; a gain that is
// not finite, a scale that is not finite and > 0, a quotient beyond f32: with its index.
inline Result<std::vector<float>> fold_into_norm(const std::vector<float>& gain,
                                                 const std::vector<float>& scales) {
  const auto k = static_cast<std::int64_t>(gain.size());
  if (scales.size() != gain.size()) {
    return invalid_argument("scales", "must have one element per gain",
                            static_cast<std::int64_t>(scales.size()), k);
  }
  std::vector<float> folded(gain.size());
  for (std::size_t j = 0; j < gain.size(); ++j) {
    const auto at = static_cast<std::int64_t>(j);
    if (!is_finite_bits(float_bits(gain[j]))) {
      return invalid_argument("gain", "must be finite (found: index)", at, k);
    }
    if (float_bits(scales[j]) == 0 || float_bits(scales[j]) >= 0x7f800000u) {
      return invalid_argument("scales", "must be finite and > 0 (found: index)", at, k);
    }
    folded[j] = gain[j] / scales[j];
    if (!is_finite_bits(float_bits(folded[j]))) {
      return invalid_argument("scales", "must not take the gain beyond f32 (found: index)", at, k);
    }
  }
  return folded;
}

RRS_FUNCTIONS_END
