// KernelTable: the leaves of one ISA level, as data.
//
// Loops over M and N, tails and threads are written once, in the drivers; a leaf handles one row,
// one group range or one tile. Each stage folder defines the scalar leaves and, per level, a
// constexpr function that copies the lower level's struct and overrides what it does better.
// dispatch.hpp puts the structs together.
//
// Contract of every leaf: noexcept, no allocation, same bits on every level (see the stage headers
// for the written order). Pointers are valid, sizes are consistent: the public entry checked them.
// No leaf reads or writes outside the ranges named here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/cpu.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/types.hpp"

RRS_TYPES_BEGIN

// ISA levels, slowest first; each needs what the one before it needs, but avxvnni (CPUs without
// AVX-512) is beside the others.
enum class Isa : std::uint8_t { kScalar = 0, kAvx2, kAvxVnni, kAvx512, kAvx512Vnni, kAmx };
inline constexpr int kIsaCount = 6;

// ---- rotate: f32 -> f32, one row
// -----------------------------------------------------------------
struct RotateKernels {
  // Exact conversions to f32 of n contiguous elements.
  void (*f16_to_f32)(const f16* in, float* out, std::int64_t n) noexcept;
  void (*bf16_to_f32)(const bf16* in, float* out, std::int64_t n) noexcept;
  // In place, n_blocks consecutive blocks of 2^log2_block values: butterflies with strides 1, 2, 4,
  // ... (a, b -> a + b, a - b), then every value times `scale`, once.
  void (*hadamard)(float* x, std::int64_t n_blocks, int log2_block, float scale) noexcept;
  // out[i,c] = scale * sum_j coefficients[i,j] in[j,c]; i < outputs, j < order, c < columns,
  // row-major and contiguous, no overlap. Sum over j ascending: c0*x0, then fma(c_j, x_j, sum);
  // then * scale.
  void (*mix)(const float* in, float* out, std::int64_t columns, const float* coefficients,
              int outputs, int order, float scale) noexcept;
};

// ---- smooth: f32 -> extremes
// ---------------------------------------------------------------------
struct SmoothKernels {
  // Per group: largest value or 0 in positive[g], largest magnitude of a negative value or 0 in
  // negative[g]. By integer comparison of the bits: a NaN or Inf in the group leaves a result whose
  // bits are >= 0x7f800000 in one of the two. group = kRowGroup: one group.
  void (*extremes)(const float* x, std::int64_t k, int group, float* positive,
                   float* negative) noexcept;
};

// ---- quantize: f32 -> codes
// ----------------------------------------------------------------------
struct QuantizeKernels {
  // codes[k] = rint(clamp(x[k] * inverse[k / group], -qmax - 1, qmax)), half to even. Writes k
  // codes.
  void (*quantize)(const float* x, std::int64_t k, int group, const float* inverse, int qmax,
                   std::int8_t* codes) noexcept;
  // sums[g] = sum of the codes of group g. group = kRowGroup: one group.
  void (*sum_codes)(const std::int8_t* codes, std::int64_t k, int group,
                    std::int32_t* sums) noexcept;
};

// ---- pack: row-major codes of one activation tile -> what the tile kernel of this level reads
// ----
struct PackKernels {
  // out[(k/4) * rows * 4 + row * 4 + k % 4] = codes[row * row_stride + k], k < k_padded (a multiple
  // of 8; the caller zeroed the padding). A level may transform the codes of A4 (see its gemm
  // file), and lay them out for the inner group that its gemm leaf will be given.
  void (*codes_a4)(const std::int8_t* codes, std::int64_t row_stride, int rows, int inner_group,
                   std::int64_t k_padded, std::int8_t* out) noexcept;
  void (*codes_a8)(const std::int8_t* codes, std::int64_t row_stride, int rows, int inner_group,
                   std::int64_t k_padded, std::int8_t* out) noexcept;
  // out[k * rows + row] = x[row * row_stride + k], k < k_padded (here any number: scales and code
  // sums are transposed by this leaf, too, as 32-bit patterns).
  void (*floats)(const float* x, std::int64_t row_stride, int rows, std::int64_t k_padded,
                 float* out) noexcept;
};

// ---- fused preparation of one row: rotate, extremes, scale, quantize, sums, in registers
// ---------
struct FusedArgs {
  const float* x;                   // [k]
  const std::int32_t* permutation;  // [k]: value k is x[permutation[k]]; null: x[k]
  std::int64_t k;                   // a multiple of block and of every group
  int block;                        // 32, 64 or 128; 1 for no rotation
  float rotation_scale;             // 1 / sqrt(block) as the rotate driver rounds it
  int group;                        // activation group: 32, 64, 128
  int inner_group;                  // group of the sums: divides `group`
  Range range;
  float clip;
  int qmax;
  const float* signs;  // [k] of +-1, or null
  std::int8_t* codes;  // [k]
  float* scales;       // [k / group]
  std::int32_t* sums;  // [k / inner_group]
};
struct FusedKernels {
  // True when this level has a register path for these sizes (data pointers are not looked at).
  bool (*supports)(const FusedArgs& args) noexcept;
  // Same bytes as the separate stages. False when the row held a NaN or Inf, or overflowed in the
  // rotation: then codes, scales and sums are unspecified.
  bool (*prepare_row)(const FusedArgs& args) noexcept;
};

// ---- gemm: one tile of rows x (panels * 16) outputs over all of K
// ---------------------------------
struct GemmTileArgs {
  int rows;                           // 1..max_rows
  int panels;                         // 1..max_panels, 16 outputs each
  std::int64_t k_padded;              // multiple of 8
  int inner_group;                    // 16..256, or kRowGroup
  std::int64_t inner_groups;          // number of inner groups (the last may be short)
  std::int64_t inner_per_weight;      // inner groups per weight group
  std::int64_t inner_per_activation;  // inner groups per activation group
  const std::uint8_t* weights;        // first panel (layout: pack/layout.hpp)
  std::int64_t panel_bytes;           // from one panel to the next
  const f16* weight_scales;           // [panel][weight group][16]
  const float* weight_offsets;        // the same shape, or null
  std::int64_t panel_scales;          // elements from one panel's scales to the next
  const void* activations;            // the packed tile: int8 codes or float
  const std::int32_t* code_sums;      // [inner group][rows]
  const float* activation_scales;     // [activation group][rows]
  float* out;                         // [rows][panels * 16]: sums before token scale and bias
};
using GemmTile = void (*)(const GemmTileArgs& args) noexcept;

// One step of a low-rank branch (gemm/low_rank.hpp): rows x (panels * width) outputs over all
// inputs.
//   out[t,o] = start, then k ascending: fma(x[t,k], f32(weights[k,o]), sum);
//   start = start_scale[t] * out[t,o], or 0 where start_scale is null
template <class Element>  // f16, or std::int8_t: codes
struct LowRankArgs {
  int rows;    // any number >= 1
  int panels;  // any number >= 1
  int width;   // outputs per panel: 16, or 8 (a last panel: then panels is 1)
  std::int64_t inputs;
  const float* x;  // [rows][x_stride]
  std::int64_t x_stride;
  const Element* weights;    // [panel][inputs][width]
  const float* start_scale;  // [rows] or null
  float* out;                // [rows][out_stride]; panel p begins at 16 p; `width` are written
  std::int64_t out_stride;
};
template <class Element>
using LowRankPanels = void (*)(const LowRankArgs<Element>& args) noexcept;

struct GemmKernel {
  GemmTile tile;
  int max_rows;      // MR
  int max_panels;    // NR / 16
  const char* name;  // e.g. "avx512vnni w4a4 12x32"
};

namespace internal {
// Tallest tile of any kernel: the scratch of a task holds this many rows.
inline constexpr int kMaxTileRows = 64;
}  // namespace internal

struct GemmKernels {
  GemmKernel w4a4;  // activation bits 2..4
  GemmKernel w4a8;  // 5..8
  GemmKernel w8a8;  // 2..8
  GemmKernel w4a16;
  GemmKernel w8a16;
  // One row of results to memory: y = token_scale * acc (+ bias) (+ old y), see gemm/epilogue.hpp.
  // bias may be null. accumulate: y += old value.
  void (*store_f32)(const float* acc, std::int64_t n, float token_scale, const float* bias,
                    bool accumulate, float* y) noexcept;
  void (*store_f16)(const float* acc, std::int64_t n, float token_scale, const float* bias,
                    bool accumulate, f16* y) noexcept;
  void (*store_bf16)(const float* acc, std::int64_t n, float token_scale, const float* bias,
                     bool accumulate, bf16* y) noexcept;
  LowRankPanels<f16> low_rank16;
  LowRankPanels<std::int8_t> low_rank8;
};

struct KernelTable {
  const char* name;  // the value that RRS_ISA accepts
  Isa isa;
  CpuFeatures required;  // every feature in the target strings of this level
  RotateKernels rotate;
  SmoothKernels smooth;
  QuantizeKernels quantize;
  PackKernels pack;
  FusedKernels fused;
  GemmKernels gemm;
};

RRS_TYPES_END
