// What follows the multiplications of an AMX step: integer sums of a group -> float sums, in the
// written order of gemm.hpp; scales and start values of a block of K.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "rrs/core/kernel_table.hpp"
#include "rrs/gemm/avx512_block.hpp"
#include "rrs/pack/amx.hpp"
#include "rrs/pack/layout.hpp"

#if RRS_HAS_AMX

RRS_TYPES_BEGIN

inline constexpr int kAmxTileRows = 16;
inline constexpr int kAmxMaxRows = 64;  // not searched
inline constexpr int kAmxPanels = 4;    // not searched
inline constexpr int kAmxOutputs = kAmxPanels * kPanelOutputs;
inline constexpr int kAmxBlockInputs = 256;  // every group size divides it
inline constexpr int kAmxBlockChunks = kAmxBlockInputs / kAmxChunk;
inline constexpr int kAmxBlockGroups = kAmxBlockInputs / 16;
inline constexpr unsigned kAmxJobs = 4;
inline constexpr int kAmxPairFloats = 4 * kPanelOutputs;  // v, v, -M v, -M v of two panels

// Scales of one block.
struct AmxScales {
  alignas(64) float v[kAmxBlockGroups][kAmxPanels / 2][kAmxPairFloats];
  alignas(64) float offsets[kAmxBlockGroups][kAmxPanels][kPanelOutputs];  // when there are any
  alignas(64) std::int32_t starts[kAmxBlockGroups][kAmxMaxRows];
  const float* s[kAmxBlockGroups];            // [rows] each
  const std::int32_t* sums[kAmxBlockGroups];  // code sums, [rows] each
};

// Sums of one step, 16 rows x 16 outputs of two panels.
struct AmxSums {
  alignas(64) std::int32_t panel[2][kAmxTileRows][kPanelOutputs];
};

// What a step's sums need. Filled in place, field by field: a copy would load wide what was just
// stored in parts, and wait until those stores have left the store buffer, behind stores of tiles
// (half the speed).
struct AmxJob {
  const float* v = nullptr;  // null: nothing to do
  const std::int32_t* starts = nullptr;
  const float* s = nullptr;
  float* out = nullptr;                // [row][kAmxOutputs]
  const float* offsets = nullptr;      // or null
  const std::int32_t* sums = nullptr;  // code sums
  int first_row = 0;                   // rows before it are another job's
  int panels = 0;
};

RRS_TYPES_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace amx {

// kMagic, 2 panels, one row: acc = fma(fma(float bits of (sum + start), v, c), s, acc), see
// avx512_block.hpp.
RRS_TARGET_AMX RRS_FORCE_INLINE void finish_magic_row(const AmxSums& sums, int r,
                                                      const __m512 (&vc)[4],
                                                      const std::int32_t* starts, const float* s,
                                                      float* out) noexcept {
  const __m512i start_i32x16 = _mm512_set1_epi32(starts[r]);
  const __m512 s_f32x16 = _mm512_set1_ps(s[r]);
  const __m512i sum0_i32x16 = _mm512_add_epi32(start_i32x16, _mm512_load_si512(sums.panel[0][r]));
  const __m512i sum1_i32x16 = _mm512_add_epi32(start_i32x16, _mm512_load_si512(sums.panel[1][r]));
  const __m512 tmp0_f32x16 = _mm512_fmadd_ps(_mm512_castsi512_ps(sum0_i32x16), vc[0], vc[2]);
  const __m512 tmp1_f32x16 = _mm512_fmadd_ps(_mm512_castsi512_ps(sum1_i32x16), vc[1], vc[3]);
  float* row = out + r * kAmxOutputs;
  _mm512_store_ps(row, _mm512_fmadd_ps(tmp0_f32x16, s_f32x16, _mm512_load_ps(row)));
  _mm512_store_ps(row + 16, _mm512_fmadd_ps(tmp1_f32x16, s_f32x16, _mm512_load_ps(row + 16)));
}

// Out of line: inlined, GCC keeps addresses in vector registers. kAll: 16 rows, unrolled.
template <bool kAll>
RRS_TARGET_AMX __attribute__((noinline)) inline void finish_magic(const AmxSums& sums,
                                                                  const AmxJob& job,
                                                                  int rows) noexcept {
  const float* v = job.v;
  const std::int32_t* starts = job.starts;
  const float* s = job.s;
  float* out = job.out;
  const __m512 vc[4] = {_mm512_load_ps(v), _mm512_load_ps(v + 16), _mm512_load_ps(v + 32),
                        _mm512_load_ps(v + 48)};
  if (kAll) {
    RRS_UNROLL_FULL
    for (int r = 0; r < kAmxTileRows; ++r) finish_magic_row(sums, r, vc, starts, s, out);
  } else {
    for (int r = job.first_row; r < rows; ++r) finish_magic_row(sums, r, vc, starts, s, out);
  }
}

// kCarry, 2 panels: integers to `out`. By finish_any per-channel W8A8 took 1.18 (g++) and 1.11
// (clang++) times as long at 512 rows, 1.11 and 1.02 at 24 (Granite Rapids).
RRS_TARGET_AMX __attribute__((noinline)) inline void finish_carry(const AmxSums& sums,
                                                                  const AmxJob& job,
                                                                  int rows) noexcept {
  float* out = job.out + job.first_row * kAmxOutputs;
  for (int r = job.first_row; r < rows; ++r, out += kAmxOutputs) {
    const __m512i sum0_i32x16 = _mm512_load_si512(sums.panel[0][r]);
    const __m512i sum1_i32x16 = _mm512_load_si512(sums.panel[1][r]);
    _mm512_store_si512(out, _mm512_add_epi32(_mm512_load_si512(out), sum0_i32x16));
    _mm512_store_si512(out + 16, _mm512_add_epi32(_mm512_load_si512(out + 16), sum1_i32x16));
  }
}

// Any rows, panels and finish. Not tuned.
RRS_TARGET_AMX __attribute__((noinline)) inline void finish_any(const AmxSums& sums,
                                                                const AmxJob& job, int rows,
                                                                GemmFinish finish) noexcept {
  for (int r = job.first_row; r < rows; ++r) {
    for (int p = 0; p < job.panels; ++p) {
      float* out = job.out + r * kAmxOutputs + p * kPanelOutputs;
      const __m512i sum_i32x16 = _mm512_load_si512(sums.panel[p][r]);
      if (finish == GemmFinish::kCarry) {
        _mm512_store_si512(out, _mm512_add_epi32(_mm512_load_si512(out), sum_i32x16));
        continue;
      }
      const __m512i isum_i32x16 = _mm512_add_epi32(sum_i32x16, _mm512_set1_epi32(job.starts[r]));
      const __m512 v_f32x16 = _mm512_load_ps(job.v + p * kPanelOutputs);
      const __m512 c_f32x16 = _mm512_load_ps(job.v + (2 + p) * kPanelOutputs);
      const __m512 tmp_f32x16 =
          finish == GemmFinish::kMagic
              ? _mm512_fmadd_ps(_mm512_castsi512_ps(isum_i32x16), v_f32x16, c_f32x16)
              : _mm512_mul_ps(_mm512_cvtepi32_ps(isum_i32x16), v_f32x16);
      const __m512 s_f32x16 = _mm512_set1_ps(job.s[r]);
      __m512 acc_f32x16 = _mm512_fmadd_ps(tmp_f32x16, s_f32x16, _mm512_load_ps(out));
      if (job.offsets != nullptr) {
        const __m512 code_sum_f32x16 = _mm512_set1_ps(static_cast<float>(job.sums[r]));
        const __m512 offset_f32x16 = _mm512_load_ps(job.offsets + p * kPanelOutputs);
        acc_f32x16 =
            _mm512_fmadd_ps(_mm512_mul_ps(code_sum_f32x16, offset_f32x16), s_f32x16, acc_f32x16);
      }
      _mm512_store_ps(out, acc_f32x16);
    }
  }
}

inline GemmFinish finish_of(const GemmTileArgs& a, int weight_bits) noexcept {
  if (a.inner_group == kRowGroup) return GemmFinish::kCarry;
  const bool magic = a.weight_offsets == nullptr && a.inner_group <= (weight_bits == 8 ? 128 : 256);
  return magic ? GemmFinish::kMagic : GemmFinish::kConvert;
}

// Scales of the block that starts at input `first`; a row group uses its own at the end.
RRS_TARGET_AMX inline void prepare_scales(const GemmTileArgs& a, int weight_bits, GemmFinish finish,
                                          std::int64_t first, int inputs, AmxScales& out) noexcept {
  if (finish == GemmFinish::kCarry) {
    out.s[0] = a.activation_scales;
    out.sums[0] = a.code_sums;
    return;
  }
  const bool offsets = a.weight_offsets != nullptr;
  const __m512 minus_magic_f32x16 = _mm512_set1_ps(-kMagicValue);
  for (int g = 0; g * a.inner_group < inputs; ++g) {
    const std::int64_t group = first / a.inner_group + g;
    out.sums[g] = a.code_sums + group * a.rows;
    avx512::fill_starts(out.sums[g], a.rows, finish == GemmFinish::kMagic ? kMagicBits : 0,
                        offsets ? -1 : weight_bits - 1, out.starts[g]);
    out.s[g] = a.activation_scales + group / a.inner_per_activation * a.rows;
    const std::int64_t at = group / a.inner_per_weight * kPanelOutputs;
    for (int p = 0; p < a.panels; ++p) {
      const auto* scales =
          reinterpret_cast<const __m256i*>(a.weight_scales + p * a.panel_scales + at);
      const __m512 v_f32x16 = _mm512_cvtph_ps(_mm256_loadu_si256(scales));
      float* to = out.v[g][p / 2] + p % 2 * kPanelOutputs;
      _mm512_store_ps(to, v_f32x16);
      _mm512_store_ps(to + 2 * kPanelOutputs, _mm512_mul_ps(v_f32x16, minus_magic_f32x16));
      if (!offsets) continue;
      _mm512_store_ps(out.offsets[g][p],
                      _mm512_loadu_ps(a.weight_offsets + p * a.panel_scales + at));
    }
  }
}

// Row groups: `acc` holds the integer sums of all of K.
RRS_TARGET_AMX inline void finish_row_group(const GemmTileArgs& a, int weight_bits,
                                            float* acc) noexcept {
  const bool offsets = a.weight_offsets != nullptr;
  for (int r = 0; r < a.rows; ++r) {
    const int start = offsets ? 0 : -(a.code_sums[r] * (1 << (weight_bits - 1)));
    const __m512 s_f32x16 = _mm512_set1_ps(a.activation_scales[r]);
    for (int p = 0; p < a.panels; ++p) {
      float* out = acc + r * kAmxOutputs + p * kPanelOutputs;
      const auto* scales = reinterpret_cast<const __m256i*>(a.weight_scales + p * a.panel_scales);
      const __m512 v_f32x16 = _mm512_cvtph_ps(_mm256_loadu_si256(scales));
      const __m512i isum_i32x16 =
          _mm512_add_epi32(_mm512_load_si512(out), _mm512_set1_epi32(start));
      __m512 acc_f32x16 = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(isum_i32x16), v_f32x16),
                                          s_f32x16, _mm512_setzero_ps());
      if (offsets) {
        const __m512 code_sum_f32x16 = _mm512_set1_ps(static_cast<float>(a.code_sums[r]));
        const __m512 offset_f32x16 = _mm512_loadu_ps(a.weight_offsets + p * a.panel_scales);
        acc_f32x16 =
            _mm512_fmadd_ps(_mm512_mul_ps(code_sum_f32x16, offset_f32x16), s_f32x16, acc_f32x16);
      }
      _mm512_store_ps(out, acc_f32x16);
    }
  }
}

}  // namespace amx

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
