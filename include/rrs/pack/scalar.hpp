// Scalar leaves that interleave one activation tile (layout: pack/layout.hpp).
#pragma once

#include <cstdint>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"

RRS_FUNCTIONS_BEGIN

namespace scalar {

// Four consecutive codes of a row are one 32-bit unit; the tile is their transpose.
inline void pack_codes(const std::int8_t* codes, std::int64_t row_stride, int rows,
                       int /*inner_group*/, std::int64_t k_padded, std::int8_t* out) noexcept {
  for (std::int64_t k = 0; k < k_padded; k += 4) {
    for (int row = 0; row < rows; ++row) {
      std::memcpy(out, codes + row * row_stride + k, 4);
      out += 4;
    }
  }
}

inline void pack_floats(const float* x, std::int64_t row_stride, int rows, std::int64_t k_padded,
                        float* out) noexcept {
  for (std::int64_t k = 0; k < k_padded; ++k) {
    for (int row = 0; row < rows; ++row) *out++ = x[row * row_stride + k];
  }
}

constexpr PackKernels pack_kernels() {
  PackKernels kernels{};
  kernels.codes_a4 = &pack_codes;
  kernels.codes_a8 = &pack_codes;
  kernels.floats = &pack_floats;
  return kernels;
}

}  // namespace scalar

RRS_FUNCTIONS_END
