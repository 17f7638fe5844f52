// Levels of float_kernels.hpp. Registers of the product: 12 rows x 2 panels = 24 accumulators, two
// panel vectors and a broadcast of the 32 (AVX-512); 6 rows x 1 panel = 12 accumulators of the 16
// (AVX2). Few rows take more panels at once, so that 8 chains hide the latency of the fused add.
#include "float_kernels.hpp"

#include <cmath>
#include <stdexcept>

#include "rrs/core/config.hpp"
#include "rrs/core/dispatch.hpp"

#include "float_kernels_body.hpp"

#if RRS_X86_64
#include <immintrin.h>
#endif

namespace rrs_llm {
namespace {

// Rows in flight against a panel: 192 KB at K = 512, about a tenth of an L2.
constexpr std::int64_t kRowBlock = 96;
// Codes that are fetched ahead within a panel: 32 lines of the cache, 4 panels at once.
constexpr std::int64_t kQ8Ahead = 2048;

namespace scalar {

void panel_product(const PanelCall& c) noexcept {
  for (std::int64_t p = 0; p < c.panel_count; ++p) {
    const float* panel = c.panels + p * c.panel_stride;
    for (std::int64_t r = 0; r < c.rows; ++r) {
      float* y = c.y + r * c.y_stride + p * kLanes;
      float sums[kLanes] = {};
      for (int j = 0; c.accumulate && j < kLanes; ++j) sums[j] = y[j];
      for (std::int64_t k = 0; k < c.k; ++k) {
        const float x = c.x[r * c.x_stride + k];
        for (int j = 0; j < kLanes; ++j) sums[j] = std::fma(x, panel[k * kLanes + j], sums[j]);
      }
      for (int j = 0; j < kLanes; ++j) y[j] = sums[j];
    }
  }
}

void q8_product(const PanelCall& c, const std::int8_t* codes, const float* scales) noexcept {
  for (std::int64_t p = 0; p < c.panel_count; ++p) {
    const std::int8_t* panel = codes + p * c.panel_stride;
    const float* scale = scales + p * c.panel_stride / kQ8Inputs;
    for (std::int64_t r = 0; r < c.rows; ++r) {
      float sums[kLanes] = {};
      for (std::int64_t k = 0; k < c.k; ++k) {
        const float x = c.x[r * c.x_stride + k];
        for (int j = 0; j < kLanes; ++j) {
          const float w =
              scale[k / kQ8Inputs * kLanes + j] * static_cast<float>(panel[k * kLanes + j]);
          sums[j] = std::fma(x, w, sums[j]);
        }
      }
      for (int j = 0; j < kLanes; ++j) c.y[r * c.y_stride + p * kLanes + j] = sums[j];
    }
  }
}
void q8_expand(const std::int8_t* codes, const float* scales, std::int64_t columns,
               float* out) noexcept {
  body::q8_expand(codes, scales, columns, out);
}

float exp_row(float* x, std::int64_t n, float shift) noexcept { return body::exp_row(x, n, shift); }
float max_row(const float* x, std::int64_t n) noexcept { return body::max_row(x, n); }
void silu_product(float* a, const float* b, std::int64_t n) noexcept {
  body::silu_product(a, b, n);
}
void rms_norm(const float* x, const float* gain, std::int64_t n, float epsilon, float* y) noexcept {
  body::rms_norm(x, gain, n, epsilon, y);
}
double log_sum_exp(const float* x, std::int64_t n) noexcept { return body::log_sum_exp(x, n); }
double divergence(const float* a, double lse_a, const float* b, double lse_b,
                  std::int64_t n) noexcept {
  return body::divergence(a, lse_a, b, lse_b, n);
}

constexpr FloatKernels kKernels{"scalar", &panel_product, &q8_product, &q8_expand,   &exp_row,
                                &max_row, &silu_product,  &rms_norm,   &log_sum_exp, &divergence};

}  // namespace scalar

#if RRS_X86_64
RRS_ISA_WARNINGS_PUSH

namespace avx2 {

template <unsigned R, unsigned P>
RRS_TARGET_AVX2 void tile(const PanelCall& c, std::int64_t row, std::int64_t panel) noexcept {
  __m256 sums_f32x8[R][P][2];
  const float* x = c.x + row * c.x_stride;
  float* y = c.y + row * c.y_stride + panel * kLanes;
  for (unsigned r = 0; r < R; ++r) {
    for (unsigned p = 0; p < P; ++p) {
      for (unsigned h = 0; h < 2; ++h) {
        sums_f32x8[r][p][h] = c.accumulate ? _mm256_loadu_ps(y + r * c.y_stride + p * 16 + h * 8)
                                           : _mm256_setzero_ps();
      }
    }
  }
  const float* w = c.panels + panel * c.panel_stride;
  for (std::int64_t k = 0; k < c.k; ++k) {
    for (unsigned p = 0; p < P; ++p) {
      const float* column = w + p * c.panel_stride + k * kLanes;
      const __m256 low_f32x8 = _mm256_loadu_ps(column);
      const __m256 high_f32x8 = _mm256_loadu_ps(column + 8);
      for (unsigned r = 0; r < R; ++r) {
        const __m256 x_f32x8 = _mm256_broadcast_ss(x + r * c.x_stride + k);
        sums_f32x8[r][p][0] = _mm256_fmadd_ps(x_f32x8, low_f32x8, sums_f32x8[r][p][0]);
        sums_f32x8[r][p][1] = _mm256_fmadd_ps(x_f32x8, high_f32x8, sums_f32x8[r][p][1]);
      }
    }
  }
  for (unsigned r = 0; r < R; ++r) {
    for (unsigned p = 0; p < P; ++p) {
      for (unsigned h = 0; h < 2; ++h) {
        _mm256_storeu_ps(y + r * c.y_stride + p * 16 + h * 8, sums_f32x8[r][p][h]);
      }
    }
  }
}

RRS_TARGET_AVX2 void rows_of(const PanelCall& c, std::int64_t row, std::int64_t last,
                             std::int64_t panel) noexcept {
  for (; last - row >= 6; row += 6) tile<6, 1>(c, row, panel);
  for (; last - row >= 2; row += 2) tile<2, 1>(c, row, panel);
  if (row < last) tile<1, 1>(c, row, panel);
}

RRS_TARGET_AVX2 void panel_product(const PanelCall& c) noexcept {
  std::int64_t panel = 0;
  if (c.rows == 1) {
    for (; panel + 4 <= c.panel_count; panel += 4) tile<1, 4>(c, 0, panel);
    for (; panel < c.panel_count; ++panel) tile<1, 1>(c, 0, panel);
    return;
  }
  for (std::int64_t row = 0; row < c.rows; row += kRowBlock) {
    const std::int64_t last = row + kRowBlock < c.rows ? row + kRowBlock : c.rows;
    for (panel = 0; panel < c.panel_count; ++panel) rows_of(c, row, last, panel);
  }
}

template <unsigned P>
RRS_TARGET_AVX2 void q8_tile(const PanelCall& c, std::int64_t row, std::int64_t panel,
                             const std::int8_t* codes, const float* scales) noexcept {
  __m256 sums_f32x8[P][2];
  for (unsigned p = 0; p < P; ++p) sums_f32x8[p][0] = sums_f32x8[p][1] = _mm256_setzero_ps();
  const float* x = c.x + row * c.x_stride;
  codes += panel * c.panel_stride;
  scales += panel * c.panel_stride / kQ8Inputs;
  for (std::int64_t block = 0; block < c.k; block += kQ8Inputs) {
    __m256 scale_f32x8[P][2];
    for (unsigned p = 0; p < P; ++p) {
      const float* scale = scales + (p * c.panel_stride + block * kLanes) / kQ8Inputs;
      scale_f32x8[p][0] = _mm256_loadu_ps(scale);
      scale_f32x8[p][1] = _mm256_loadu_ps(scale + 8);
    }
    for (std::int64_t k = block; k < block + kQ8Inputs; ++k) {
      const __m256 x_f32x8 = _mm256_broadcast_ss(x + k);
      for (unsigned p = 0; p < P; ++p) {
        const std::int8_t* column = codes + p * c.panel_stride + k * kLanes;
        _mm_prefetch(reinterpret_cast<const char*>(column + kQ8Ahead), _MM_HINT_T0);
        for (unsigned h = 0; h < 2; ++h) {
          const __m256i code_i32x8 = _mm256_cvtepi8_epi32(
              _mm_loadl_epi64(reinterpret_cast<const __m128i*>(column + h * 8)));
          const __m256 w_f32x8 = _mm256_mul_ps(scale_f32x8[p][h], _mm256_cvtepi32_ps(code_i32x8));
          sums_f32x8[p][h] = _mm256_fmadd_ps(x_f32x8, w_f32x8, sums_f32x8[p][h]);
        }
      }
    }
  }
  float* y = c.y + row * c.y_stride + panel * kLanes;
  for (unsigned p = 0; p < P; ++p) {
    _mm256_storeu_ps(y + p * 16, sums_f32x8[p][0]);
    _mm256_storeu_ps(y + p * 16 + 8, sums_f32x8[p][1]);
  }
}

RRS_TARGET_AVX2 void q8_product(const PanelCall& c, const std::int8_t* codes,
                                const float* scales) noexcept {
  for (std::int64_t row = 0; row < c.rows; ++row) {
    std::int64_t panel = 0;
    for (; panel + 3 <= c.panel_count; panel += 3) q8_tile<3>(c, row, panel, codes, scales);
    for (; panel < c.panel_count; ++panel) q8_tile<1>(c, row, panel, codes, scales);
  }
}
RRS_TARGET_AVX2 void q8_expand(const std::int8_t* codes, const float* scales, std::int64_t columns,
                               float* out) noexcept {
  body::q8_expand(codes, scales, columns, out);
}

RRS_TARGET_AVX2 float exp_row(float* x, std::int64_t n, float shift) noexcept {
  return body::exp_row(x, n, shift);
}
RRS_TARGET_AVX2 float max_row(const float* x, std::int64_t n) noexcept {
  return body::max_row(x, n);
}
RRS_TARGET_AVX2 void silu_product(float* a, const float* b, std::int64_t n) noexcept {
  body::silu_product(a, b, n);
}
RRS_TARGET_AVX2 void rms_norm(const float* x, const float* gain, std::int64_t n, float epsilon,
                              float* y) noexcept {
  body::rms_norm(x, gain, n, epsilon, y);
}
RRS_TARGET_AVX2 double log_sum_exp(const float* x, std::int64_t n) noexcept {
  return body::log_sum_exp(x, n);
}
RRS_TARGET_AVX2 double divergence(const float* a, double lse_a, const float* b, double lse_b,
                                  std::int64_t n) noexcept {
  return body::divergence(a, lse_a, b, lse_b, n);
}

constexpr FloatKernels kKernels{"avx2",   &panel_product, &q8_product, &q8_expand,   &exp_row,
                                &max_row, &silu_product,  &rms_norm,   &log_sum_exp, &divergence};

}  // namespace avx2

namespace avx512 {

template <unsigned R, unsigned P>
RRS_TARGET_AVX512 void tile(const PanelCall& c, std::int64_t row, std::int64_t panel) noexcept {
  __m512 sums_f32x16[R][P];
  const float* x = c.x + row * c.x_stride;
  float* y = c.y + row * c.y_stride + panel * kLanes;
  for (unsigned r = 0; r < R; ++r) {
    for (unsigned p = 0; p < P; ++p) {
      sums_f32x16[r][p] =
          c.accumulate ? _mm512_loadu_ps(y + r * c.y_stride + p * 16) : _mm512_setzero_ps();
    }
  }
  const float* w = c.panels + panel * c.panel_stride;
  for (std::int64_t k = 0; k < c.k; ++k) {
    __m512 w_f32x16[P];
    for (unsigned p = 0; p < P; ++p) {
      w_f32x16[p] = _mm512_loadu_ps(w + p * c.panel_stride + k * kLanes);
    }
    for (unsigned r = 0; r < R; ++r) {
      const __m512 x_f32x16 = _mm512_set1_ps(x[r * c.x_stride + k]);
      for (unsigned p = 0; p < P; ++p) {
        sums_f32x16[r][p] = _mm512_fmadd_ps(x_f32x16, w_f32x16[p], sums_f32x16[r][p]);
      }
    }
  }
  for (unsigned r = 0; r < R; ++r) {
    for (unsigned p = 0; p < P; ++p)
      _mm512_storeu_ps(y + r * c.y_stride + p * 16, sums_f32x16[r][p]);
  }
}

template <unsigned P>
RRS_TARGET_AVX512 void rows_of(const PanelCall& c, std::int64_t row, std::int64_t last,
                               std::int64_t panel) noexcept {
  for (; last - row >= 12; row += 12) tile<12, P>(c, row, panel);
  for (; last - row >= 4; row += 4) tile<4, P>(c, row, panel);
  for (; row < last; ++row) tile<1, P>(c, row, panel);
}

RRS_TARGET_AVX512 void panel_product(const PanelCall& c) noexcept {
  std::int64_t panel = 0;
  if (c.rows <= 3) {
    for (; panel + 8 <= c.panel_count; panel += 8) {
      for (std::int64_t row = 0; row < c.rows; ++row) tile<1, 8>(c, row, panel);
    }
    for (; panel < c.panel_count; ++panel) {
      for (std::int64_t row = 0; row < c.rows; ++row) tile<1, 1>(c, row, panel);
    }
    return;
  }
  for (std::int64_t row = 0; row < c.rows; row += kRowBlock) {
    const std::int64_t last = row + kRowBlock < c.rows ? row + kRowBlock : c.rows;
    for (panel = 0; panel + 2 <= c.panel_count; panel += 2) rows_of<2>(c, row, last, panel);
    if (panel < c.panel_count) rows_of<1>(c, row, last, panel);
  }
}

template <unsigned P>
RRS_TARGET_AVX512 void q8_tile(const PanelCall& c, std::int64_t row, std::int64_t panel,
                               const std::int8_t* codes, const float* scales) noexcept {
  __m512 sums_f32x16[P];
  for (unsigned p = 0; p < P; ++p) sums_f32x16[p] = _mm512_setzero_ps();
  const float* x = c.x + row * c.x_stride;
  codes += panel * c.panel_stride;
  scales += panel * c.panel_stride / kQ8Inputs;
  for (std::int64_t block = 0; block < c.k; block += kQ8Inputs) {
    __m512 scale_f32x16[P];
    for (unsigned p = 0; p < P; ++p) {
      scale_f32x16[p] = _mm512_loadu_ps(scales + (p * c.panel_stride + block * kLanes) / kQ8Inputs);
    }
    for (std::int64_t k = block; k < block + kQ8Inputs; ++k) {
      const __m512 x_f32x16 = _mm512_set1_ps(x[k]);
      for (unsigned p = 0; p < P; ++p) {
        const std::int8_t* column = codes + p * c.panel_stride + k * kLanes;
        _mm_prefetch(reinterpret_cast<const char*>(column + kQ8Ahead), _MM_HINT_T0);
        const __m512i code_i32x16 =
            _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(column)));
        const __m512 w_f32x16 = _mm512_mul_ps(scale_f32x16[p], _mm512_cvtepi32_ps(code_i32x16));
        sums_f32x16[p] = _mm512_fmadd_ps(x_f32x16, w_f32x16, sums_f32x16[p]);
      }
    }
  }
  float* y = c.y + row * c.y_stride + panel * kLanes;
  for (unsigned p = 0; p < P; ++p) _mm512_storeu_ps(y + p * 16, sums_f32x16[p]);
}

RRS_TARGET_AVX512 void q8_product(const PanelCall& c, const std::int8_t* codes,
                                  const float* scales) noexcept {
  for (std::int64_t row = 0; row < c.rows; ++row) {
    std::int64_t panel = 0;
    for (; panel + 4 <= c.panel_count; panel += 4) q8_tile<4>(c, row, panel, codes, scales);
    for (; panel < c.panel_count; ++panel) q8_tile<1>(c, row, panel, codes, scales);
  }
}
RRS_TARGET_AVX512 void q8_expand(const std::int8_t* codes, const float* scales,
                                 std::int64_t columns, float* out) noexcept {
  body::q8_expand(codes, scales, columns, out);
}

RRS_TARGET_AVX512 float exp_row(float* x, std::int64_t n, float shift) noexcept {
  return body::exp_row(x, n, shift);
}
RRS_TARGET_AVX512 float max_row(const float* x, std::int64_t n) noexcept {
  return body::max_row(x, n);
}
RRS_TARGET_AVX512 void silu_product(float* a, const float* b, std::int64_t n) noexcept {
  body::silu_product(a, b, n);
}
RRS_TARGET_AVX512 void rms_norm(const float* x, const float* gain, std::int64_t n, float epsilon,
                                float* y) noexcept {
  body::rms_norm(x, gain, n, epsilon, y);
}
RRS_TARGET_AVX512 double log_sum_exp(const float* x, std::int64_t n) noexcept {
  return body::log_sum_exp(x, n);
}
RRS_TARGET_AVX512 double divergence(const float* a, double lse_a, const float* b, double lse_b,
                                    std::int64_t n) noexcept {
  return body::divergence(a, lse_a, b, lse_b, n);
}

constexpr FloatKernels kKernels{"avx512", &panel_product, &q8_product, &q8_expand,   &exp_row,
                                &max_row, &silu_product,  &rms_norm,   &log_sum_exp, &divergence};

}  // namespace avx512

RRS_ISA_WARNINGS_POP
#endif

}  // namespace

const FloatKernels& float_kernels() {
  const rrs::KernelTable* table = nullptr;
  if (const rrs::Status status = rrs::select_kernels(std::nullopt, &table); !status) {
    throw std::runtime_error(status.message());
  }
#if RRS_X86_64
  if (table->isa >= rrs::Isa::kAvx512) return avx512::kKernels;
  if (table->isa != rrs::Isa::kScalar) return avx2::kKernels;
#endif
  return scalar::kKernels;
}

}  // namespace rrs_llm
