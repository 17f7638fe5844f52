// SmoothQuant: per-input divisors that move difficulty from activations to weights.
//
//   s_j = max|X_j|^alpha / max|W_j|^(1 - alpha),  both maxima floored at 1e-5
//   X_j: input j over all calibration tokens; W_j: column j over all outputs of every weight that
//   shares the input (q, k and v together; gate and up together). x / s, w * s leave X W^T
//   unchanged.
//
// from: calibration activations and float weights.  to: LayerChannels::divisor of prepare_weight
// and smooth_rotate_quantize; or folded into the preceding norm by the caller. Shapes: maxima and s
// have K elements. alpha in [0, 1]: 0.5 by default, 0.8 to 0.85 for LLaMA-class. Numeric contract:
// computed in double, rounded once to f32; s is finite and > 0. Cost: one pass over X and W.
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

RRS_FUNCTIONS_END
