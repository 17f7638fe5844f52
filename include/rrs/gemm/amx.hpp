// GEMM leaves for AMX: tdpbsud, s8 activations x u8 weights, 16 x 16 outputs x 64 inputs per
// instruction. W4A4, W4A8 and W8A8. Tiles of few rows (pack/amx.hpp) run on the VNNI leaves.
//
// A tile walks K in blocks. Per block the weights of its panels are unpacked once into L1 (W8: used
// where they are), then steps run over the block: one step is 16 rows x 2 panels x one group.
// Stack: 100 KB (AmxTile), 16 KB more for tiles of fewer than 4 panels.
#pragma once

#include "rrs/gemm/amx_finish.hpp"
#include "rrs/gemm/amx_tiles.hpp"
#include "rrs/gemm/avx512vnni.hpp"
#include "rrs/pack/amx.hpp"

#if RRS_HAS_AMX

RRS_TYPES_BEGIN

// One block of K as the steps read it: chunks of 64 inputs.
struct AmxBlock {
  const std::int8_t* activations[kAmxBlockChunks];  // [row][64]
  const std::uint8_t* weights[kAmxPanels][kAmxBlockChunks];
  int inputs;
  int max_inputs;  // of a block: 128, or a group of 256
  int group;
  // Behind the block: what the next one reads.
  const std::uint8_t* next_weights;
  const std::int8_t* next_activations;
  int next_weight_bytes;  // of a panel
};

// What lives as long as a tile, and where its pipeline is: step i issues its multiplications, step
// i - 1 is stored, step i - 3 finished, each in the registers and buffers of its number.
struct AmxTile {
  alignas(64) std::uint8_t weights[kAmxPanels][kAmxBlockInputs * kPanelOutputs];
  alignas(64) std::int8_t tail[kAmxMaxRows][kAmxChunk];
  AmxSums sums[kAmxJobs];
  AmxScales scales[2];  // of a block in flight, see amx_tile
  AmxJob jobs[kAmxJobs];
  unsigned step = 0;
  int rows = 0;  // of a step: 16, or all if fewer
  GemmFinish finish = GemmFinish::kMagic;
  // Of two blocks more where blocks are short. At the end: as scales[4] above it took
  // groups of 64 1.03 to 1.05 times as long at 512 rows.
  AmxScales more_scales[2];
};

RRS_TYPES_END

RRS_ISA_WARNINGS_PUSH
RRS_FUNCTIONS_BEGIN

namespace amx {

// The multiplications of one group, `inputs` inputs from `first` of the block on.
template <int kSums>
RRS_FORCE_INLINE void issue(const AmxBlock& b, int panel, bool two, int row, int first,
                            int inputs) noexcept {
  zero_tile<kSums>();
  zero_tile<kSums + 1>();
  const std::int64_t in_chunk = first % kAmxChunk;
  const std::int8_t* const* a = b.activations + first / kAmxChunk;
  const std::uint8_t* const* w = b.weights[panel] + first / kAmxChunk;
  const std::int64_t a_at = row * kAmxChunk + in_chunk;
  const std::int64_t w_at = in_chunk * kPanelOutputs;
  for (; inputs > 0; inputs -= kAmxChunk, ++a, ++w) {
    load_tile<4>(a[0] + a_at);
    load_tile<6>(w[0] + w_at);
    dot_tile<kSums, 4, 6>();
    if (!two) continue;
    load_tile<7>(w[kAmxBlockChunks] + w_at);
    dot_tile<kSums + 1, 4, 7>();
  }
}

// The float (kCarry: integer) sums of the oldest step in flight.
RRS_TARGET_AMX RRS_FORCE_INLINE void finish_job(AmxTile& t, const AmxSums& sums,
                                                const AmxJob& job) noexcept {
  if (job.v == nullptr) return;
  if (t.finish == GemmFinish::kMagic && job.panels == 2) {
    if (t.rows - job.first_row == kAmxTileRows) {
      finish_magic<true>(sums, job, t.rows);
    } else {
      finish_magic<false>(sums, job, t.rows);
    }
  } else if (t.finish == GemmFinish::kCarry && job.panels == 2) {
    finish_carry(sums, job, t.rows);
  } else {
    finish_any(sums, job, t.rows, t.finish);
  }
}

// The part of a step that follows its multiplications.
template <int kOldSums>
RRS_TARGET_AMX RRS_FORCE_INLINE void advance(AmxTile& t) noexcept {
  AmxSums& stored = t.sums[(t.step - 1) % kAmxJobs];
  store_tile<kOldSums>(stored.panel[0]);
  store_tile<kOldSums + 1>(stored.panel[1]);
  const unsigned oldest = ++t.step % kAmxJobs;
  finish_job(t, t.sums[oldest], t.jobs[oldest]);
  __asm__ volatile("" : : "i"(kOldSums));  // GCC 12 else joins the ends of even and odd steps
}

// Empties the pipeline.
RRS_TARGET_AMX inline void drain(AmxTile& t) noexcept {
  for (unsigned i = 1; i < kAmxJobs; ++i) {
    t.jobs[t.step % kAmxJobs].v = nullptr;
    if (t.step % 2 == 0) {
      advance<2>(t);
    } else {
      advance<0>(t);
    }
  }
}

RRS_FORCE_INLINE int row_tiles_of(const GemmTileArgs& a) noexcept {
  return (a.rows + kAmxTileRows - 1) / kAmxTileRows;
}

// All steps of one block.
RRS_TARGET_AMX __attribute__((noinline)) inline void run_block(const GemmTileArgs& a,
                                                               const AmxBlock& b,
                                                               const AmxScales& scales, float* acc,
                                                               AmxTile& t) noexcept {
  const unsigned before = t.step;
  const int row_tiles = row_tiles_of(a);
  const int steps = (a.panels + 1) / 2 * row_tiles * ((b.inputs + b.group - 1) / b.group);
  for (int panel = 0; panel < a.panels; panel += 2) {
    const int panels = (std::min)(2, a.panels - panel);
    for (int tile = 0; tile < row_tiles; ++tile) {
      const int row = (std::min)(tile * kAmxTileRows, a.rows - t.rows);
      for (int g = 0, first = 0; first < b.inputs; ++g, first += b.group) {
        AmxJob& job = t.jobs[t.step % kAmxJobs];
        job.v = scales.v[g][panel / 2];
        job.starts = scales.starts[g] + row;
        job.s = scales.s[g] + row;
        job.out = acc + row * kAmxOutputs + panel * kPanelOutputs;
        job.offsets = a.weight_offsets == nullptr ? nullptr : scales.offsets[g][panel];
        job.sums = scales.sums[g] + row;
        job.first_row = tile * kAmxTileRows - row;
        job.panels = panels;
        const int inputs = (std::min)(b.group, b.inputs - first);
        if (t.step % 2 == 0) {
          issue<0>(b, panel, panels == 2, row, first, inputs);
          advance<2>(t);
        } else {
          issue<2>(b, panel, panels == 2, row, first, inputs);
          advance<0>(t);
        }
        const int share = static_cast<int>(t.step - 1 - before);
        for (int p = 0; p < a.panels; ++p) {
          avx512::prefetch_share(b.next_weights + p * a.panel_bytes, b.next_weight_bytes, share,
                                 steps);
        }
        avx512::prefetch_share(b.next_activations, b.inputs * a.rows, share, steps);
      }
    }
  }
}

// Activations and weights of the block that starts at input `first`.
template <int kBits>
RRS_TARGET_AMX inline void prepare_block(const GemmTileArgs& a, std::int64_t first, AmxTile& t,
                                         AmxBlock& b) noexcept {
  constexpr int kInputBytes = kPanelOutputs * kBits / 8;
  const auto* codes = static_cast<const std::int8_t*>(a.activations);
  b.inputs = static_cast<int>((std::min)(std::int64_t{b.max_inputs}, a.k_padded - first));
  const int left = b.inputs % kAmxChunk;
  const int whole = b.inputs - left;
  for (int k = 0; k < whole; k += kAmxChunk) {
    b.activations[k / kAmxChunk] = codes + (first + k) * a.rows;
  }
  if (left > 0) {  // only at the end of K
    const auto mask = static_cast<__mmask64>((std::uint64_t{1} << left) - 1);
    const std::int8_t* from = codes + (first + whole) * a.rows;
    for (int r = 0; r < a.rows; ++r) {
      _mm512_store_si512(t.tail[r], _mm512_maskz_loadu_epi8(mask, from + r * left));
    }
    b.activations[whole / kAmxChunk] = t.tail[0];
  }
  for (int p = 0; p < a.panels; ++p) {
    const std::uint8_t* panel = a.weights + p * a.panel_bytes + first * kInputBytes;
    if (kBits == 4) avx512::unpack_nibbles(panel, b.inputs, t.weights[p]);
    const std::uint8_t* at = kBits == 4 ? t.weights[p] : panel;
    for (int k = 0; k < whole; k += kAmxChunk) {
      b.weights[p][k / kAmxChunk] = at + k * kPanelOutputs;
    }
    if (left == 0) continue;
    // Inputs beyond K: activations are 0, so any weight does, but it must be readable.
    if (kBits == 8) {
      std::memcpy(t.weights[p], at + whole * kPanelOutputs,
                  static_cast<std::size_t>(left) * kPanelOutputs);
    }
    b.weights[p][whole / kAmxChunk] = kBits == 4 ? at + whole * kPanelOutputs : t.weights[p];
  }
  const std::int64_t next = first + b.inputs;
  const bool last = next >= a.k_padded;
  b.next_weight_bytes = b.inputs * kInputBytes;
  b.next_weights = a.weights + (last ? a.panels * a.panel_bytes : next * kInputBytes);
  b.next_activations = codes + (last ? 0 : next * a.rows);
}

template <int kBits>
RRS_TARGET_AMX inline void amx_tile(const GemmTileArgs& a) noexcept {
  if (!amx_takes(a.rows, a.inner_group)) {
    return avx512vnni::wide_tile<kBits, avx512vnni::VnniTraits<kBits>>(a);
  }
  alignas(64) float narrow[kAmxMaxRows * kAmxOutputs];  // when there are fewer panels
  float* acc = a.panels == kAmxPanels ? a.out : narrow;
  AmxTile t;
  AmxBlock b;
  t.finish = finish_of(a, kBits);
  t.rows = (std::min)(a.rows, kAmxTileRows);
  b.group = a.inner_group == kRowGroup ? kAmxBlockInputs : a.inner_group;
  b.max_inputs = (std::max)(b.group, kAmxBlockInputs / 2);
  for (int i = 0; i < a.rows * kAmxPanels; ++i) {
    _mm512_store_ps(acc + i * kPanelOutputs, _mm512_setzero_ps());
  }
  const AmxConfig config = tile_config(t.rows, (std::min)(b.group, kAmxChunk));
  load_config(config);
  // A step is finished three steps later: by then its scales must not be another block's. Emptying
  // the pipeline after each block instead took 7 to 16 rows 1.03 to 1.15 times as long.
  const int steps = (a.panels + 1) / 2 * row_tiles_of(a) * (b.max_inputs / b.group);
  const unsigned slots = steps < 3 ? 4 : 2;
  unsigned slot = 0;
  for (std::int64_t first = 0; first < a.k_padded; first += b.max_inputs) {
    prepare_block<kBits>(a, first, t, b);
    const unsigned now = slot++ & (slots - 1);
    AmxScales& scales = now < 2 ? t.scales[now] : t.more_scales[now - 2];
    prepare_scales(a, kBits, t.finish, first, b.inputs, scales);
    run_block(a, b, scales, acc, t);
  }
  drain(t);
  release();
  if (t.finish == GemmFinish::kCarry) finish_row_group(a, kBits, acc);
  if (acc == a.out) return;
  for (int r = 0; r < a.rows; ++r) {
    std::memcpy(a.out + r * a.panels * kPanelOutputs, acc + r * kAmxOutputs,
                static_cast<std::size_t>(a.panels * kPanelOutputs) * sizeof(float));
  }
}

constexpr GemmKernels gemm_kernels(GemmKernels lower) {
  lower.w4a4 = {&amx_tile<4>, kAmxMaxRows, kAmxPanels, "amx w4a4 16x32 of 64x64"};
  lower.w4a8 = {&amx_tile<4>, kAmxMaxRows, kAmxPanels, "amx w4a8 16x32 of 64x64"};
  lower.w8a8 = {&amx_tile<8>, kAmxMaxRows, kAmxPanels, "amx w8a8 16x32 of 64x64"};
  return lower;
}

}  // namespace amx

RRS_FUNCTIONS_END
RRS_ISA_WARNINGS_POP

#endif
