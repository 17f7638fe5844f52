// Weights that others quantized, as PreparedWeight, without requantizing.
//
//   no zero points:  W = v (u - 8)         (128 at 8 bits), or v q with signed codes q
//   zero points z:   W = v (u - z)         stored as v u + offset, offset = -v z
//   minimums m:      W = v u + m           stored as v u + offset, offset = m
// u [N,K] unsigned codes, v, z, m [N, K/group].
//
// from: files of other systems (symmetric GPTQ, AWQ, Q4_0, Q4_1), calibrate/gptq.  to: gemm,
// linear. The scheme is rotation none with the caller's activation scheme, except for
// weight_from_quantized. Numeric contract: codes and f16 scales are kept bit for bit; f32 scales
// are rounded to f16; offsets are exact for integer zero points and f16 minimums. Cost: a few ns
// per weight, offline, serial.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/view.hpp"
#include "rrs/pack/from_codes.hpp"
#include "rrs/pack/pack.hpp"
#include "rrs/pipeline/weight_view.hpp"

RRS_TYPES_BEGIN

// What comes with the codes. At most one of the three matrices may be given (data not null).
struct CodesOptions {
  int bits = 4;    // 4 or 8
  int group = 32;  // inputs per scale: 16, 32, 64, 128, 256 or kRowGroup
  ActivationScheme activation;
  MatrixView<const std::uint8_t> zero_points;  // [N,G] in the units of unsigned codes
  MatrixView<const float> zero_points_f32;     // [N,G], the same, not integer
  MatrixView<const float> minimums;            // [N,G] in the units of W
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// A weight while it is written.
struct WeightBuilder {
  AlignedBuffer buffer;
  WeightLayout layout;
  WeightSections sections;
};

inline constexpr ViewNames kNamesScales{"scales.data", "scales.rows", "scales.cols",
                                        "scales.row_stride"};
inline constexpr ViewNames kNamesZeros{"zero_points.data", "zero_points.rows", "zero_points.cols",
                                       "zero_points.row_stride"};
inline constexpr ViewNames kNamesMinimums{"minimums.data", "minimums.rows", "minimums.cols",
                                          "minimums.row_stride"};

// Allocates a weight; scales, offsets and the gaps between sections are zeroed.
inline Status start_weight(std::int64_t n, std::int64_t k, const WeightScheme& scheme,
                           bool with_offsets, WeightBuilder* out) noexcept {
  const Result<WeightLayout> layout = weight_layout(n, k, scheme, with_offsets);
  if (!layout) return layout.status();
  out->layout = *layout;
  if (Status s = out->buffer.allocate(layout->total_bytes); !s) {
    s.argument = "W";
    return s;
  }
  std::byte* base = out->buffer.data();
  out->sections = WeightSections{nullptr, layout->panel_bytes, nullptr, nullptr, layout->groups};
  if (base == nullptr) return Status{};
  std::memset(base + layout->scales_at, 0,
              static_cast<std::size_t>(layout->total_bytes - layout->scales_at));
  out->sections.panels = reinterpret_cast<std::uint8_t*>(base);
  out->sections.scales = reinterpret_cast<f16*>(base + layout->scales_at);
  if (with_offsets) out->sections.offsets = reinterpret_cast<float*>(base + layout->offsets_at);
  return Status{};
}

inline PreparedWeight finish_weight(WeightBuilder&& b, std::int64_t n, std::int64_t k,
                                    const Scheme& scheme, std::uint64_t fingerprint) noexcept {
  const WeightView view = make_weight_view(b.buffer.data(), b.layout, n, k, scheme, fingerprint);
  return PreparedWeight(std::move(b.buffer), view);
}

template <class T>
Status validate_group_view(const MatrixView<T>& view, const ViewNames& names, std::int64_t n,
                           std::int64_t groups) noexcept {
  if (Status s = validate_view(view, names); !s) return s;
  if (view.rows != n) return invalid_argument(names.rows, "must equal N", view.rows, n);
  if (view.cols != groups) {
    return invalid_argument(names.cols, "must equal the number of groups", view.cols, groups);
  }
  return Status{};
}

RRS_FORCE_INLINE f16 stored_scale(f16 scale) noexcept { return scale; }
RRS_FORCE_INLINE f16 stored_scale(float scale) noexcept { return to_f16(scale); }

template <class ScaleT>
Status fill_scales(const MatrixView<ScaleT>& scales, const WeightSections& out) noexcept {
  for (std::int64_t n = 0; n < scales.rows; ++n) {
    for (std::int64_t g = 0; g < scales.cols; ++g) {
      const f16 v = stored_scale(scales.row(n)[g]);
      if ((v.bits & 0x7c00u) == 0x7c00u) {
        return invalid_argument("scales", "must be finite as f16 in every row (found: row)", n,
                                65504);
      }
      out.scales[group_value_index(n, g, out.groups)] = v;
    }
  }
  return Status{};
}

inline Status fill_offsets(const CodesOptions& o, std::int64_t n_outputs,
                           const WeightSections& out) noexcept {
  if (out.offsets == nullptr) return Status{};
  for (std::int64_t n = 0; n < n_outputs; ++n) {
    for (std::int64_t g = 0; g < out.groups; ++g) {
      const std::int64_t at = group_value_index(n, g, out.groups);
      float offset;
      if (o.minimums.data != nullptr) {
        offset = o.minimums.row(n)[g];
      } else if (o.zero_points.data != nullptr) {
        offset = zero_point_offset(out.scales[at], static_cast<float>(o.zero_points.row(n)[g]));
      } else {
        offset = zero_point_offset(out.scales[at], o.zero_points_f32.row(n)[g]);
      }
      if (!is_finite_bits(float_bits(offset))) {
        return invalid_argument(o.minimums.data != nullptr ? "minimums" : "zero_points",
                                "must be finite in every row (found: row)", n, 0);
      }
      out.offsets[at] = offset;
    }
  }
  return Status{};
}

inline Status validate_offsets(const CodesOptions& o, std::int64_t n, std::int64_t groups,
                               bool signed_codes, bool* with_offsets) noexcept {
  const int given = (o.zero_points.data != nullptr) + (o.zero_points_f32.data != nullptr) +
                    (o.minimums.data != nullptr);
  *with_offsets = given > 0;
  if (given > 1) {
    return invalid_argument("zero_points", "or minimums: at most one may be given", given, 1);
  }
  if (given > 0 && signed_codes) {
    return invalid_argument("zero_points", "and minimums need unsigned codes", given, 0);
  }
  if (o.zero_points.data != nullptr) {
    return validate_group_view(o.zero_points, kNamesZeros, n, groups);
  }
  if (o.zero_points_f32.data != nullptr) {
    return validate_group_view(o.zero_points_f32, kNamesZeros, n, groups);
  }
  if (o.minimums.data != nullptr) {
    return validate_group_view(o.minimums, kNamesMinimums, n, groups);
  }
  return Status{};
}

inline Scheme codes_scheme(const CodesOptions& o) noexcept {
  Scheme s;
  s.rotation.kind = RotationKind::kNone;
  s.activation = o.activation;
  s.weight = WeightScheme{o.bits, o.group, Range::kSymmetric, WeightScale::kAbsmax};
  return s;
}

// The common path: scheme as given.
template <class Code, class ScaleT>
Result<PreparedWeight> build_from_codes(const MatrixView<Code>& codes,
                                        const MatrixView<ScaleT>& scales, const Scheme& scheme,
                                        const CodesOptions& options,
                                        std::uint64_t fingerprint) noexcept {
  constexpr bool kSigned = std::is_signed<std::remove_const_t<Code>>::value;
  if (Status s = validate_view(codes, kNamesCodes); !s) return s;
  const std::int64_t n = codes.rows, k = codes.cols;
  if (Status s = validate(scheme, k); !s) return s;
  const std::int64_t groups = group_count(k, scheme.weight.group);
  if (Status s = validate_group_view(scales, kNamesScales, n, groups); !s) return s;
  bool with_offsets = false;
  if (Status s = validate_offsets(options, n, groups, kSigned, &with_offsets); !s) return s;
  if (scheme.activation.bits != kActivationFloat && k > max_inputs(scheme, with_offsets)) {
    return invalid_argument("codes.cols", "with row groups must keep integer sums within int32", k,
                            max_inputs(scheme, with_offsets));
  }
  WeightBuilder builder{};
  if (Status s = start_weight(n, k, scheme.weight, with_offsets, &builder); !s) return s;
  if (Status s = fill_scales(scales, builder.sections); !s) return s;
  if (Status s = fill_offsets(options, n, builder.sections); !s) return s;
  if (Status s = pack_weight(codes, scheme.weight.bits, builder.sections.panels,
                             builder.layout.panels_bytes);
      !s) {
    return s;
  }
  return finish_weight(std::move(builder), n, k, scheme, fingerprint);
}

inline Result<PreparedWeight> weight_from_q4(const void* blocks, std::int64_t n, std::int64_t k,
                                             bool with_minimum,
                                             const ActivationScheme& activation) noexcept {
  CodesOptions options;
  options.activation = activation;
  const Scheme scheme = codes_scheme(options);
  if (n < 0) return invalid_argument("n", "must not be negative", n, 0);
  if (Status s = validate(scheme, k); !s) return s;
  if (k % kQ4Group != 0) return invalid_argument("k", "must be a multiple of 32", k, kQ4Group);
  if (blocks == nullptr && n > 0) {
    return invalid_argument("blocks", "must not be null when there are rows", 0, 1);
  }
  WeightBuilder builder{};
  if (Status s = start_weight(n, k, scheme.weight, with_minimum, &builder); !s) return s;
  const std::int64_t row_bytes = k / kQ4Group * (with_minimum ? kQ4_1Bytes : kQ4_0Bytes);
  const auto* bytes = static_cast<const std::uint8_t*>(blocks);
  for (std::int64_t first = 0; first < n; first += kPanelOutputs) {
    const std::int64_t left = n - first;
    const int rows = static_cast<int>(left < kPanelOutputs ? left : kPanelOutputs);
    std::int64_t bad_row = 0;
    if (!pack_q4_panel(bytes + first * row_bytes, row_bytes, with_minimum, first, rows,
                       builder.sections, &bad_row)) {
      return invalid_argument("blocks", "must have finite scales in every row (found: row)",
                              bad_row, 65504);
    }
  }
  return finish_weight(std::move(builder), n, k, scheme, 0);
}

}  // namespace detail

// Codes [N,K] (std::uint8_t as stored, or std::int8_t), scales [N,G] (f16 or float).
template <class Code, class ScaleT>
Result<PreparedWeight> weight_from_codes(const MatrixView<Code>& codes,
                                         const MatrixView<ScaleT>& scales,
                                         const CodesOptions& options = CodesOptions{}) noexcept {
  return detail::build_from_codes(codes, scales, detail::codes_scheme(options), options, 0);
}

// Signed codes of a weight that was already brought into the basis of `scheme` (permuted, rotated:
// see transform_weight), with the fingerprint of the channels that were applied. What GPTQ
// uses.
template <class Code, class ScaleT>
Result<PreparedWeight> weight_from_quantized(const MatrixView<Code>& codes,
                                             const MatrixView<ScaleT>& scales, const Scheme& scheme,
                                             std::uint64_t fingerprint = 0) noexcept {
  return detail::build_from_codes(codes, scales, scheme, CodesOptions{}, fingerprint);
}

// A Q4_0 tensor of n rows of k inputs: n * k / 32 blocks of 18 bytes, any alignment.
inline Result<PreparedWeight> weight_from_q4_0(
    const void* blocks, std::int64_t n, std::int64_t k,
    const ActivationScheme& activation = ActivationScheme{}) noexcept {
  return detail::weight_from_q4(blocks, n, k, false, activation);
}

// A Q4_1 tensor: n * k / 32 blocks of 20 bytes, any alignment.
inline Result<PreparedWeight> weight_from_q4_1(
    const void* blocks, std::int64_t n, std::int64_t k,
    const ActivationScheme& activation = ActivationScheme{}) noexcept {
  return detail::weight_from_q4(blocks, n, k, true, activation);
}

RRS_FUNCTIONS_END
