// SmoothQuant's alpha, searched per input on the error of the quantized output.
//
//   alpha = argmin over a grid of sum_W || X W^T - Q(X / s) Q(W s)^T ||_F^2,
//   s_j = max|X_j|^alpha / max|W_j|^(1 - alpha);  the first of equal errors, so the lower alpha
//
// X: rows of the linears' input from calibration text; W: every weight that reads it (q, k and v
// together; gate and up together), so one alpha per input. Q is what runs later: prepare_weight,
// smooth_rotate_quantize and gemm under the layer's scheme. Rows, not a Hessian: alpha balances the
// error of the activations' codes against that of the weights', and X^T X knows only the latter.
//
// from: rows and maxima of a calibration run.  to: LayerChannels::divisor, or fold_into_norm
// (smoothquant.hpp). Shapes: X [T,K], W [N,K] f32; the maxima are of all calibration tokens, of
// which the T rows may be a sample. Windows wider than one token take all T rows as one sequence.
// Numeric contract: X W^T summed in double in one written order, errors in double; the same result
// on every ISA and with any executor. Cost: per alpha one preparation of every weight and T sum N K
// integer multiply-adds; T sum N K in double once. Memory: 12 T sum N bytes. Offline: allocates.
// Paper: Xiao et al., SmoothQuant, 2023 (its alpha is chosen per model; per input is ours).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "rrs/calibrate/smoothquant.hpp"
#include "rrs/core/config.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"
#include "rrs/core/view.hpp"
#include "rrs/pipeline/linear.hpp"
#include "rrs/pipeline/weight.hpp"

RRS_TYPES_BEGIN

struct AlphaSearchOptions {
  std::vector<float> alphas;  // tried in this order; empty: 0, 0.05, ..., 1
  LayerChannels channels;     // permutations of the input; the divisor is not looked at
};

struct AlphaSearch {
  float alpha = 0.0f;
  std::vector<float> divisor;  // s [K] at that alpha
  std::vector<float> alphas;   // what was tried
  std::vector<double> errors;  // of each; the largest double where it cannot be prepared
  double norm = 0.0;           // sum_W ||X W^T||_F^2, which the errors compare with
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// One weight of an input, and what it gives in double: [T][N].
struct AlphaTarget {
  MatrixView<const float> w;
  std::vector<double> y;
};

// sum_k a[k] b[k] in eight partial sums, then in their order: vectorizes without reassociation.
inline double dot_f64(const float* a, const float* b, std::int64_t k) noexcept {
  double lanes[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= k; i += 8) {
    for (int j = 0; j < 8; ++j) {
      lanes[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
    }
  }
  for (int j = 0; i < k; ++i, ++j)
    lanes[j] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

template <class Executor>
void fill_target(const MatrixView<const float>& x, const Executor& executor, AlphaTarget* target) {
  constexpr std::int64_t kOutputs = 32;
  const MatrixView<const float> w = target->w;
  target->y.resize(static_cast<std::size_t>(x.rows * w.rows));
  double* y = target->y.data();
  run_tasks(executor, (w.rows + kOutputs - 1) / kOutputs, [&x, &w, y](std::int64_t task) noexcept {
    const std::int64_t first = task * kOutputs;
    const std::int64_t last = w.rows - first < kOutputs ? w.rows : first + kOutputs;
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t n = first; n < last; ++n) {
        y[t * w.rows + n] = dot_f64(x.row(t), w.row(n), x.cols);
      }
    }
  });
}

// Adds ||X W^T - Q(X / s) Q(W s)^T||_F^2 of one weight; `a` is Q(X / s).
template <class Executor>
Status add_alpha_error(const PreparedActivation& a, const AlphaTarget& target,
                       const WeightView& weight, const Executor& executor, double* error) {
  const std::int64_t rows = a.m, n = weight.n;
  std::vector<float> y(static_cast<std::size_t>(rows * n));
  if (Status s = gemm(a, weight, MatrixView<float>(y.data(), rows, n), executor); !s) return s;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double d = static_cast<double>(y[i]) - target.y[i];
    *error += d * d;
  }
  return Status{};
}

// The error of one divisor over all weights of the input.
template <class Executor>
Status alpha_error(const MatrixView<const float>& x, const std::vector<AlphaTarget>& targets,
                   const Scheme& scheme, const LayerChannels& channels, Workspace& workspace,
                   const Executor& executor, double* error) {
  ActivationOptions options;
  options.channels = channels;
  PreparedActivation activation;
  Status s = smooth_rotate_quantize(x, scheme, workspace, activation, executor, options);
  if (!s) return s;
  WeightOptions weight_options;
  weight_options.channels = channels;
  *error = 0.0;
  for (const AlphaTarget& target : targets) {
    const Result<PreparedWeight> weight =
        prepare_weight(target.w, scheme, weight_options, executor);
    if (!weight) return weight.status();
    s = add_alpha_error(activation, target, *weight, executor, error);
    if (!s) return s;
  }
  return Status{};
}

inline Status validate_alpha_search(const MatrixView<const float>& x,
                                    const std::vector<MatrixView<const float>>& weights) {
  if (Status s = validate_view(erase(x), kNamesX); !s) return s;
  if (x.rows < 1) return invalid_argument("X.rows", "must be at least 1", x.rows, 1);
  if (x.cols < 1) return invalid_argument("X.cols", "must be at least 1", x.cols, 1);
  if (weights.empty()) return invalid_argument("weights", "must not be empty", 0, 1);
  for (const MatrixView<const float>& w : weights) {
    if (Status s = validate_view(erase(w), kNamesW); !s) return s;
    if (w.cols != x.cols) {
      return invalid_argument("W.cols", "must equal X.cols", w.cols, x.cols);
    }
    std::int64_t bytes = 0;
    if (!checked_product(x.rows, w.rows, &bytes) ||
        !checked_product(bytes, static_cast<std::int64_t>(sizeof(double)), &bytes)) {
      return invalid_argument("W.rows", "times X.rows must fit 63 bits of bytes", w.rows,
                              INT64_MAX);
    }
  }
  return Status{};
}

}  // namespace detail

// 0, 0.05, ..., 1.
inline std::vector<float> smoothquant_alpha_grid() {
  std::vector<float> grid;
  for (int i = 0; i <= 20; ++i) grid.push_back(static_cast<float>(i) / 20.0f);
  return grid;
}

// Errors: those of smoothquant_scales, prepare_weight and smooth_rotate_quantize. An alpha whose
// weights or activations cannot be prepared (a scale beyond f16) is passed over; when none can, the
// last one's error comes back.
template <class Executor = SerialExecutor>
Result<AlphaSearch> search_smoothquant_alpha(const MatrixView<const float>& X,
                                             const std::vector<MatrixView<const float>>& weights,
                                             const std::vector<float>& activation_maxima,
                                             const Scheme& scheme,
                                             const AlphaSearchOptions& options = {},
                                             const Executor& executor = Executor{}) {
  if (Status s = detail::validate_alpha_search(X, weights); !s) return s;
  AlphaSearch found;
  found.alphas = options.alphas.empty() ? smoothquant_alpha_grid() : options.alphas;
  std::vector<detail::AlphaTarget> targets;
  std::vector<float> weight_maxima;
  std::int64_t outputs = 0;
  for (const MatrixView<const float>& w : weights) {
    if (Status s = update_channel_maxima(w, &weight_maxima); !s) return s;
    targets.push_back(detail::AlphaTarget{w, {}});
    detail::fill_target(X, executor, &targets.back());
    for (const double y : targets.back().y) found.norm += y * y;
    outputs = w.rows > outputs ? w.rows : outputs;
  }
  const std::size_t bytes = workspace_bytes(X.rows, X.cols, scheme, outputs);
  Workspace workspace(bytes);
  if (workspace.bytes() < bytes) {
    return Status{StatusCode::kOutOfMemory, "workspace", "could not be allocated", 0, 0, nullptr};
  }
  LayerChannels channels = options.channels;
  double best = (std::numeric_limits<double>::max)();
  Status last;
  for (const float alpha : found.alphas) {
    Result<std::vector<float>> s = smoothquant_scales(activation_maxima, weight_maxima, alpha);
    if (!s) return s.status();
    channels.divisor = s->data();
    double error = 0.0;
    const Status status =
        detail::alpha_error(X, targets, scheme, channels, workspace, executor, &error);
    if (status.code == StatusCode::kOutOfMemory) return status;
    if (!status) last = status;
    const bool good = status.ok() && is_finite_bits(float_bits(static_cast<float>(error)));
    found.errors.push_back(good ? error : (std::numeric_limits<double>::max)());
    if (!good || !(error < best)) continue;
    best = error;
    found.alpha = alpha;
    found.divisor = std::move(*s);
  }
  if (!found.divisor.empty()) return found;
  if (!last) return last;
  return Status{StatusCode::kNonFinite, "X", "W^T has no finite error at any alpha", 0, 0, nullptr};
}

RRS_FUNCTIONS_END
