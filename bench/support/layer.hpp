// One layer of this library, ready to run: weight, workspace, output.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "rrs/rrs.hpp"
#include "support/checked.hpp"
#include "support/data.hpp"
#include "support/thread_pool.hpp"

namespace rrs_bench {

// Speed does not depend on how scales were found: without the clip search set-up takes a tenth.
inline rrs::PreparedWeight prepare(const rrs::MatrixView<const float>& w, rrs::Scheme scheme) {
  scheme.weight.scale = rrs::WeightScale::kAbsmax;
  rrs::Result<rrs::PreparedWeight> prepared = rrs::prepare_weight(w, scheme);
  check(prepared.status());
  return std::move(*prepared);
}

class Layer {
 public:
  // `weight` must outlive the layer; `scheme` may differ from its own in the activations.
  Layer(const rrs::WeightView& weight, const rrs::Scheme& scheme, std::int64_t m,
        ThreadPool* pool = nullptr)
      : weight_(weight),
        scheme_(scheme),
        m_(m),
        pool_(pool),
        workspace_(rrs::workspace_bytes(m, weight.k, scheme, weight.n,
                                        rrs::low_rank_columns(weight.low_rank.rank))),
        y_(static_cast<std::size_t>(m * weight.n), 0.0f) {}

  rrs::ActivationOptions& options() { return options_; }
  const rrs::PreparedActivation& activation() const { return activation_; }
  const rrs::WeightView& weight() const { return weight_; }
  const rrs::Scheme& scheme() const { return scheme_; }
  rrs::Workspace& workspace() { return workspace_; }
  const std::vector<float>& y() const { return y_; }

  // X [m, k]: rotated, smoothed, quantized, packed.
  void prepare_activation(const float* x) {
    const rrs::MatrixView<const float> X(x, m_, weight_.k);
    if (pool_ == nullptr) {
      check(rrs::smooth_rotate_quantize(X, scheme_, workspace_, activation_, rrs::SerialExecutor{},
                                        options_));
    } else {
      check(rrs::smooth_rotate_quantize(X, scheme_, workspace_, activation_, PoolExecutor{pool_},
                                        options_));
    }
  }
  void multiply() { multiply(weight_); }
  // By another weight of the same scheme and shape (to stream from DRAM).
  void multiply(const rrs::WeightView& weight) {
    const rrs::MatrixView<float> Y(y_.data(), m_, weight.n);
    if (pool_ == nullptr) {
      check(rrs::gemm(activation_, weight, Y));
    } else {
      check(rrs::gemm(activation_, weight, Y, PoolExecutor{pool_}));
    }
  }
  void run(const float* x) {
    prepare_activation(x);
    multiply();
  }

 private:
  rrs::WeightView weight_;
  rrs::Scheme scheme_;
  std::int64_t m_;
  ThreadPool* pool_;
  rrs::Workspace workspace_;
  rrs::PreparedActivation activation_;
  rrs::ActivationOptions options_;
  std::vector<float> y_;
};

}  // namespace rrs_bench
