// Bad input: every entry point names the argument, the value and the limit, and leaves outputs
// alone.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "rrs/pipeline/weight_file.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/layer.hpp"

namespace {

using rrs::MatrixView;
using rrs::Status;
using rrs::StatusCode;
using rrs_test::LayerData;
using rrs_test::make_layer;
using rrs_test::prepare;

constexpr float kUntouched = -12345.0f;

// One good call, whose arguments a case spoils one at a time.
struct Call {
  LayerData d = make_layer(5, 20, 64, 1);
  rrs::Scheme scheme = rrs::presets::rrs();
  rrs::PreparedWeight weight = prepare(d, scheme);
  std::vector<float> y = std::vector<float>(5 * 20, kUntouched);
  rrs::Workspace ws = rrs::Workspace(rrs::workspace_bytes(5, 64, scheme));
  MatrixView<const float> X = d.X();
  MatrixView<float> Y = {y.data(), 5, 20};
  rrs::ActivationOptions activation;
  rrs::GemmOptions gemm;

  Status run() {
    return rrs::linear(X, weight.view(), Y, ws, rrs::SerialExecutor{}, activation, gemm);
  }
  bool untouched() const {
    for (float v : y) {
      if (v != kUntouched) return false;
    }
    return true;
  }
};

template <class Spoil>
void expect_refused(const char* argument, StatusCode code, const Spoil& spoil) {
  Call call;
  spoil(call);
  const Status status = call.run();
  EXPECT_EQ(status.code, code) << argument << ": " << status.message();
  EXPECT_STREQ(status.argument, argument) << status.message();
  EXPECT_GT(std::strlen(status.rule), 5u);
  EXPECT_TRUE(call.untouched()) << argument;
}

std::vector<float> run(const rrs::PreparedWeight& w, const std::vector<float>& x, std::int64_t m,
                       Status* status);

TEST(BadInput, GoodCallIsGood) {
  Call call;
  EXPECT_TRUE(call.run().ok());
  EXPECT_FALSE(call.untouched());
}

TEST(BadInput, Views) {
  const StatusCode bad = StatusCode::kInvalidArgument;
  expect_refused("X.data", bad, [](Call& c) { c.X.data = nullptr; });
  expect_refused("X.rows", bad, [](Call& c) { c.X.rows = -1; });
  expect_refused("X.cols", bad, [](Call& c) { c.X.cols = 63; });
  expect_refused("X.row_stride", bad, [](Call& c) { c.X.row_stride = 63; });
  expect_refused("X.row_stride", bad, [](Call& c) { c.X.row_stride = INT64_MAX / 2; });
  expect_refused("Y.data", bad, [](Call& c) { c.Y.data = nullptr; });
  expect_refused("Y.rows", bad, [](Call& c) { c.Y.rows = 4; });
  expect_refused("Y.cols", bad, [](Call& c) { c.Y.cols = 19; });
  expect_refused("Y.row_stride", bad, [](Call& c) { c.Y.row_stride = 19; });
  expect_refused("Y.data", bad, [](Call& c) {  // overlaps X by its last element
    c.Y.data = c.d.x.data() + c.d.x.size() - 1;
  });
}

template <class T>
T* beside(T* data) {  // between two elements
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(data) + 1);
}

// To an element at least: what scalar code reads is a float, not four bytes.
TEST(BadInput, AddressesBetweenElements) {
  const StatusCode bad = StatusCode::kInvalidArgument;
  expect_refused("X.data", bad, [](Call& c) { c.X.data = beside(c.X.data); });
  expect_refused("Y.data", bad, [](Call& c) { c.Y.data = beside(c.Y.data); });
  Call call;
  call.X.data = beside(call.X.data);
  EXPECT_EQ(call.run().value, 1);
  EXPECT_EQ(call.run().limit, 4);
  const std::vector<rrs::f16> x(5 * 64 + 1, rrs::f16{0});
  const MatrixView<const rrs::f16> odd(beside(x.data()), 5, 64), even(x.data() + 1, 5, 64);
  const Status half = rrs::linear(odd, call.weight.view(), call.Y, call.ws);
  EXPECT_STREQ(half.argument, "X.data") << half.message();
  EXPECT_EQ(half.limit, 2);
  EXPECT_TRUE(call.untouched());
  EXPECT_TRUE(rrs::linear(even, call.weight.view(), call.Y, call.ws).ok());
  MatrixView<const float> w = call.d.W();
  w.data = beside(w.data);
  EXPECT_STREQ(rrs::prepare_weight(w, call.scheme).status().argument, "W.data");
  const std::vector<std::uint8_t> codes(33, 7);  // codes have no address between them
  const std::vector<float> scales(2, 1.0f);
  EXPECT_TRUE(rrs::weight_from_codes(MatrixView<const std::uint8_t>(codes.data() + 1, 1, 32),
                                     MatrixView<const float>(scales.data(), 1, 1))
                  .ok());
  EXPECT_STREQ(rrs::weight_from_codes(MatrixView<const std::uint8_t>(codes.data() + 1, 1, 32),
                                      MatrixView<const float>(beside(scales.data()), 1, 1))
                   .status()
                   .argument,
               "scales.data");
  const MatrixView<float> none(beside(call.y.data()), 0, 20);  // nothing is read there
  EXPECT_TRUE(
      rrs::linear(MatrixView<const float>(nullptr, 0, 64), call.weight.view(), none, call.ws).ok());
}

TEST(BadInput, OverlapWithWeightOrWorkspace) {
  Call call;
  rrs::PreparedActivation a;
  ASSERT_TRUE(rrs::smooth_rotate_quantize(call.X, call.scheme, call.ws, a).ok());
  float* inside = reinterpret_cast<float*>(call.ws.data());
  EXPECT_STREQ(rrs::gemm(a, call.weight, MatrixView<float>(inside, 5, 20)).argument, "Y.data");
  auto* panels = const_cast<std::uint8_t*>(call.weight.view().panels);
  EXPECT_STREQ(rrs::gemm(a, call.weight, MatrixView<float>(reinterpret_cast<float*>(panels), 5, 20))
                   .argument,
               "Y.data");
  EXPECT_STREQ(
      rrs::smooth_rotate_quantize(MatrixView<const float>(inside, 1, 64), call.scheme, call.ws, a)
          .argument,
      "X.data");
}

// linear finds every overlap before it writes a byte.
TEST(BadInput, LinearChecksOverlapsBeforeItWrites) {
  {
    Call call;
    std::memset(call.ws.data(), 0x11, call.ws.bytes());
    const std::vector<std::byte> before(call.ws.data(), call.ws.data() + call.ws.bytes());
    call.Y.data = reinterpret_cast<float*>(call.ws.data());
    EXPECT_STREQ(call.run().argument, "Y.data");
    EXPECT_EQ(std::memcmp(before.data(), call.ws.data(), before.size()), 0);
  }
  {
    Call call;
    const std::size_t size = rrs::serialized_bytes(call.weight.view());
    call.ws = rrs::Workspace(rrs::workspace_bytes(5, 64, call.scheme) + size);
    std::memset(call.ws.data(), 0x11, call.ws.bytes());
    ASSERT_TRUE(rrs::serialize_weight(call.weight.view(), call.ws.data(), size).ok());
    const std::vector<std::byte> before(call.ws.data(), call.ws.data() + call.ws.bytes());
    const rrs::Result<rrs::WeightView> inside = rrs::view_weight(call.ws.data(), size);
    ASSERT_TRUE(inside.ok());
    EXPECT_STREQ(rrs::linear(call.X, inside.value(), call.Y, call.ws).argument, "workspace");
    EXPECT_EQ(std::memcmp(before.data(), call.ws.data(), before.size()), 0);
    EXPECT_TRUE(call.untouched());
  }
  expect_refused("Y.data", StatusCode::kInvalidArgument,
                 [](Call& c) { c.gemm.bias = c.y.data() + 99; });
}

TEST(BadInput, SizesThatWouldWrap) {
  const rrs::Scheme s = rrs::presets::rrs();
  EXPECT_EQ(rrs::workspace_bytes(1, INT64_MAX, s), 0u);
  EXPECT_EQ(rrs::workspace_bytes(INT64_MAX, 64, s), 0u);
  EXPECT_EQ(rrs::rotate_workspace_bytes(1, INT64_MAX, s.rotation), 0u);
  EXPECT_FALSE(rrs::explain(s, 1, 1, INT64_MAX).status.ok());
  EXPECT_TRUE(rrs::explain(s, INT64_MAX, 1, 64).status.ok());
  rrs::Workspace ws(64);
  rrs::PreparedActivation a;
  const MatrixView<const float> wide(nullptr, 0, INT64_MAX);
  EXPECT_STREQ(rrs::smooth_rotate_quantize(wide, s, ws, a).argument, "K");
}

// With offsets the integer sum runs over 0..255: the bound on K is tighter than without.
TEST(BadInput, EightBitOffsetsBoundK) {
  const std::int64_t limit = INT32_MAX / (255 * 128);
  for (const std::int64_t k : {limit, limit + 1}) {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(k), 255), zero(1, 0);
    std::vector<float> scale(1, 1.0f), x(codes.size(), 1.0f);
    rrs::CodesOptions options;
    options.bits = 8;
    options.group = rrs::kRowGroup;
    options.activation = rrs::presets::smoothquant_w8a8().activation;
    options.zero_points = MatrixView<const std::uint8_t>(zero.data(), 1, 1);
    const auto w = rrs::weight_from_codes(MatrixView<const std::uint8_t>(codes.data(), 1, k),
                                          MatrixView<const float>(scale.data(), 1, 1), options);
    ASSERT_EQ(w.ok(), k == limit) << w.status().message();
    if (!w.ok()) {
      EXPECT_EQ(w.status().limit, limit);
      continue;
    }
    rrs_test::each_isa([&](const rrs::KernelTable&) {
      Status status;
      const std::vector<float> y = run(*w, x, 1, &status);
      EXPECT_NEAR(static_cast<double>(y[0]), 255.0 * static_cast<double>(k), 0.01 * 255 * 65793);
    });
  }
}

TEST(BadInput, Workspace) {
  expect_refused("workspace", StatusCode::kWorkspaceTooSmall,
                 [](Call& c) { c.ws = rrs::Workspace(rrs::workspace_bytes(5, 64, c.scheme) - 1); });
  expect_refused("workspace", StatusCode::kWorkspaceTooSmall,
                 [](Call& c) { c.ws = rrs::Workspace(); });
  Call call;
  call.ws = rrs::Workspace(10);
  const Status status = call.run();
  EXPECT_EQ(status.value, 10);
  EXPECT_EQ(status.limit, static_cast<std::int64_t>(rrs::workspace_bytes(5, 64, call.scheme)));
}

TEST(BadInput, WorkspaceThatIsExactlyEnoughIsEnoughForEveryScheme) {
  int cases = 0;
  for (const rrs_test::NamedScheme& named : rrs_test::integer_schemes()) {
    const LayerData d = make_layer(21, 20, 100, 1);
    const rrs::PreparedWeight w = prepare(d, named.scheme);
    const std::size_t bytes = rrs::workspace_bytes(21, 100, named.scheme, 20);
    std::vector<unsigned char> memory(bytes + 128, 0xa5);
    unsigned char* base =
        memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64);
    rrs::Workspace ws(base, bytes);
    std::vector<float> y(21 * 20);
    const Status status = rrs::linear(d.X(), w.view(), MatrixView<float>(y.data(), 21, 20), ws);
    ASSERT_TRUE(status.ok()) << named.name << ": " << status.message();
    for (const unsigned char* p = base + bytes; p < memory.data() + memory.size(); ++p) {
      ASSERT_EQ(*p, 0xa5) << named.name << " wrote beyond its workspace";
    }
    // One byte less is refused.
    rrs::Workspace small(base, bytes - 1);
    EXPECT_EQ(rrs::linear(d.X(), w.view(), MatrixView<float>(y.data(), 21, 20), small).code,
              StatusCode::kWorkspaceTooSmall)
        << named.name;
    ++cases;
  }
  EXPECT_GE(cases, 27);
}

TEST(BadInput, WorkspaceOfImpossibleSizesIsZero) {
  const rrs::Scheme s = rrs::presets::rrs();
  EXPECT_EQ(rrs::workspace_bytes(-1, 64, s), 0u);
  EXPECT_EQ(rrs::workspace_bytes(1, 0, s), 0u);
  EXPECT_EQ(rrs::workspace_bytes(INT64_MAX / 4, 1 << 20, s), 0u);
  rrs::Scheme bad = s;
  bad.activation.bits = 3000;
  EXPECT_EQ(rrs::workspace_bytes(1, 64, bad), 0u);
}

// In blocks of 16 and behind the last one, at either end of the range.
TEST(BadInput, EveryPositionOfAPermutationIsChecked) {
  int refused = 0;
  for (const std::int64_t k : {1, 15, 16, 40, 64}) {
    std::vector<std::int32_t> p(static_cast<std::size_t>(k));
    for (std::size_t i = 0; i < p.size(); ++i) p[i] = static_cast<std::int32_t>(p.size() - 1 - i);
    EXPECT_TRUE(rrs::detail::validate_permutation(p.data(), k, "p").ok()) << k;
    for (std::int32_t& index : p) {
      const std::int32_t good = index;
      for (const std::int32_t value : {-1, static_cast<std::int32_t>(k), INT32_MIN, INT32_MAX}) {
        index = value;
        const Status status = rrs::detail::validate_permutation(p.data(), k, "p");
        EXPECT_EQ(status.code, StatusCode::kInvalidArgument) << k << " " << value;
        refused += !status.ok();
      }
      index = good;
    }
  }
  EXPECT_EQ(refused, 4 * (1 + 15 + 16 + 40 + 64));
}

TEST(BadInput, SequencesAndChannels) {
  const StatusCode bad = StatusCode::kInvalidArgument;
  static const std::int64_t descending[] = {3, 2};
  static const std::int64_t beyond[] = {0, 6};
  expect_refused("sequence_starts", bad, [](Call& c) {
    c.activation.sequence_starts = descending;
    c.activation.sequences = 2;
  });
  expect_refused("sequence_starts", bad, [](Call& c) {
    c.activation.sequence_starts = beyond;
    c.activation.sequences = 2;
  });
  expect_refused("sequence_starts.rows", bad, [](Call& c) { c.activation.sequences = 2; });
  static std::vector<std::int32_t> wild(64, 0);
  wild[63] = 64;
  expect_refused("channels.input_permutation", bad,
                 [](Call& c) { c.activation.channels.input_permutation = wild.data(); });
  static std::vector<std::int32_t> zeros(64, 0);
  expect_refused("channels", bad, [](Call& c) {  // in range, but not the weight's
    c.activation.channels.input_permutation = zeros.data();
  });
  expect_refused("channels.group_permutation", bad, [](Call& c) {  // window one has no use for it
    c.activation.channels.group_permutation = zeros.data();
  });
  static std::vector<float> divisor(64, 1.0f);
  for (const float value : {0.0f, -0.0f, -1.0f, INFINITY, std::nanf("")}) {
    divisor[7] = value;
    expect_refused("channels.divisor", bad,
                   [](Call& c) { c.activation.channels.divisor = divisor.data(); });
  }
}

TEST(BadInput, FrozenScales) {
  rrs::Scheme frozen = rrs::presets::rrs();
  frozen.activation.window.kind = rrs::WindowKind::kFrozen;
  for (const float value : {0.0f, -0.0f, -2.0f, INFINITY, -INFINITY, std::nanf("")}) {
    Call call;
    call.weight = prepare(call.d, frozen);
    std::vector<float> scales(2, 1.0f);
    scales[1] = value;
    call.activation.channels.frozen_scales = scales.data();
    const Status status = call.run();
    EXPECT_EQ(status.code, StatusCode::kInvalidArgument) << value;
    EXPECT_STREQ(status.argument, "channels.frozen_scales");
    EXPECT_EQ(status.value, 1);
    EXPECT_TRUE(call.untouched());
  }
  Call call;
  call.weight = prepare(call.d, frozen);
  EXPECT_STREQ(call.run().argument, "channels.frozen_scales");
}

TEST(BadInput, WeightViews) {
  const auto refused = [](const char* argument, auto spoil) {
    Call call;
    rrs::WeightView view = call.weight.view();
    spoil(view);
    const Status status = rrs::linear(call.X, view, call.Y, call.ws);
    EXPECT_FALSE(status.ok()) << argument;
    EXPECT_STREQ(status.argument, argument) << status.message();
    EXPECT_TRUE(call.untouched());
  };
  refused("W.panels", [](rrs::WeightView& w) { w.panels = nullptr; });
  refused("W.panels", [](rrs::WeightView& w) { w.panels += 4; });
  refused("W.panels", [](rrs::WeightView& w) { w.scales = nullptr; });
  refused("W.panel_bytes", [](rrs::WeightView& w) { w.panel_bytes -= 64; });
  refused("W.groups", [](rrs::WeightView& w) { w.groups = 1; });
  refused("X.cols", [](rrs::WeightView& w) { w.k = 65; });
  refused("W.n", [](rrs::WeightView& w) { w.n = -1; });
  refused("weight.bits", [](rrs::WeightView& w) { w.scheme.weight.bits = 5; });
  refused("activation.group", [](rrs::WeightView& w) { w.scheme.activation.group = 33; });
}

TEST(BadInput, WeightAndActivationMustBelongTogether) {
  Call call;
  rrs::PreparedActivation a;
  EXPECT_STREQ(rrs::gemm(a, call.weight, call.Y).argument, "activation");
  ASSERT_TRUE(rrs::smooth_rotate_quantize(call.X, call.scheme, call.ws, a).ok());
  const auto mismatch = [&](const char* argument, auto change) {
    rrs::Scheme scheme = call.scheme;
    change(scheme);
    const rrs::PreparedWeight other = prepare(call.d, scheme);
    EXPECT_STREQ(rrs::gemm(a, other, call.Y).argument, argument);
  };
  mismatch("rotation", [](rrs::Scheme& s) { s.rotation.kind = rrs::RotationKind::kNone; });
  mismatch("rotation", [](rrs::Scheme& s) { s.rotation.block = 64; });
  mismatch("rotation", [](rrs::Scheme& s) { s.rotation.random_signs = true; });
  mismatch("weight.bits", [](rrs::Scheme& s) { s.weight.bits = 8; });
  mismatch("weight.group", [](rrs::Scheme& s) { s.weight.group = 64; });
  EXPECT_TRUE(call.untouched());
  // one 4-bit weight serves every activation precision
  for (const int bits : {2, 4, 6, 8, 16}) {
    rrs::Scheme scheme = call.scheme;
    scheme.activation.bits = bits;
    rrs::Workspace ws(rrs::workspace_bytes(5, 64, scheme));
    ASSERT_TRUE(rrs::smooth_rotate_quantize(call.X, scheme, ws, a).ok());
    EXPECT_TRUE(rrs::gemm(a, call.weight, call.Y).ok()) << bits;
  }
}

TEST(BadInput, SimulatedSchemesAreRefused) {
  Call call;
  call.scheme = rrs::presets::rs();
  rrs::PreparedActivation a;
  EXPECT_EQ(rrs::smooth_rotate_quantize(call.X, call.scheme, call.ws, a).code,
            StatusCode::kSimulatedOnly);
  EXPECT_EQ(rrs::prepare_weight(call.d.W(), call.scheme).status().code, StatusCode::kSimulatedOnly);
}

TEST(BadInput, EmptySizesAreFine) {
  Call call;
  rrs::Workspace ws(rrs::workspace_bytes(0, 64, call.scheme));
  EXPECT_TRUE(rrs::linear(MatrixView<const float>(nullptr, 0, 64), call.weight.view(),
                          MatrixView<float>(nullptr, 0, 20), ws)
                  .ok());
  rrs::Result<rrs::PreparedWeight> none =
      rrs::prepare_weight(MatrixView<const float>(nullptr, 0, 64), call.scheme);
  ASSERT_TRUE(none.ok()) << none.status().message();
  EXPECT_TRUE(rrs::linear(call.X, none->view(), MatrixView<float>(nullptr, 5, 0), call.ws).ok());
  EXPECT_TRUE(call.untouched());
}

// ---- non-finite rows and extreme values, at every level
// --------------------------------------------

std::vector<float> run(const rrs::PreparedWeight& w, const std::vector<float>& x, std::int64_t m,
                       Status* status) {
  std::vector<float> y(static_cast<std::size_t>(m * w.n()), kUntouched);
  rrs::Workspace ws(rrs::workspace_bytes(m, w.k(), w.scheme(), w.n()));
  *status = rrs::linear(MatrixView<const float>(x.data(), m, w.k()), w.view(),
                        MatrixView<float>(y.data(), m, w.n()), ws);
  return y;
}

bool is_quiet_nan(float x) { return (rrs::float_bits(x) & 0x7fc00000u) == 0x7fc00000u; }

// Rows with NaN, Inf or a value that overflows in the rotation are NaN; the others are as if that
// row were absent.
TEST(NonFinite, RowsAreExcludedAndReported) {
  int cases = 0;
  const float signalling = rrs::float_from_bits(0x7f800001u);
  for (const rrs_test::NamedScheme& named : rrs_test::integer_schemes()) {
    const LayerData d = make_layer(6, 18, 128, 2);
    const rrs::PreparedWeight w = prepare(d, named.scheme);
    std::vector<float> without(d.x.begin(), d.x.end());
    without.erase(without.begin() + 3 * 128, without.begin() + 4 * 128);
    rrs_test::each_isa([&](const rrs::KernelTable&) {
      Status status;
      const std::vector<float> expected = run(w, without, 5, &status);
      ASSERT_TRUE(status.ok());
      for (const float bad : {std::nanf(""), -std::nanf(""), signalling, INFINITY, -INFINITY}) {
        std::vector<float> x = d.x;
        x[3 * 128 + 77] = bad;
        const std::vector<float> y = run(w, x, 6, &status);
        ASSERT_EQ(status.code, StatusCode::kNonFinite) << named.name;
        ASSERT_EQ(status.value, 3);
        for (int n = 0; n < 18; ++n)
          ASSERT_TRUE(is_quiet_nan(y[3 * 18 + static_cast<std::size_t>(n)]));
        ASSERT_TRUE(rrs_test::bits_equal(y.data(), expected.data(), 3 * 18)) << named.name;
        ASSERT_TRUE(rrs_test::bits_equal(y.data() + 4 * 18, expected.data() + 3 * 18, 2 * 18))
            << named.name;
        ++cases;
      }
    });
  }
  EXPECT_EQ(static_cast<std::size_t>(cases),
            5 * rrs_test::integer_schemes().size() * rrs_test::supported_isas().size());
}

TEST(NonFinite, OverflowInTheRotationCountsAsNonFinite) {
  const LayerData d = make_layer(2, 18, 128, 2);
  const rrs::PreparedWeight w = prepare(d, rrs::presets::rrs());
  rrs_test::each_isa([&](const rrs::KernelTable&) {
    std::vector<float> x = d.x;
    for (int k = 0; k < 128; ++k) x[static_cast<std::size_t>(128 + k)] = 3e38f;
    Status status;
    const std::vector<float> y = run(w, x, 2, &status);
    EXPECT_EQ(status.code, StatusCode::kNonFinite);
    EXPECT_EQ(status.value, 1);
    EXPECT_TRUE(is_quiet_nan(y[18]));
    EXPECT_FALSE(std::isnan(y[0]));
  });
}

TEST(Extremes, ZeroAndDenormalRowsGiveZero) {
  for (const rrs_test::NamedScheme& named : rrs_test::integer_schemes()) {
    if (named.scheme.activation.bits == rrs::kActivationFloat) continue;
    const LayerData d = make_layer(3, 18, 128, 2);
    const rrs::PreparedWeight w = prepare(d, named.scheme);
    rrs_test::each_isa([&](const rrs::KernelTable&) {
      std::vector<float> x(3 * 128, 0.0f);
      for (int k = 0; k < 128; ++k) {
        x[static_cast<std::size_t>(128 + k)] = k % 2 == 0 ? 1e-40f : -1e-40f;
        x[static_cast<std::size_t>(256 + k)] = -0.0f;
      }
      Status status;
      const std::vector<float> y = run(w, x, 3, &status);
      ASSERT_TRUE(status.ok()) << named.name;
      for (const float v : y) ASSERT_EQ(v, 0.0f) << named.name;
    });
  }
}

// A single value of 1e30 in a row: finite everywhere, and that output is right to quantization
// accuracy (a lone spike is one step of its group's scale in every scheme with range full or
// symmetric).
TEST(Extremes, OneHugeSpikeStaysFinite) {
  for (const rrs_test::NamedScheme& named : rrs_test::integer_schemes()) {
    LayerData d = make_layer(3, 18, 128, 2);
    d.x[128 + 40] = 1e30f;
    const rrs::PreparedWeight w = prepare(d, named.scheme);
    std::vector<float> first;
    rrs_test::each_isa([&](const rrs::KernelTable&) {
      Status status;
      const std::vector<float> y = run(w, d.x, 3, &status);
      ASSERT_TRUE(status.ok()) << named.name << status.message();
      for (const float v : y) ASSERT_TRUE(std::isfinite(v)) << named.name;
      for (std::size_t n = 0; n < 18; ++n) {
        const double exact = 1e30 * static_cast<double>(d.w[n * 128 + 40]);
        ASSERT_LT(std::abs(static_cast<double>(y[18 + n]) - exact), 1.2e30) << named.name;
      }
      if (first.empty()) first = y;
      ASSERT_TRUE(rrs_test::bits_equal(y, first)) << named.name;
    });
  }
}

}  // namespace
