// What a scalar PreparedActivation holds, read by the layout of pack/layout.hpp, against the double
// reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "fuzz.hpp"
#include "rrs/reference/linear.hpp"
#include "rrs/rrs.hpp"

namespace fuzz {

// Both [m][k], in the order of the packed weight.
struct Dequantized {
  std::vector<double> values;  // a s q, or the floats of A16
  std::vector<double> steps;   // |a s|; 0 for A16
};

// One tile: rows from `first` of the call, its channels in the order of `permutation`, if any.
inline void dequantize_tile(const rrs::PreparedActivation& a, std::int64_t first, std::int64_t rows,
                            const std::int32_t* permutation, Dequantized* out) {
  const auto* codes = static_cast<const std::int8_t*>(a.codes) + first * a.k_padded;
  const auto* floats = static_cast<const float*>(a.codes) + first * a.k_padded;
  const std::int64_t group =
      a.scheme.activation.group == rrs::kRowGroup ? a.k : std::int64_t{a.scheme.activation.group};
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t k = 0; k < a.k; ++k) {
      const std::int64_t channel = permutation == nullptr ? k : permutation[k];
      const auto at = static_cast<std::size_t>((first + r) * a.k + channel);
      if (a.is_float()) {
        out->values[at] = static_cast<double>(floats[k * rows + r]);
        continue;
      }
      const float scale = a.scales[first * a.activation_groups + k / group * rows + r];
      const double step =
          static_cast<double>(scale) * static_cast<double>(a.token_scales[first + r]);
      out->values[at] = step * codes[k / 4 * rows * 4 + r * 4 + k % 4];
      out->steps[at] = std::abs(step);
    }
  }
}

inline Dequantized dequantized(const rrs::PreparedActivation& a) {
  Dequantized out;
  out.values.assign(static_cast<std::size_t>(a.m * a.k), 0.0);
  out.steps = out.values;
  const int max_rows = rrs::select_gemm_kernel(*a.table, a.scheme).max_rows;
  for (std::int64_t i = 0; i < a.segment_count; ++i) {
    const rrs::ActivationSegment s = a.segment(i);
    const rrs::RowTiles tiles = rrs::make_row_tiles(s.rows, max_rows);
    for (std::int64_t tile = 0; tile < tiles.tiles; ++tile) {
      dequantize_tile(a, s.first_row + tiles.first_row(tile), tiles.rows_in(tile), s.permutation,
                      &out);
    }
  }
  return out;
}

// Largest ||x||_2 of a row: the rotation keeps it, so f32 errors of x~ are a few ulps of it.
inline double largest_norm(const std::vector<float>& x, std::int64_t m, std::int64_t k) {
  double largest = 0.0;
  for (std::int64_t t = 0; t < m; ++t) {
    double squares = 0.0;
    for (std::int64_t i = 0; i < k; ++i) {
      const double v = static_cast<double>(x[static_cast<std::size_t>(t * k + i)]);
      squares += v * v;
    }
    largest = (std::max)(largest, std::sqrt(squares));
  }
  return largest;
}

// Every value within one code of the reference's, and few of them another code: those within
// rounding of a tie. (A sorted group may swap channels of equal maxima, hence the row's step
// there.)
inline void compare_codes(const std::vector<float>& x, std::int64_t m, std::int64_t k,
                          const rrs::Scheme& scheme, const Dequantized& seen) {
  const std::vector<double> expected =
      rrs::reference::dequantized_activations(x.data(), m, k, scheme);
  const double rounding = 0x1p-18 * largest_norm(x, m, k);
  std::int64_t others = 0;
  for (std::int64_t t = 0; t < m; ++t) {
    const auto* steps = seen.steps.data() + t * k;
    const double largest = *std::max_element(steps, steps + k);
    for (std::int64_t i = 0; i < k; ++i) {
      const auto at = static_cast<std::size_t>(t * k + i);
      const double error = std::abs(seen.values[at] - expected[at]);
      const double step = scheme.activation.exact_reference ? largest : steps[i];
      require(error <= 1.5 * step + rounding, "each code within one of the reference's");
      others += error > 0.5 * steps[i] + rounding ? 1 : 0;
    }
  }
  require(others <= 2 + m * k / 50, "few codes that are not the reference's");
}

}  // namespace fuzz
