// Float linears: the opponent of the quantized ones, so they get the fastest product at hand.
// Which one: README.md, "What fp runs on".
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "float_kernels.hpp"
#include "linear.hpp"

#if RRS_LLM_OPENBLAS
#include <cblas.h>

#include "rrs/core/dispatch.hpp"
#endif

namespace rrs_llm {
namespace {

#if RRS_LLM_OPENBLAS

// OpenBLAS runs single-threaded on slices of the outputs: our team does the rest, so that both
// methods use the same threads and no second team spins beside ours.
void set_single_threaded() {
  static const bool once = [] {
    openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(once);
}

class BlasLinear final : public Linear {
 public:
  BlasLinear(std::string name, std::vector<float> weight, std::int64_t rows, std::int64_t cols)
      : name_(std::move(name)), weight_(std::move(weight)), rows_(rows), cols_(cols) {
    set_single_threaded();
  }

  const char* apply(InputCache& input, const LinearOutput& out,
                    const ThreadPool& pool) const override {
    // Slices of one width whatever the team: OpenBLAS gives an output other bits in a product of
    // other width (its AVX-512 kernels do). A gemm packs X once per slice: half a percent of it.
    constexpr std::int64_t kSlice = 192;
    pool((rows_ + kSlice - 1) / kSlice, [&](std::int64_t task) noexcept {
      slice(input, out, task * kSlice, (std::min)((task + 1) * kSlice, rows_));
    });
    return kernel_.c_str();
  }

  LinearInfo info() const override {
    return LinearInfo{name_, "fp", kernel_, false, rows_ * cols_, rows_ * cols_ * 4};
  }

 private:
  void slice(const InputCache& input, const LinearOutput& out, std::int64_t first,
             std::int64_t last) const noexcept {
    const auto m = static_cast<blasint>(input.rows());
    const auto n = static_cast<blasint>(last - first);
    const auto k = static_cast<blasint>(cols_);
    const float* w = weight_.data() + first * cols_;
    const float beta = out.accumulate ? 1.0f : 0.0f;
    if (m == 1) {
      cblas_sgemv(CblasRowMajor, CblasNoTrans, n, k, 1.0f, w, k, input.x(), 1, beta, out.y + first,
                  1);
    } else {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, input.x(), k, w, k, beta,
                  out.y + first, static_cast<blasint>(out.stride));
    }
    if (out.bias == nullptr) return;
    for (std::int64_t t = 0; t < input.rows(); ++t) {
      for (std::int64_t i = first; i < last; ++i) out.y[t * out.stride + i] += out.bias[i];
    }
  }

  std::string name_;
  std::string kernel_ = std::string("openblas_sgemm ") + openblas_get_corename();
  std::vector<float> weight_;
  std::int64_t rows_;
  std::int64_t cols_;
};

// With AVX-512 the engine's own kernel is as fast as the best of OpenBLAS's, at one row much
// faster, and gives the same bits everywhere; and an OpenBLAS older than the processor does not
// know it and falls back to kernels of 2004 (0.3.21 calls an Emerald Rapids "Prescott"). With AVX2
// its Haswell kernel takes half the time.
bool openblas_is_faster() {
  const rrs::KernelTable* table = nullptr;
  if (!rrs::select_kernels(std::nullopt, &table)) return true;
  if (table->isa == rrs::Isa::kScalar) return true;
  const std::string core = openblas_get_corename();
  const bool avx2 = table->isa == rrs::Isa::kAvx2 || table->isa == rrs::Isa::kAvxVnni;
  return avx2 && (core == "Haswell" || core == "Zen");
}

#endif

class PanelLinear final : public Linear {
 public:
  PanelLinear(std::string name, const std::vector<float>& weight, std::int64_t rows,
              std::int64_t cols)
      : name_(std::move(name)), rows_(rows), cols_(cols) {
    panels_.assign(static_cast<std::size_t>(padded16(rows) * cols), 0.0f);
    for (std::int64_t r = 0; r < rows; ++r) {
      float* to = panels_.data() + r / kLanes * kLanes * cols + r % kLanes;
      for (std::int64_t k = 0; k < cols; ++k) {
        to[k * kLanes] = weight[static_cast<std::size_t>(r * cols + k)];
      }
    }
  }

  const char* apply(InputCache& input, const LinearOutput& out,
                    const ThreadPool& pool) const override {
    const std::int64_t panels = padded16(rows_) / kLanes;
    const Ranges ranges = split(panels, 4, pool.threads());
    pool(ranges.tasks,
         [&](std::int64_t task) { slice(input, out, ranges.first(task), ranges.last(task)); });
    return kernel_.c_str();
  }

  LinearInfo info() const override {
    return LinearInfo{name_, "fp", kernel_, false, rows_ * cols_, rows_ * cols_ * 4};
  }

 private:
  // Through a buffer: a panel of outputs may be wider than what is left of a row of Y.
  void slice(const InputCache& input, const LinearOutput& out, std::int64_t first,
             std::int64_t last) const {
    const std::int64_t width = (last - first) * kLanes;
    thread_local std::vector<float> buffer;
    buffer.resize(static_cast<std::size_t>(input.rows() * width));
    PanelCall call;
    call.x = input.x();
    call.x_stride = cols_;
    call.rows = input.rows();
    call.panels = panels_.data() + first * kLanes * cols_;
    call.panel_stride = kLanes * cols_;
    call.panel_count = last - first;
    call.k = cols_;
    call.y = buffer.data();
    call.y_stride = width;
    float_kernels().panel_product(call);
    const std::int64_t end = last * kLanes < rows_ ? last * kLanes : rows_;
    for (std::int64_t t = 0; t < input.rows(); ++t) {
      for (std::int64_t i = first * kLanes; i < end; ++i) {
        float value = buffer[static_cast<std::size_t>(t * width + i - first * kLanes)];
        if (out.bias != nullptr) value += out.bias[i];
        float& y = out.y[t * out.stride + i];
        y = out.accumulate ? y + value : value;
      }
    }
  }

  std::string name_;
  std::string kernel_ = std::string("panel_product_") + float_kernels().name;
  std::vector<float> panels_;
  std::int64_t rows_;
  std::int64_t cols_;
};

}  // namespace

std::unique_ptr<Linear> make_float_linear(std::string name, std::vector<float> weight,
                                          std::int64_t rows, std::int64_t cols) {
  if (static_cast<std::int64_t>(weight.size()) != rows * cols) {
    throw std::runtime_error(name + ": has " + std::to_string(weight.size()) + " weights, not " +
                             std::to_string(rows * cols));
  }
#if RRS_LLM_OPENBLAS
  if (openblas_is_faster()) {
    return std::make_unique<BlasLinear>(std::move(name), std::move(weight), rows, cols);
  }
#endif
  return std::make_unique<PanelLinear>(std::move(name), weight, rows, cols);
}

std::string float_linear_library() {
#if RRS_LLM_OPENBLAS
  if (openblas_is_faster()) return openblas_get_config();
#endif
  return std::string("rrs-llm panel kernel, ") + float_kernels().name;
}

}  // namespace rrs_llm
