// Any scheme, shape and stride through linear(): an error, or the same bits at every level and the
// reference's result within one code per input.
#include "fuzz.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "rrs/reference/linear.hpp"
#include "rrs/rrs.hpp"

namespace {

struct Layer {
  rrs::Scheme scheme;
  std::int64_t m = 0, n = 0, k = 0, x_stride = 0, y_stride = 0;
  bool wild = false;  // X from raw bits: NaN, infinities, denormals
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
  s.weight.scale = rrs::WeightScale::kAbsmax;
  return s;
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
  l.w.resize(static_cast<std::size_t>(l.n * l.k));
  for (float& v : l.x) v = l.wild ? rrs::float_from_bits(in->take<std::uint32_t>()) : next();
  for (float& v : l.w) v = next();
  if (in->range(0, 1) == 1) {
    l.bias.resize(static_cast<std::size_t>(l.n));
    for (float& v : l.bias) v = next();
    l.gemm.bias = l.bias.data();
  }
  return l;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool both_nan = a[i] != a[i] && b[i] != b[i];
    if (!both_nan && rrs::float_bits(a[i]) != rrs::float_bits(b[i])) return false;
  }
  return true;
}

// |Y - reference| is at most one code step per input, plus rounding.
void compare_with_reference(const Layer& l, const rrs::WeightView& w, const std::vector<float>& y) {
  std::vector<float> x;
  for (std::int64_t t = 0; t < l.m; ++t) {
    x.insert(x.end(), l.x.begin() + t * l.x_stride, l.x.begin() + t * l.x_stride + l.k);
  }
  const std::vector<double> expected = rrs::reference::linear(x.data(), l.m, w, l.scheme);
  const std::vector<double> weights = rrs::reference::dequantize(w);
  const std::vector<double> rows =
      rrs::reference::dequantized_activations(x.data(), l.m, l.k, l.scheme);
  for (std::int64_t t = 0; t < l.m; ++t) {
    double largest = 0.0;  // no step is larger than the largest value it represents
    for (std::int64_t k = 0; k < l.k; ++k) {
      largest = (std::max)(largest, std::abs(rows[static_cast<std::size_t>(t * l.k + k)]));
    }
    for (std::int64_t n = 0; n < l.n; ++n) {
      double weight = 0.0;
      for (std::int64_t k = 0; k < l.k; ++k) {
        weight += std::abs(weights[static_cast<std::size_t>(n * l.k + k)]);
      }
      const double bias = l.bias.empty() ? 0.0 : l.bias[static_cast<std::size_t>(n)];
      const double old = l.gemm.accumulate ? 1.0 : 0.0;
      const double want = expected[static_cast<std::size_t>(t * l.n + n)] + bias + old;
      const double got = y[static_cast<std::size_t>(t * l.y_stride + n)];
      fuzz::require(
          std::abs(got - want) <= 1.001 * largest * weight + 1e-5 * (1.0 + std::abs(want)),
          "within one code per input of the reference");
    }
  }
}

rrs::Status run(const Layer& l, const rrs::WeightView& w, rrs::Isa isa, std::vector<float>* y) {
  rrs::Workspace ws(rrs::workspace_bytes(l.m, l.k, l.scheme, l.n));
  rrs::ActivationOptions options;
  options.isa = isa;
  y->assign(static_cast<std::size_t>(l.m * (l.n + 3)), 1.0f);
  return rrs::linear(rrs::MatrixView<const float>(l.x.data(), l.m, l.k, l.x_stride), w,
                     rrs::MatrixView<float>(y->data(), l.m, l.n, l.y_stride), ws, {}, options,
                     l.gemm);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Bytes in(data, size);
  const Layer l = take_layer(&in);
  const rrs::Result<rrs::PreparedWeight> w =
      rrs::prepare_weight(rrs::MatrixView<const float>(l.w.data(), l.n, l.k), l.scheme);
  if (!w) return 0;
  std::vector<float> first, y;
  const rrs::Status status = run(l, *w, rrs::Isa::kScalar, &first);
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
