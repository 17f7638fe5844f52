// The published methods and our defaults, as schemes. Each is a plain Scheme: change any field.
//
// from: the papers named beside each.  to: prepare_weight, smooth_rotate_quantize, layer_report.
// Presets use RTN weights; a `-gptq` method differs in the solver only.
#pragma once

#include <cstddef>
#include <cstring>

#include "rrs/core/config.hpp"
#include "rrs/core/scheme.hpp"

RRS_TYPES_BEGIN

struct NamedPreset {
  const char* name;
  Scheme scheme;
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace presets {

// Round to nearest: activations per token, weights per output channel, no rotation.
inline Scheme rtn() noexcept {
  Scheme s;
  s.rotation.kind = RotationKind::kNone;
  s.activation.group = kRowGroup;
  s.activation.range = Range::kSymmetric;
  s.weight.group = kRowGroup;
  return s;
}

// SmoothQuant (Xiao et al., 2023) as published: 8 x 8 bits, alpha 0.5.
inline Scheme smoothquant_w8a8() noexcept {
  Scheme s = rtn();
  s.smoothquant_alpha = 0.5f;
  s.activation.bits = 8;
  s.weight.bits = 8;
  s.weight.scale = WeightScale::kAbsmax;
  return s;
}

// SmoothQuant forced to 4 x 4 bits: the baseline that collapses.
inline Scheme smoothquant_w4a4() noexcept {
  Scheme s = rtn();
  s.smoothquant_alpha = 0.5f;
  return s;
}

// QuaRot (Ashkboos et al., 2024): full Hadamard, activations per token with clip 0.9.
inline Scheme quarot() noexcept {
  Scheme s = rtn();
  s.rotation.kind = RotationKind::kFull;
  s.activation.clip = 0.9f;
  return s;
}

// QuaRot with weights in groups of 32.
inline Scheme quarot_g32() noexcept {
  Scheme s = quarot();
  s.weight.group = 32;
  return s;
}

// Runtime Smooth without rotation, one channel per group (a group size of its own that reference/
// supplies): no integer GEMM exists.
inline Scheme rs() noexcept {
  Scheme s = rtn();
  s.activation.floor = 1e-5f;
  s.activation.window.kind = WindowKind::kWhole;
  s.simulated = true;
  return s;
}

// Runtime Smooth in consecutive groups of 32: the integer form of `rs`.
inline Scheme rs_g32() noexcept {
  Scheme s = rtn();
  s.activation.window.kind = WindowKind::kWhole;
  s.activation.group = 32;
  return s;
}

// RRS as published: full Hadamard, whole window, groups of 128 by sorted channel maxima.
inline Scheme rrs_published() noexcept {
  Scheme s = rtn();
  s.rotation.kind = RotationKind::kFull;
  s.activation.window.kind = WindowKind::kWhole;
  s.activation.group = 128;
  s.activation.floor = 1e-5f;
  s.activation.exact_reference = true;
  return s;
}

// The default: blocks of 32, each token alone, groups of 32, signed extremes.
inline Scheme rrs() noexcept { return Scheme{}; }

// `rrs` with activations at 8 bits.
inline Scheme rrs_w4a8() noexcept {
  Scheme s;
  s.activation.bits = 8;
  return s;
}

// `rrs` with activations that are not quantized: f32 against dequantized weights.
inline Scheme rrs_w4a16() noexcept {
  Scheme s;
  s.activation.bits = kActivationFloat;
  return s;
}

// `rrs` with rotation blocks, activation groups and weight groups of the same size.
inline Scheme rrs_grouped(int group) noexcept {
  Scheme s;
  s.rotation.block = group;
  s.activation.group = group;
  s.weight.group = group;
  return s;
}
// Groups of 64: smaller and faster than `rrs`, less accurate.
inline Scheme rrs_g64() noexcept { return rrs_grouped(64); }
// Groups of 128: further that way.
inline Scheme rrs_g128() noexcept { return rrs_grouped(128); }

// `rrs` with smoothing scales shared by all rows of a sequence.
inline Scheme rrs_whole() noexcept {
  Scheme s;
  s.activation.window.kind = WindowKind::kWhole;
  return s;
}
// `rrs` with smoothing scales shared by 16 consecutive rows.
inline Scheme rrs_rows16() noexcept {
  Scheme s;
  s.activation.window = Window{WindowKind::kRows, 16};
  return s;
}

inline constexpr std::size_t kCount = 15;

// Calls visit(NamedPreset) for every preset, in the order of the methods' table.
template <class Visitor>
void for_each(const Visitor& visit) {
  visit(NamedPreset{"rtn", rtn()});
  visit(NamedPreset{"smoothquant_w8a8", smoothquant_w8a8()});
  visit(NamedPreset{"smoothquant_w4a4", smoothquant_w4a4()});
  visit(NamedPreset{"quarot", quarot()});
  visit(NamedPreset{"quarot_g32", quarot_g32()});
  visit(NamedPreset{"rs", rs()});
  visit(NamedPreset{"rs_g32", rs_g32()});
  visit(NamedPreset{"rrs_published", rrs_published()});
  visit(NamedPreset{"rrs", rrs()});
  visit(NamedPreset{"rrs_w4a8", rrs_w4a8()});
  visit(NamedPreset{"rrs_w4a16", rrs_w4a16()});
  visit(NamedPreset{"rrs_g64", rrs_g64()});
  visit(NamedPreset{"rrs_g128", rrs_g128()});
  visit(NamedPreset{"rrs_whole", rrs_whole()});
  visit(NamedPreset{"rrs_rows16", rrs_rows16()});
}

// The preset of that name (underscores or dashes), or a Status that names what was asked for.
// `name` must outlive the Status.
inline Result<Scheme> by_name(const char* name) {
  Result<Scheme> found = Status{
      StatusCode::kInvalidArgument, "preset", "must be one of the names in presets::for_each", 0, 0,
      name == nullptr ? "" : name};
  if (name == nullptr) return found;
  for_each([&](const NamedPreset& preset) {
    std::size_t i = 0;
    while (name[i] != 0 && (name[i] == '-' ? '_' : name[i]) == preset.name[i]) ++i;
    if (name[i] == 0 && preset.name[i] == 0) found = preset.scheme;
  });
  return found;
}

}  // namespace presets

RRS_FUNCTIONS_END
