// load_row: one row of X or W, of any element type, as contiguous f32 in the rotation's input
// order.
//
//   activation  out[k] = x[p[k]] / divisor[p[k]]        weight  out[k] = w[p[k]] * divisor[p[k]]
//
// p: input_permutation (identity when null). divisor is indexed by the original channel, that is
// before the permutation; null means 1. x: f32, f16 or bf16, aligned to its element only.
// Numerics: conversions are exact, then one true division (or product) rounded once: the same bits
// on every level.
//
// from: the caller's matrix.  to: rotate.hpp (rotate_row), pipeline/.  Cost: one pass; with a
// permutation a gathering one, after a pass of its own only where something must be converted or
// divided first. (Fused rows gather while they are rotated: pipeline/fused_*.hpp.)
#pragma once

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/view.hpp"

RRS_TYPES_BEGIN

// Which side of the product a row belongs to: what happens to LayerChannels::divisor.
enum class ChannelUse : std::uint8_t { kActivation, kWeight };

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// The inner loops have a fixed length so that every compiler vectorises them without run-time
// checks.
inline void multiply_by(float* RRS_RESTRICT x, const float* RRS_RESTRICT y,
                        std::int64_t n) noexcept {
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; ++j) x[i + j] *= y[i + j];
  }
  for (; i < n; ++i) x[i] *= y[i];
}

inline void divide_by(float* RRS_RESTRICT x, const float* RRS_RESTRICT y, std::int64_t n) noexcept {
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; ++j) x[i + j] /= y[i + j];
  }
  for (; i < n; ++i) x[i] /= y[i];
}

inline void convert_row(const KernelTable& table, const ErasedView& x, std::int64_t row,
                        float* out) noexcept {
  const std::byte* in = x.row(row);
  switch (x.type) {
    case ElementType::kF32:
      std::memcpy(out, in, static_cast<std::size_t>(x.cols) * sizeof(float));
      break;
    case ElementType::kF16:
      table.rotate.f16_to_f32(reinterpret_cast<const f16*>(in), out, x.cols);
      break;
    case ElementType::kBf16:
      table.rotate.bf16_to_f32(reinterpret_cast<const bf16*>(in), out, x.cols);
      break;
  }
}

}  // namespace detail

// Writes x.cols floats to out. scratch: x.cols floats, read and written only when
// channels.input_permutation is set (may be null otherwise); out and scratch do not overlap.
inline void load_row(const KernelTable& table, const ErasedView& x, std::int64_t row,
                     const LayerChannels& channels, ChannelUse use, float* out,
                     float* scratch) noexcept {
  const std::int32_t* permutation = channels.input_permutation;
  float* natural = permutation != nullptr ? scratch : out;
  const float* in = natural;
  if (permutation != nullptr && x.type == ElementType::kF32 && channels.divisor == nullptr) {
    in = reinterpret_cast<const float*>(x.row(row));
  } else {
    detail::convert_row(table, x, row, natural);
  }
  if (channels.divisor != nullptr) {
    if (use == ChannelUse::kActivation) {
      detail::divide_by(natural, channels.divisor, x.cols);
    } else {
      detail::multiply_by(natural, channels.divisor, x.cols);
    }
  }
  if (permutation == nullptr) return;
  for (std::int64_t k = 0; k < x.cols; ++k) out[k] = in[permutation[k]];
}

RRS_FUNCTIONS_END
