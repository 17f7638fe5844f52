// Any scheme, shape, stride and type through linear(): an error that leaves Y alone, or the same
// bits at every level. Then the scalar level against the reference: codes (linear_oracle.hpp), and
// Y against the exact product of those codes and the weight.
#include "fuzz.hpp"

#include <cmath>
#include <type_traits>
#include <vector>

#include "linear_oracle.hpp"
#include "rrs/reference/pack.hpp"
#include "rrs/rrs.hpp"

namespace {

struct Layer {
  rrs::Scheme scheme;
  std::int64_t m = 0, n = 0, k = 0, x_stride = 0, w_stride = 0, y_stride = 0;
  bool wild = false;  // X from raw bits: NaN, infinities, denormals
  rrs::ElementType x_type = rrs::ElementType::kF32, y_type = rrs::ElementType::kF32;
  std::vector<float> x, w, bias;
  rrs::GemmOptions gemm;
};

// Mostly values that exist, sometimes not.
rrs::Scheme take_scheme(fuzz::Bytes* in) {
  constexpr int kGroups[] = {16, 32, 64, 128, 256, 0, 32, 24};
  constexpr int kBits[] = {2, 3, 4, 4, 5, 6, 8, 16, 7, 9};
  constexpr float kClips[] = {1.0f, 1.0f, 0.9f, 0.5f, 0.0f, 1.5f};
  rrs::Scheme s;
  s.rotation.kind = static_cast<rrs::RotationKind>(in->range(0, 3));
  s.rotation.block = kGroups[in->range(0, 7)];
  s.rotation.random_signs = in->range(0, 1) == 1;
  s.rotation.sign_seed = in->take<std::uint64_t>();
  s.activation.bits = kBits[in->range(0, 9)];
  s.activation.window.kind = static_cast<rrs::WindowKind>(in->range(0, 4));
  s.activation.window.rows = in->range(-1, 5);
  s.activation.group = kGroups[in->range(0, 7)];
  s.activation.range = static_cast<rrs::Range>(in->range(0, 2));
  s.activation.clip = kClips[in->range(0, 5)];
  s.activation.token_scale = in->range(0, 3) != 0;
  s.activation.floor = in->range(0, 3) == 0 ? 1e-5f : 0.0f;
  s.activation.exact_reference = in->range(0, 7) == 0;
  s.weight.bits = in->range(0, 3) == 0 ? 8 : 4;
  s.weight.group = kGroups[in->range(0, 7)];
  s.weight.range = static_cast<rrs::Range>(in->range(0, 1));
  return s;
}

float identity(float v) { return v; }

// Calls run(convert, back): f32 to the type and from it.
template <class Run>
auto with_type(rrs::ElementType type, const Run& run) {
  const auto from_f16 = [](rrs::f16 v) { return rrs::to_f32(v); };
  const auto from_bf16 = [](rrs::bf16 v) { return rrs::to_f32(v); };
  if (type == rrs::ElementType::kF16) return run(&rrs::to_f16, from_f16);
  if (type == rrs::ElementType::kBf16) return run(&rrs::to_bf16, from_bf16);
  return run(&identity, &identity);
}

// What was added to the target since the first seeds: behind everything else, 0 as it was.
void take_more(fuzz::Bytes* in, Layer* l) {
  l->w_stride = l->k + in->range(0, 3);
  const bool search = in->range(0, 7) == 7;
  l->scheme.weight.scale = search ? rrs::WeightScale::kSearch : rrs::WeightScale::kAbsmax;
  l->x_type = static_cast<rrs::ElementType>(in->range(0, 2));
  l->y_type = static_cast<rrs::ElementType>(in->range(0, 2));
  with_type(l->x_type, [&](auto convert, auto back) {
    for (float& v : l->x) v = back(convert(v));
  });
}

Layer take_layer(fuzz::Bytes* in) {
  Layer l;
  l.scheme = take_scheme(in);
  l.m = in->range(0, 20);
  l.n = in->range(0, 40);
  l.k = in->range(0, 7) == 0 ? in->range(256, 700) : in->range(1, 160);
  l.x_stride = l.k + in->range(-1, 3);
  l.y_stride = l.n + in->range(-1, 3);
  l.wild = in->range(0, 3) == 0;
  l.gemm.accumulate = in->range(0, 3) == 0;
  std::uint32_t state = in->take<std::uint32_t>();
  const auto next = [&state] {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31f;
  };
  l.x.resize(static_cast<std::size_t>(l.m * (l.k + 3)));
  l.w.resize(static_cast<std::size_t>(l.n * (l.k + 3)));
  for (float& v : l.x) v = l.wild ? rrs::float_from_bits(in->take<std::uint32_t>()) : next();
  for (float& v : l.w) v = next();
  if (in->range(0, 1) == 1) {
    l.bias.resize(static_cast<std::size_t>(l.n));
    for (float& v : l.bias) v = next();
    l.gemm.bias = l.bias.data();
  }
  take_more(in, &l);
  return l;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool both_nan = a[i] != a[i] && b[i] != b[i];
    if (!both_nan && rrs::float_bits(a[i]) != rrs::float_bits(b[i])) return false;
  }
  return true;
}

// linear() at a level; Y as floats, with all that lies between and behind its rows.
rrs::Status run(const Layer& l, const rrs::WeightView& w, rrs::Isa isa, std::vector<float>* y) {
  rrs::Workspace ws(rrs::workspace_bytes(l.m, w));
  rrs::ActivationOptions options;
  options.isa = isa;
  return with_type(l.x_type, [&](auto to_x, auto) {
    return with_type(l.y_type, [&](auto to_y, auto from_y) {
      std::vector<decltype(to_x(0.0f))> x;
      for (const float v : l.x) x.push_back(to_x(v));
      std::vector<decltype(to_y(0.0f))> typed(static_cast<std::size_t>(l.m * (l.n + 3)),
                                              to_y(1.0f));
      const rrs::MatrixView<const decltype(to_x(0.0f))> X(x.data(), l.m, l.k, l.x_stride);
      const rrs::MatrixView<decltype(to_y(0.0f))> Y(typed.data(), l.m, l.n, l.y_stride);
      const rrs::Status status = rrs::linear(X, w, Y, ws, {}, options, l.gemm);
      y->clear();
      for (const auto v : typed) y->push_back(from_y(v));
      return status;
    });
  });
}

// What no row owns still holds the 1 that it was filled with; after an error that is all of Y.
void require_untouched(const Layer& l, const rrs::Status& status, const std::vector<float>& y) {
  const bool written = status.ok() || status.code == rrs::StatusCode::kNonFinite;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(y.size()); ++i) {
    const bool inside = written && l.n > 0 && i / l.y_stride < l.m && i % l.y_stride < l.n;
    fuzz::require(inside || y[static_cast<std::size_t>(i)] == 1.0f, "nothing else is written");
  }
}

// |y - exact| within the bound of gemm/gemm.hpp (at most K + 3 roundings of terms that sum to
// `magnitude`), one rounding each for bias and old value, and that of Y's type.
void require_close(const Layer& l, double y, double exact, double magnitude, double added) {
  const double ulp = l.y_type == rrs::ElementType::kF16    ? 0x1p-11
                     : l.y_type == rrs::ElementType::kBf16 ? 0x1p-8
                                                           : 0x1p-24;
  const double smallest = l.y_type == rrs::ElementType::kF16 ? 0x1p-25 : 0x1p-100;
  const double terms = static_cast<double>(l.k + 3) * 0x1p-24 * magnitude;
  const double bound = terms + 0x1p-22 * added + 1.01 * ulp * std::abs(exact) + smallest;
  fuzz::require(std::abs(y - exact) <= 1.01 * bound, "Y is the product of codes and weight");
}

// `values`: what the kernel multiplies, [m][k]. The window of a call with f16 outputs stays finite:
// inputs and weights are below 1.
void compare_product(const Layer& l, const rrs::WeightView& w, const std::vector<double>& values,
                     const std::vector<float>& y) {
  const std::vector<double> weights = rrs::reference::dequantize(w);
  const double old = l.gemm.accumulate ? 1.0 : 0.0;
  for (std::int64_t t = 0; t < l.m; ++t) {
    for (std::int64_t n = 0; n < l.n; ++n) {
      double sum = 0.0, magnitude = 0.0;
      for (std::int64_t k = 0; k < l.k; ++k) {
        const double term = values[static_cast<std::size_t>(t * l.k + k)] *
                            weights[static_cast<std::size_t>(n * l.k + k)];
        sum += term;
        magnitude += std::abs(term);
      }
      const double bias =
          l.bias.empty() ? 0.0 : static_cast<double>(l.bias[static_cast<std::size_t>(n)]);
      require_close(l, static_cast<double>(y[static_cast<std::size_t>(t * l.y_stride + n)]),
                    sum + bias + old, magnitude, std::abs(bias) + old);
    }
  }
}

void compare_with_reference(const Layer& l, const rrs::WeightView& w, const std::vector<float>& y) {
  std::vector<float> x;
  for (std::int64_t t = 0; t < l.m; ++t) {
    x.insert(x.end(), l.x.begin() + t * l.x_stride, l.x.begin() + t * l.x_stride + l.k);
  }
  rrs::Workspace ws(rrs::workspace_bytes(l.m, w));
  rrs::ActivationOptions options;
  options.isa = rrs::Isa::kScalar;
  rrs::PreparedActivation a;
  const rrs::Status status = rrs::smooth_rotate_quantize(
      rrs::MatrixView<const float>(x.data(), l.m, l.k), l.scheme, ws, a, {}, options);
  fuzz::require(status.ok(), "what linear() prepared can be prepared");
  const fuzz::Dequantized seen = fuzz::dequantized(a);
  fuzz::compare_codes(x, l.m, l.k, l.scheme, seen);
  compare_product(l, w, seen.values, y);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Bytes in(data, size);
  const Layer l = take_layer(&in);
  const rrs::Result<rrs::PreparedWeight> w =
      rrs::prepare_weight(rrs::MatrixView<const float>(l.w.data(), l.n, l.k, l.w_stride), l.scheme);
  if (!w) return 0;
  std::vector<float> first, y;
  const rrs::Status status = run(l, *w, rrs::Isa::kScalar, &first);
  require_untouched(l, status, first);
  for (int i = 1; i < rrs::kIsaCount; ++i) {
    if (!rrs::isa_supported(static_cast<rrs::Isa>(i))) continue;
    const rrs::Status other = run(l, *w, static_cast<rrs::Isa>(i), &y);
    fuzz::require(other.code == status.code && other.value == status.value, "the same status");
    fuzz::require(same_bits(first, y), "the same bits at every level");
  }
  const bool frozen = l.scheme.activation.window.kind == rrs::WindowKind::kFrozen;
  if (status.ok() && !l.wild && !frozen) compare_with_reference(l, *w, first);
  return 0;
}
