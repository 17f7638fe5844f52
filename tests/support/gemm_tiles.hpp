// Random packed GEMM problems, and both their packed and their unpacked form.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "rrs/core/dispatch.hpp"
#include "rrs/gemm/gemm.hpp"
#include "rrs/pack/layout.hpp"
#include "rrs/reference/gemm.hpp"
#include "support/random.hpp"

namespace rrs_test {

// Exactly sized, 64-byte aligned storage, so that the address sanitizer sees every overrun.
template <class T>
class Aligned {
 public:
  Aligned() = default;
  explicit Aligned(std::int64_t count) : count_(count) {
    if (count == 0) return;
    data_ = static_cast<T*>(::operator new (bytes(), std::align_val_t{64}));
    std::memset(static_cast<void*>(data_), 0, bytes());
  }
  Aligned(Aligned&& other) noexcept : data_(other.data_), count_(other.count_) {
    other.data_ = nullptr;
  }
  Aligned& operator=(Aligned&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~Aligned() {
    if (data_ != nullptr) ::operator delete (data_, std::align_val_t{64});
  }
  T& operator[](std::int64_t i) { return data_[i]; }
  const T& operator[](std::int64_t i) const { return data_[i]; }
  T* get() const { return data_; }  // null when empty
  std::int64_t size() const { return count_; }
  std::size_t bytes() const { return static_cast<std::size_t>(count_) * sizeof(T); }

 private:
  T* data_ = nullptr;
  std::int64_t count_ = 0;
};

struct GemmCase {
  std::int64_t m = 1, n = 16, k = 32;
  int activation_bits = 4;  // 4, 8, or 16: float activations
  int weight_bits = 4;
  int activation_group = 32;
  int weight_group = 32;
  bool offsets = false;
};

enum class Fill { kRandom, kExtreme };  // kExtreme: only the largest magnitudes

struct GemmData {
  GemmCase c;
  std::int64_t k_padded, groups, activation_groups, weight_groups, panels;
  int inner;
  Aligned<std::int8_t> codes;  // [m][k_padded], padding 0
  Aligned<float> x;            // the same for float activations
  Aligned<std::int32_t> sums;  // [m][groups]
  Aligned<float> s;            // [m][activation_groups]
  Aligned<float> token;        // [m]
  Aligned<float> bias;         // [n]
  std::vector<int> u;          // [n][k] stored codes
  Aligned<std::uint8_t> weights;
  Aligned<rrs::f16> scales;
  Aligned<float> offsets;
  bool is_float() const { return c.activation_bits == 16; }
};

inline std::int64_t group_index(std::int64_t k, int group) {
  return group == rrs::kRowGroup ? 0 : k / group;
}

inline void set_weight(GemmData& d, std::int64_t n, std::int64_t k, int u) {
  std::uint8_t* panel = d.weights.get() + n / 16 * rrs::panel_bytes(d.c.k, d.c.weight_bits);
  const int lane = static_cast<int>(n % 16);
  if (d.c.weight_bits == 8) {
    panel[rrs::w8_byte(lane, k)] = static_cast<std::uint8_t>(u);
    return;
  }
  std::uint8_t& byte = panel[rrs::w4_byte(lane, k)];
  const int shift = rrs::w4_high_nibble(k) ? 4 : 0;
  byte = static_cast<std::uint8_t>((byte & ~(15 << shift)) | (u << shift));
}

inline void fill_weights(GemmData& d, Fill fill, Random& random) {
  const GemmCase& c = d.c;
  const int top = c.weight_bits == 8 ? 255 : 15;
  d.weights = Aligned<std::uint8_t>(d.panels * rrs::panel_bytes(c.k, c.weight_bits));
  d.scales = Aligned<rrs::f16>(d.panels * d.weight_groups * 16);
  if (c.offsets) d.offsets = Aligned<float>(d.panels * d.weight_groups * 16);
  d.u.resize(static_cast<std::size_t>(c.n * c.k));
  for (std::int64_t n = 0; n < d.panels * 16; ++n) {
    for (std::int64_t k = 0; k < d.k_padded; ++k) {
      int u = (top + 1) / 2;
      if (n < c.n && k < c.k) {
        u = static_cast<int>(random.integer(0, top));
        if (fill == Fill::kExtreme) u = n % 3 == 0 ? 0 : n % 3 == 1 ? top : (k % 2 ? 0 : top);
        d.u[static_cast<std::size_t>(n * c.k + k)] = u;
      }
      set_weight(d, n, k, u);
    }
    for (std::int64_t g = 0; n < c.n && g < d.weight_groups; ++g) {
      const std::int64_t at = (n / 16 * d.weight_groups + g) * 16 + n % 16;
      d.scales[at] = rrs::to_f16(0.01f * (random.uniform() + (g % 2 ? -1.5f : 1.5f)));
      if (c.offsets) d.offsets[at] = 0.1f * random.uniform();
    }
  }
}

inline void fill_activations(GemmData& d, Fill fill, Random& random) {
  const GemmCase& c = d.c;
  const int q = c.activation_bits == 8 ? 127 : 7;
  d.codes = Aligned<std::int8_t>(c.m * d.k_padded);
  d.x = Aligned<float>(d.is_float() ? c.m * d.k_padded : 0);
  d.sums = Aligned<std::int32_t>(c.m * d.groups);
  d.s = Aligned<float>(c.m * d.activation_groups);
  d.token = Aligned<float>(c.m);
  for (std::int64_t t = 0; t < c.m; ++t) {
    for (std::int64_t k = 0; k < c.k; ++k) {
      int code = static_cast<int>(random.integer(-q - 1, q));
      if (fill == Fill::kExtreme)
        code = t % 3 == 0 ? -q - 1 : t % 3 == 1 ? q : (k % 2 ? q : -q - 1);
      d.codes[t * d.k_padded + k] = static_cast<std::int8_t>(code);
      d.sums[t * d.groups + group_index(k, d.inner)] += code;
      if (d.is_float()) d.x[t * d.k_padded + k] = random.normal();
    }
    for (std::int64_t g = 0; g < d.activation_groups; ++g) {
      d.s[t * d.activation_groups + g] = (g % 3 == 1 ? -1.0f : 1.0f) * (2.0f + random.uniform());
    }
    d.token[t] = 1.0f + 0.5f * random.uniform();
  }
}

inline GemmData make_gemm_data(GemmCase c, Fill fill = Fill::kRandom, std::uint64_t seed = 1) {
  GemmData d{};
  if (c.activation_bits == 16) c.activation_group = c.weight_group;
  d.c = c;
  d.inner = rrs::inner_group(c.activation_group, c.weight_group);
  d.k_padded = rrs::padded_inputs(c.k);
  d.groups = rrs::group_count(c.k, d.inner);
  d.activation_groups = rrs::group_count(c.k, c.activation_group);
  d.weight_groups = rrs::group_count(c.k, c.weight_group);
  d.panels = rrs::panel_count(c.n);
  Random random(seed);
  fill_activations(d, fill, random);
  fill_weights(d, fill, random);
  d.bias = Aligned<float>(c.n);
  for (std::int64_t n = 0; n < c.n; ++n) d.bias[n] = random.normal();
  return d;
}

// Inner groups per outer group; a row group has them all.
inline std::int64_t inner_per(const GemmData& d, int outer) {
  if (outer == rrs::kRowGroup) return d.groups > 0 ? d.groups : 1;
  return outer / (d.inner == rrs::kRowGroup ? outer : d.inner);
}

inline const rrs::GemmKernel& kernel_of(const rrs::GemmKernels& k, const GemmCase& c) {
  if (c.activation_bits == 16) return c.weight_bits == 8 ? k.w8a16 : k.w4a16;
  if (c.weight_bits == 8) return k.w8a8;
  return c.activation_bits == 8 ? k.w4a8 : k.w4a4;
}

// The activations of a problem, packed for one level.
struct PackedTiles {
  rrs::RowTiles tiles;
  Aligned<std::int8_t> codes;
  Aligned<float> x;
  Aligned<std::int32_t> sums;
  Aligned<float> s;
};

template <class T>
void transpose_tile(const T* in, std::int64_t groups, int rows, T* out) {
  for (std::int64_t g = 0; g < groups; ++g) {
    for (int r = 0; r < rows; ++r) out[g * rows + r] = in[r * groups + g];
  }
}

inline PackedTiles pack_tiles(const GemmData& d, const rrs::PackKernels& pack, int max_rows) {
  PackedTiles p;
  const std::int64_t kp = d.k_padded;
  p.tiles = rrs::make_row_tiles(d.c.m, max_rows);
  p.codes = Aligned<std::int8_t>(d.is_float() ? 0 : d.c.m * kp);
  p.x = Aligned<float>(d.is_float() ? d.c.m * kp : 0);
  p.sums = Aligned<std::int32_t>(d.c.m * d.groups);
  p.s = Aligned<float>(d.c.m * d.activation_groups);
  for (std::int64_t i = 0; i < p.tiles.tiles; ++i) {
    const std::int64_t row = p.tiles.first_row(i);
    const int rows = p.tiles.rows_in(i);
    if (d.is_float()) {
      pack.floats(d.x.get() + row * kp, kp, rows, kp, p.x.get() + row * kp);
    } else if (d.c.activation_bits == 4 && d.c.weight_bits == 4) {
      pack.codes_a4(d.codes.get() + row * kp, kp, rows, d.inner, kp, p.codes.get() + row * kp);
    } else {
      pack.codes_a8(d.codes.get() + row * kp, kp, rows, d.inner, kp, p.codes.get() + row * kp);
    }
    transpose_tile(d.sums.get() + row * d.groups, d.groups, rows, p.sums.get() + row * d.groups);
    transpose_tile(d.s.get() + row * d.activation_groups, d.activation_groups, rows,
                   p.s.get() + row * d.activation_groups);
  }
  return p;
}

inline rrs::GemmProblem gemm_problem(const GemmData& d, const PackedTiles& t) {
  rrs::GemmProblem p;
  p.tiles = t.tiles;
  p.n = d.c.n;
  p.k_padded = d.k_padded;
  p.inner_group = d.inner;
  p.inner_groups = d.groups;
  p.inner_per_weight = inner_per(d, d.c.weight_group);
  p.inner_per_activation = inner_per(d, d.c.activation_group);
  p.float_activations = d.is_float();
  p.activations = d.is_float() ? static_cast<const void*>(t.x.get()) : t.codes.get();
  p.code_sums = t.sums.get();
  p.activation_scales = t.s.get();
  p.activation_groups = d.activation_groups;
  p.token_scales = d.token.get();
  p.weights = d.weights.get();
  p.panel_bytes = rrs::panel_bytes(d.c.k, d.c.weight_bits);
  p.weight_scales = d.scales.get();
  p.weight_offsets = d.offsets.get();
  p.weight_groups = d.weight_groups;
  return p;
}

// The same problem for reference/gemm.hpp.
inline rrs::reference::GemmInputs reference_inputs(const GemmData& d) {
  rrs::reference::GemmInputs in;
  const GemmCase& c = d.c;
  in.m = c.m, in.n = c.n, in.k = c.k;
  in.activation_group = c.activation_group;
  in.weight_group = c.weight_group;
  in.zero = c.weight_bits == 8 ? 128 : 8;
  for (std::int64_t t = 0; t < c.m; ++t) {
    for (std::int64_t k = 0; k < c.k; ++k) {
      const std::int64_t at = t * d.k_padded + k;
      in.x.push_back(d.is_float() ? static_cast<double>(d.x[at]) : d.codes[at]);
    }
    in.a.push_back(static_cast<double>(d.token[t]));
  }
  if (!d.is_float()) {
    for (std::int64_t i = 0; i < d.s.size(); ++i) in.s.push_back(static_cast<double>(d.s[i]));
  }
  in.u.assign(d.u.begin(), d.u.end());
  for (std::int64_t n = 0; n < c.n; ++n) {
    for (std::int64_t g = 0; g < d.weight_groups; ++g) {
      const std::int64_t at = (n / 16 * d.weight_groups + g) * 16 + n % 16;
      in.v.push_back(static_cast<double>(rrs::to_f32(d.scales[at])));
      if (c.offsets) in.offsets.push_back(static_cast<double>(d.offsets[at]));
    }
  }
  return in;
}

// Y as f32, at one level.
template <class Executor>
std::vector<float> run_gemm_f32(const GemmData& d, const rrs::KernelTable& table,
                                const Executor& executor,
                                const rrs::GemmBlocking& blocking = rrs::GemmBlocking{}) {
  const rrs::GemmKernel& kernel = kernel_of(table.gemm, d.c);
  const PackedTiles tiles = pack_tiles(d, table.pack, kernel.max_rows);
  rrs::GemmProblem p = gemm_problem(d, tiles);
  std::vector<float> y(static_cast<std::size_t>(d.c.m * d.c.n), -1.0f);
  p.output.y = y.data();
  p.output.row_stride = d.c.n;
  rrs::run_gemm(table, kernel, p, executor, blocking);
  return y;
}

}  // namespace rrs_test
