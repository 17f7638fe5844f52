// Epilogue: the float sums of one tile -> Y. y = a*acc (+ bias) (+ old y), rounded once.
//
// from: a tile leaf's scratch [rows][panels * 16].  to: Y, only its valid outputs (N is ragged).
// Numeric contract: "Store" in gemm.hpp; |error| of the conversion: half an ulp of the output type.
// Cost: one fused multiply-add per output; nothing is read from Y unless `accumulate`.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/types.hpp"

RRS_TYPES_BEGIN

// Where the results go.
struct GemmOutput {
  void* y = nullptr;
  ElementType type = ElementType::kF32;
  std::int64_t row_stride = 0;  // elements
  const float* bias = nullptr;  // [N] or null
  bool accumulate = false;      // y += (residual add)
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// `count` outputs of one row from output `first` on.
inline void store_row(const GemmKernels& kernels, const GemmOutput& out, const float* acc,
                      std::int64_t row, std::int64_t first, std::int64_t count,
                      float token_scale) noexcept {
  const std::int64_t at = row * out.row_stride + first;
  const float* bias = out.bias == nullptr ? nullptr : out.bias + first;
  switch (out.type) {
    case ElementType::kF32:
      kernels.store_f32(acc, count, token_scale, bias, out.accumulate,
                        static_cast<float*>(out.y) + at);
      return;
    case ElementType::kF16:
      kernels.store_f16(acc, count, token_scale, bias, out.accumulate,
                        static_cast<f16*>(out.y) + at);
      return;
    case ElementType::kBf16:
      kernels.store_bf16(acc, count, token_scale, bias, out.accumulate,
                         static_cast<bf16*>(out.y) + at);
      return;
  }
}

}  // namespace detail

RRS_FUNCTIONS_END
