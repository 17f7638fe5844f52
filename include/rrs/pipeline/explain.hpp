// explain: which kernel a layer would run, with which tile, and why.
//
// from: a scheme and shapes, or a packed weight; ForceIsa, RRS_ISA and the CPU as they are now.
// to: people and logs.
// Errors: those of the call, in Explanation::status. Threading: from any threads at once. Cost: the
// plan of the rotation, and texts; these are allocated, so std::bad_alloc may come out.
#pragma once

#include <cstdint>
#include <string>

#include "rrs/core/config.hpp"
#include "rrs/core/dispatch.hpp"
#include "rrs/pipeline/activation.hpp"
#include "rrs/rotate/rotate_row.hpp"

RRS_TYPES_BEGIN

struct Explanation {
  Status status;            // not ok: the call would fail like this, the rest is empty
  const char* isa = "";     // level
  const char* kernel = "";  // GEMM kernel
  int tile_rows = 0;        // rows of its largest tile
  int tile_outputs = 0;
  std::int64_t row_tiles = 0;  // tiles that M rows are cut into
  bool fused = false;          // activation rows are prepared in registers
  std::string reason;          // why this level and kernel
  std::string rotation;        // what the rotation does and costs

  // The compiler's own, but each file's (core/config.hpp).
  RRS_MEMBER Explanation() = default;
  RRS_MEMBER Explanation(const Explanation&) = default;
  RRS_MEMBER Explanation(Explanation&&) = default;
  RRS_MEMBER Explanation& operator=(const Explanation&) = default;
  RRS_MEMBER Explanation& operator=(Explanation&&) = default;
  RRS_MEMBER ~Explanation() = default;

  // All of it in a few lines.
  RRS_MEMBER std::string to_string() const {
    if (!status.ok()) return status.message();
    return std::string("kernel ") + kernel + " (" + isa + "), tile " + std::to_string(tile_rows) +
           " x " + std::to_string(tile_outputs) + ", " + std::to_string(row_tiles) +
           " row tiles; activations " + (fused ? "fused in registers" : "in separate stages") +
           "; rotation " + rotation + "; " + reason;
  }
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

inline std::string explain_level(const KernelTable& table) {
  if (internal::forced_isa.load() >= 0) return std::string(table.name) + ": forced by ForceIsa";
  if (environment_isa().name[0] != 0) return std::string(table.name) + ": forced by RRS_ISA";
  return std::string(table.name) + ": the highest level that this CPU and OS support";
}

inline std::string explain_bits(const Scheme& s) {
  if (s.activation.bits == kActivationFloat) return "float activations, weights dequantized";
  if (s.weight.bits == 8) return "8-bit weights take 8-bit codes";
  return s.activation.bits <= 4 ? "activation bits 2..4 take the 4-bit kernel"
                                : "activation bits 5..8 take the 8-bit kernel";
}

inline std::string explain_rotation(const Rotation& r, std::int64_t k) {
  if (r.kind == RotationKind::kNone) return "none";
  const RotationPlan plan = plan_rotation(r, k);
  if (r.kind == RotationKind::kFull) return "full (" + describe(plan.full) + ")";
  return "blocks of " + std::to_string(r.block) + " (" +
         std::to_string(additions_per_element(plan)) + " additions per element)";
}

}  // namespace detail

// What smooth_rotate_quantize and gemm would do for M x N x K under `scheme`.
inline Explanation explain(const Scheme& scheme, std::int64_t m, std::int64_t n, std::int64_t k) {
  Explanation e;
  const KernelTable* table = nullptr;
  e.status = select_kernels(std::nullopt, &table);
  if (e.status.ok()) e.status = validate(scheme, k);
  if (e.status.ok() && m < 0) e.status = invalid_argument("M", "must not be negative", m, 0);
  if (e.status.ok() && n < 0) e.status = invalid_argument("N", "must not be negative", n, 0);
  if (!e.status.ok()) return e;
  const GemmKernel& kernel = select_gemm_kernel(*table, scheme);
  e.isa = table->name;
  e.kernel = kernel.name;
  e.tile_rows = kernel.max_rows;
  e.tile_outputs = kernel.max_panels * kPanelOutputs;
  e.row_tiles = make_row_tiles(m, kernel.max_rows).tiles;
  e.fused = detail::can_fuse(*table, scheme, k);
  e.rotation = detail::explain_rotation(scheme.rotation, k);
  e.reason = detail::explain_level(*table) + "; " + detail::explain_bits(scheme);
  return e;
}

// What linear(X [M,K], w) would do. A low-rank branch needs the rotated rows in memory, which the
// scheme alone cannot tell.
inline Explanation explain(std::int64_t m, const WeightView& w) {
  Explanation e = explain(w.scheme, m, w.n, w.k);
  if (w.low_rank.rank > 0) e.fused = false;
  return e;
}

RRS_FUNCTIONS_END
