// Scheme: every decision about one quantized linear layer, as plain data.
//
//   Y[M,N] = X[M,K] W[N,K]^T + bias     M tokens, K inputs, N outputs
//   x~ = (x / divisor) P H              P, divisor: LayerChannels (optional); H: Rotation
//   s[b,g] = max |x~| over window b and group g, or, in window `one`, the signed scale of the range
//   rule q[t,k] = clamp(rint(x~ r), -qmax-1, qmax),  r = 1 / (s a) rounded once, half to even
//   Y[t,n] = a[t] sum_g s[b,g] v[n,g] sum_{k in g} q[t,k] p[n,k]
//
// from: presets.hpp or the user.  to: every stage.  Every field may be changed; validate() says
// what does not exist.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"

RRS_TYPES_BEGIN

// Group size that means "the whole row".
inline constexpr int kRowGroup = 0;
// Activation bits that mean "not quantized": f32 activations against dequantized weights.
inline constexpr int kActivationFloat = 16;
// Largest K of any layer: indices of inputs fit int32, and no size computed from K can wrap.
inline constexpr std::int64_t kMaxInputs = INT32_MAX;
// A set of values whose largest magnitude is below this counts as zero: codes 0, scale 0.
inline constexpr float kZeroMagnitude = 0x1p-100f;

enum class RotationKind : std::uint8_t {
  kNone,
  kBlock,  // Hadamard blocks along K; a tail is covered greedily by powers of two
  kFull,   // one Hadamard of order K (any K, no padding)
};

struct Rotation {
  RotationKind kind = RotationKind::kBlock;
  int block = 32;             // 16, 32, 64, 128 or 256; only for kBlock
  bool random_signs = false;  // x is multiplied by seeded random signs before the Hadamard
  std::uint64_t sign_seed = 0;
};

// The consecutive tokens that share smoothing scales.
enum class WindowKind : std::uint8_t {
  kWhole,   // all rows of a sequence in the call (published RS): not causal
  kRows,    // each `rows` consecutive rows of a sequence
  kOne,     // each token alone: causal and batch-invariant
  kFrozen,  // scales given by the caller (LayerChannels::frozen_scales): causal
};

struct Window {
  WindowKind kind = WindowKind::kOne;
  std::int64_t rows = 0;  // only for kRows, >= 1
};

// Range rule for a set of values: e its value of largest magnitude (positive on a tie), o the
// largest magnitude among values of the opposite sign.
enum class Range : std::uint8_t {
  kSymmetric,  // scale = clip |e| / qmax
  kFull,  // scale = -sign(e) clip max(|e| / (qmax + 1), |o| / qmax): the extreme becomes -qmax-1
};

struct ActivationScheme {
  int bits = 4;  // 2..8, or kActivationFloat
  Window window;
  int group = 32;  // 16, 32, 64, 128, 256 or kRowGroup
  Range range = Range::kFull;
  float clip = 1.0f;        // (0, 1]
  bool token_scale = true;  // false: a[t] = clip / qmax (windows wider than one only)
  float floor = 0.0f;       // smoothing scales of wide windows are at least this (published: 1e-5)
  bool exact_reference =
      false;  // groups formed by sorting channel maxima in every call (published)
};

enum class WeightScale : std::uint8_t {
  kAbsmax,  // clip 1
  kSearch,  // best of 80 clips by sum |error|^2.4
};

struct WeightScheme {
  int bits = 4;    // 4 or 8
  int group = 32;  // 16, 32, 64, 128, 256 or kRowGroup (per output channel)
  Range range = Range::kSymmetric;
  WeightScale scale = WeightScale::kSearch;
};

struct Scheme {
  Rotation rotation;
  ActivationScheme activation;
  WeightScheme weight;
  // > 0: the layer expects LayerChannels::divisor from SmoothQuant with this alpha. Informative.
  float smoothquant_alpha = 0.0f;
  // True for schemes without an integer GEMM (RS with one channel per group): reference/ only.
  bool simulated = false;
};

// Static per-input data of one layer, shared by its weight and its activations. Pointers are the
// caller's, may be null, and must stay valid during the call that takes them.
struct LayerChannels {
  // permuted[k] = x[input_permutation[k]], before the rotation; a permutation of 0..K-1.
  const std::int32_t* input_permutation = nullptr;
  // The same after the rotation; only for windows wider than one.
  const std::int32_t* group_permutation = nullptr;
  // Activations are divided by it and weights multiplied, before everything else; finite, > 0.
  const float* divisor = nullptr;
  // Smoothing scales [groups(K, activation.group)] for WindowKind::kFrozen; finite, > 0.
  const float* frozen_scales = nullptr;
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// Largest positive code: 7 for 4 bits, 127 for 8. The most negative code is -max_code(bits) - 1.
RRS_FORCE_INLINE int max_code(int bits) noexcept { return (1 << (bits - 1)) - 1; }

// Number of groups of `group` inputs that cover k inputs; 1 for kRowGroup (0 when k is 0).
RRS_FORCE_INLINE std::int64_t group_count(std::int64_t k, int group) noexcept {
  if (k <= 0) return 0;
  return group == kRowGroup ? 1 : (k + group - 1) / group;
}

// The group over which the inner integer sum runs: the smaller of the two.
RRS_FORCE_INLINE int inner_group(int activation_group, int weight_group) noexcept {
  if (activation_group == kRowGroup) return weight_group;
  if (weight_group == kRowGroup) return activation_group;
  return activation_group < weight_group ? activation_group : weight_group;
}

// The sizes that kernels know; kRowGroup is the whole row.
RRS_FORCE_INLINE bool is_group_size(int group) noexcept {
  return group == kRowGroup || group == 16 || group == 32 || group == 64 || group == 128 ||
         group == 256;
}

namespace detail {

// `value` is one of the enumerators 0..last.
template <class Enum>
Status validate_enum(const char* field, Enum value, Enum last) noexcept {
  if (static_cast<int>(value) <= static_cast<int>(last)) return Status{};
  return invalid_scheme(field, "must be one of its enumerators", static_cast<int>(value),
                        static_cast<int>(last));
}

inline Status validate_enums(const Scheme& s) noexcept {
  const ActivationScheme& a = s.activation;
  if (Status e = validate_enum("rotation.kind", s.rotation.kind, RotationKind::kFull); !e) return e;
  if (Status e = validate_enum("activation.window.kind", a.window.kind, WindowKind::kFrozen); !e) {
    return e;
  }
  if (Status e = validate_enum("activation.range", a.range, Range::kFull); !e) return e;
  if (Status e = validate_enum("weight.range", s.weight.range, Range::kFull); !e) return e;
  return validate_enum("weight.scale", s.weight.scale, WeightScale::kSearch);
}

inline Status validate_rotation(const Rotation& r) noexcept {
  if (r.kind != RotationKind::kBlock) return Status{};
  if (r.block < 16 || r.block > 256 || (r.block & (r.block - 1)) != 0) {
    return invalid_scheme("rotation.block", "must be a power of two in 16..256", r.block, 256);
  }
  return Status{};
}

inline Status validate_activation(const ActivationScheme& a) noexcept {
  if (a.bits != kActivationFloat && (a.bits < 2 || a.bits > 8)) {
    return invalid_scheme("activation.bits", "must be 2..8 or 16", a.bits, 8);
  }
  if (!is_group_size(a.group)) {
    return invalid_scheme("activation.group", "must be 16, 32, 64, 128, 256 or 0 (row)", a.group,
                          256);
  }
  if (!(a.clip > 0.0f && a.clip <= 1.0f)) {
    return invalid_scheme(
        "activation.clip", "times 1000 must be in (0, 1000]",
        static_cast<std::int64_t>(a.clip > -1e9f && a.clip < 1e9f ? a.clip * 1000.0f : -1.0f),
        1000);
  }
  if (a.window.kind == WindowKind::kRows && a.window.rows < 1) {
    return invalid_scheme("activation.window.rows", "must be at least 1", a.window.rows, 1);
  }
  if (!a.token_scale && a.window.kind == WindowKind::kOne) {
    return invalid_scheme("activation.token_scale", "must be true in window one", 0, 1);
  }
  if (!(a.floor >= 0.0f && a.floor <= 1.0f)) {
    return invalid_scheme("activation.floor", "must be in [0, 1]", -1, 1);
  }
  return Status{};
}

inline Status validate_exact_reference(const Scheme& s) noexcept {
  if (!s.activation.exact_reference) return Status{};
  if (s.activation.window.kind != WindowKind::kWhole) {
    return invalid_scheme("activation.exact_reference", "requires window whole",
                          static_cast<int>(s.activation.window.kind), 0);
  }
  if (s.weight.group != kRowGroup) {
    return invalid_scheme("weight.group", "must be 0 (per channel) with exact_reference",
                          s.weight.group, 0);
  }
  if (s.activation.bits == kActivationFloat) {
    return invalid_scheme("activation.bits", "must be 2..8 with exact_reference", s.activation.bits,
                          8);
  }
  if (s.activation.range != Range::kSymmetric) {
    return invalid_scheme("activation.range", "must be symmetric with exact_reference",
                          static_cast<int>(s.activation.range), 0);
  }
  if (s.activation.clip != 1.0f || !s.activation.token_scale) {
    return invalid_scheme("activation.clip", "must be 1, with token_scale, for exact_reference", 0,
                          1);
  }
  return Status{};
}

}  // namespace detail

// Everything that can be said about a scheme without knowing the layer.
inline Status validate(const Scheme& s) noexcept {
  if (s.simulated) {
    return Status{StatusCode::kSimulatedOnly,
                  "scheme.simulated",
                  "has no integer GEMM: use reference/",
                  1,
                  0,
                  nullptr};
  }
  if (Status status = detail::validate_enums(s); !status) return status;
  if (Status status = detail::validate_rotation(s.rotation); !status) return status;
  if (Status status = detail::validate_activation(s.activation); !status) return status;
  if (s.weight.bits != 4 && s.weight.bits != 8) {
    return invalid_scheme("weight.bits", "must be 4 or 8", s.weight.bits, 8);
  }
  if (!is_group_size(s.weight.group)) {
    return invalid_scheme("weight.group", "must be 16, 32, 64, 128, 256 or 0 (row)", s.weight.group,
                          256);
  }
  return detail::validate_exact_reference(s);
}

// Largest K whose integer sums fit int32 when the inner group is the whole row. With offsets the
// sum runs over the stored codes 0..255 instead of -128..127; at 4 bits the one bound covers both.
RRS_FORCE_INLINE std::int64_t max_inputs(const Scheme& s, bool offsets = false) noexcept {
  if (inner_group(s.activation.group, s.weight.group) != kRowGroup) return kMaxInputs;
  if (s.weight.bits == 8) return offsets ? INT32_MAX / (255 * 128) : 131071;
  return INT32_MAX / (15 * 128 + 8 * 128);
}

// Checks a scheme for a layer of K inputs: the scheme alone, K >= 1, and with row groups at most
// max_inputs(s).
inline Status validate(const Scheme& s, std::int64_t k) noexcept {
  if (Status status = validate(s); !status) return status;
  if (k < 1) return invalid_argument("K", "must be at least 1", k, 1);
  if (k > kMaxInputs) return invalid_argument("K", "must fit int32", k, kMaxInputs);
  if (s.activation.bits != kActivationFloat && k > max_inputs(s)) {
    return invalid_argument("K", "with row groups must keep integer sums within int32", k,
                            max_inputs(s));
  }
  return Status{};
}

RRS_FUNCTIONS_END
