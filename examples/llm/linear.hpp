#pragma once
// Linear layers of a model, whatever arithmetic runs them, behind one interface.
//
//   Y[M,N] = X[M,K] W[N,K]^T (+ bias) (+ old Y)
//
// From: linear_float.cpp (OpenBLAS or the engine's own kernel), linear_rrs.cpp (the library),
// linear_simulated.cpp (reference/). To: the engine's forward pass. Linears that share an input get
// the same InputCache: activations are prepared once for q, k and v, and once for gate and up.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rrs/core/scheme.hpp"
#include "rrs/pipeline/weight_view.hpp"
#include "thread_pool.hpp"

namespace rrs_llm {

// A linear's place in the model, and what a table says about it.
struct LinearInfo {
  std::string name;       // canonical tensor name
  std::string precision;  // "w4a4", "w4a16", "fp", ...
  std::string kernel;     // the GEMM kernel for it, as the machine is now; apply says which ran
  bool simulated = false;
  std::int64_t weights = 0;
  std::int64_t stored_bytes = 0;  // weight and, where they are stored, divisor and permutation
};

struct LinearOutput {
  float* y = nullptr;
  std::int64_t stride = 0;
  const float* bias = nullptr;
  bool accumulate = false;
};

// One input matrix, and what has been made of it. Lives in the engine, reused for every call.
class InputCache {
 public:
  InputCache();
  ~InputCache();
  InputCache(const InputCache&) = delete;
  InputCache& operator=(const InputCache&) = delete;

  void set(const float* x, std::int64_t rows, std::int64_t cols) noexcept;

  const float* x() const noexcept { return x_; }
  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t cols() const noexcept { return cols_; }

  // How often an input has been rotated, smoothed and quantized: once for linears that share it.
  std::size_t preparations() const noexcept { return preparations_; }
  void count_preparation() noexcept { ++preparations_; }

  struct Prepared;  // linear_rrs.cpp
  Prepared& prepared() noexcept { return *prepared_; }

 private:
  const float* x_ = nullptr;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
  std::size_t preparations_ = 0;
  std::unique_ptr<Prepared> prepared_;
};

// What is done to a linear's input before its rotation; either may be empty.
struct InputChannels {
  std::vector<float> divisor;             // SmoothQuant: one value per input
  std::vector<std::int32_t> permutation;  // zigzag: the input that each position takes
  // The norm before divides: inputs come divided, and the divisor is there for the engine to fold.
  bool folded = false;

  bool empty() const noexcept { return divisor.empty() && permutation.empty(); }
  // What is left to do when the linear runs.
  rrs::LayerChannels view() const noexcept {
    rrs::LayerChannels c = of_weight();
    if (folded) c.divisor = nullptr;
    return c;
  }
  // What the weight was prepared with.
  rrs::LayerChannels of_weight() const noexcept {
    rrs::LayerChannels c;
    c.divisor = divisor.empty() ? nullptr : divisor.data();
    c.input_permutation = permutation.empty() ? nullptr : permutation.data();
    return c;
  }
};

class Linear {
 public:
  virtual ~Linear() = default;
  // The name of the GEMM kernel that ran; it lives as long as the linear. Throws std::runtime_error
  // naming the linear when the library returns an error.
  virtual const char* apply(InputCache& input, const LinearOutput& out,
                            const ThreadPool& pool) const = 0;
  virtual LinearInfo info() const = 0;
  // The packed weight, for the quantized file; nullptr where there is none.
  virtual const rrs::WeightView* packed() const noexcept { return nullptr; }
  virtual const InputChannels* channels() const noexcept { return nullptr; }
  // The low-rank branches of all linears that share this one's input: prepared together.
  virtual void carry(const std::vector<rrs::LowRankView>& branches) { (void)branches; }
};

// Tells linears that share an input about each other's low-rank branches.
void share_branches(const std::vector<Linear*>& siblings);

// Float weights [rows][cols].
std::unique_ptr<Linear> make_float_linear(std::string name, std::vector<float> weight,
                                          std::int64_t rows, std::int64_t cols);
// "OpenBLAS 0.3.21 ..." or "rrs-llm panel kernel, avx512".
std::string float_linear_library();

// A packed weight that `owner` keeps alive; `activation` may differ from what it was prepared for.
std::unique_ptr<Linear> make_rrs_linear(std::string name, rrs::WeightView weight,
                                        const rrs::Scheme& scheme, InputChannels channels,
                                        std::shared_ptr<const void> owner);

// RS with one channel per group, in float: it has no integer product.
std::unique_ptr<Linear> make_simulated_rs_linear(std::string name, const rrs::WeightView& weight);

}  // namespace rrs_llm
