// The scalar level has no fused row: the separate stages already stream through L1. What the fused
// rows of the other levels share.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/kernel_table.hpp"

RRS_FUNCTIONS_BEGIN

namespace detail {

// Values `first`.. of the row: where they lie, or, permuted, gathered into `buffer` (L1) just
// before they are rotated, so that X is still read once. n: a multiple of 8. By scalar loads:
// measured on an Intel Xeon (AVX-512, block 32, K = 4096, ns per value of the whole row) 0.24
// without a permutation, 0.48 with this, 0.42 with vgatherdps, 0.64 with vgatherdps inside the
// rotation; but gathers are many times slower on CPUs whose microcode keeps them from leaking
// (Skylake to Ice Lake).
inline const float* chunk_values(const FusedArgs& args, std::int64_t first, std::int64_t n,
                                 float* buffer) noexcept {
  if (args.permutation == nullptr) return args.x + first;
  const std::int32_t* from = args.permutation + first;
  for (std::int64_t k = 0; k < n; k += 4) {  // four by hand: g++ -O2 leaves an inner loop, 0.2 ns
    const float a = args.x[from[k]];
    const float b = args.x[from[k + 1]];
    const float c = args.x[from[k + 2]];
    const float d = args.x[from[k + 3]];
    buffer[k] = a, buffer[k + 1] = b, buffer[k + 2] = c, buffer[k + 3] = d;
  }
  return buffer;
}

// What to prefetch beside the chunk at `first`: `least` bytes further. Half of the lines are asked
// for while the chunk is rotated, half while it is quantized, since all at once would wait for line
// fill buffers. A permuted row is read all over from its first chunk on: there the next row, which
// must be there by then. May point beyond X: a prefetch reads nothing.
RRS_FORCE_INLINE const char* prefetch_ahead(const FusedArgs& args, std::int64_t first,
                                            std::int64_t least) noexcept {
  const std::int64_t whole = args.permutation == nullptr ? 0 : args.k * 4;
  const std::int64_t bytes = first * 4 + (whole > least ? whole : least);
  return reinterpret_cast<const char*>(reinterpret_cast<std::uintptr_t>(args.x) +
                                       static_cast<std::uintptr_t>(bytes));
}

}  // namespace detail

namespace scalar {

inline bool fused_supports(const FusedArgs&) noexcept { return false; }
inline bool fused_prepare_row(const FusedArgs&) noexcept { return false; }

constexpr FusedKernels fused_kernels() {
  FusedKernels kernels{};
  kernels.supports = &fused_supports;
  kernels.prepare_row = &fused_prepare_row;
  return kernels;
}

}  // namespace scalar

RRS_FUNCTIONS_END
