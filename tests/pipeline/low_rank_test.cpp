// A layer with a low-rank branch: bits of the written order on every level, the double reference,
// shared activations, bad input.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "rrs/reference/linear.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/layer.hpp"
#include "support/low_rank.hpp"
#include "support/thread_executor.hpp"

namespace {

using rrs::MatrixView;
using rrs::PreparedWeight;
using rrs::StatusCode;
using rrs_test::attach;
using rrs_test::Call;
using rrs_test::Factors;
using rrs_test::kLowRankBits;
using rrs_test::LayerData;
using rrs_test::make_factors;
using rrs_test::run_linear;

// x~ as floats, without channels: what the library rotates.
std::vector<float> rotated(const LayerData& d, const rrs::Rotation& rotation) {
  std::vector<float> out(d.x.size());
  std::vector<unsigned char> memory(rrs::rotate_workspace_bytes(d.m, d.k, rotation));
  const rrs::Status status = rrs::rotate(d.X(), rotation, MatrixView<float>(out.data(), d.m, d.k),
                                         memory.data(), memory.size());
  EXPECT_TRUE(status.ok()) << status.message();
  return out;
}

// z = base; z = fma(u_j, A_nj, z), with u in its order.
std::vector<float> written_order(const LayerData& d, const Factors& f, const std::vector<float>& x,
                                 std::vector<float> z) {
  std::vector<float> u(static_cast<std::size_t>(f.rank));
  for (std::int64_t t = 0; t < d.m; ++t) {
    for (std::int64_t j = 0; j < f.rank; ++j) {
      float sum = 0.0f;
      for (std::int64_t k = 0; k < d.k; ++k) {
        sum = std::fma(x[static_cast<std::size_t>(t * d.k + k)],
                       f.down[static_cast<std::size_t>(j * d.k + k)], sum);
      }
      u[static_cast<std::size_t>(j)] = sum * f.s[static_cast<std::size_t>(j)];
    }
    for (std::int64_t n = 0; n < d.n; ++n) {
      float& y = z[static_cast<std::size_t>(t * d.n + n)];
      for (std::int64_t j = 0; j < f.rank; ++j) {
        y = std::fma(u[static_cast<std::size_t>(j)], f.up[static_cast<std::size_t>(n * f.rank + j)],
                     y);
      }
    }
  }
  return z;
}

// Every scheme and level: the bits of the written order over the bits of the layer without branch.
TEST(LowRankLayer, EverySchemeAddsTheBranchInItsOrder) {
  const LayerData d = rrs_test::make_layer(29, 43, 160, 11);
  const Factors factors[] = {make_factors(d.n, d.k, 21, 12), make_factors(d.n, d.k, 21, 12, 8)};
  int cases = 0;
  for (const rrs_test::NamedScheme& named : rrs_test::integer_schemes()) {
    if (named.scheme.activation.exact_reference) continue;
    const PreparedWeight base = rrs_test::prepare(d, named.scheme);
    const std::vector<float> x = rotated(d, named.scheme.rotation);
    for (const Factors& f : factors) {
      const PreparedWeight both = attach(base, f);
      for (const rrs::Isa isa : rrs_test::supported_isas()) {
        Call call;
        call.isa = isa;
        const std::vector<float> expected = written_order(d, f, x, run_linear(d.X(), base, call));
        EXPECT_TRUE(rrs_test::bits_equal(run_linear(d.X(), both, call), expected))
            << named.name << " bits " << f.bits << " level " << static_cast<int>(isa);
        ++cases;
      }
    }
  }
  EXPECT_GE(cases, 40 * static_cast<int>(rrs_test::supported_isas().size()));
}

// Rows alone, threads, bias and accumulation: the same bits.
TEST(LowRankLayer, RowsAloneThreadsBiasAndResidual) {
  const LayerData d = rrs_test::make_layer(150, 90, 96, 21);
  const std::vector<float> bias = rrs_test::normal_vector(d.n, 22);
  rrs::Scheme per_token;
  per_token.activation.group = rrs::kRowGroup;
  per_token.activation.window.kind = rrs::WindowKind::kOne;
  rrs::Scheme a16;
  a16.activation.bits = rrs::kActivationFloat;
  int levels = 0;
  for (const int variant : {0, 1, 2, 3, 4, 5}) {
    const rrs::Scheme& scheme =
        variant % 3 == 0 ? rrs::presets::rrs() : (variant % 3 == 1 ? per_token : a16);
    const PreparedWeight w = attach(rrs_test::prepare(d, scheme),
                                    make_factors(d.n, d.k, 32, 23, kLowRankBits[variant / 3]));
    for (const rrs::Isa isa : rrs_test::supported_isas()) {
      Call call;
      call.isa = isa;
      const std::vector<float> plain = run_linear(d.X(), w, call);
      EXPECT_TRUE(
          rrs_test::bits_equal(run_linear(d.X(), w, call, rrs_test::ThreadExecutor{3}), plain));
      for (const std::int64_t t : {0, 77, 149}) {
        const std::vector<float> alone =
            run_linear(MatrixView<const float>(d.x.data() + t * d.k, 1, d.k), w, call);
        EXPECT_TRUE(rrs_test::bits_equal(alone.data(), plain.data() + t * d.n, alone.size()));
      }
      call.gemm.bias = bias.data();
      call.gemm.accumulate = true;
      const std::vector<float> y = run_linear(d.X(), w, call);
      for (std::size_t i = 0; i < y.size(); ++i) {
        const float sum = plain[i] + bias[i % static_cast<std::size_t>(d.n)];
        ASSERT_EQ(y[i], sum + 0.5f) << i;
      }
      ++levels;
    }
  }
  EXPECT_EQ(levels, 6 * static_cast<int>(rrs_test::supported_isas().size()));
}

// The bound of gemm/low_rank.hpp for the branch alone: the base weight is zero. Both permutations
// and the divisor reach x~.
TEST(LowRankLayer, BranchStaysWithinItsBoundOfTheDoubleReference) {
  LayerData d = rrs_test::make_layer(20, 18, 160, 31);
  std::fill(d.w.begin(), d.w.end(), 0.0f);
  std::vector<std::int32_t> permutation(160);
  std::vector<float> divisor(160);
  for (std::size_t i = 0; i < 160; ++i) {
    permutation[i] = static_cast<std::int32_t>((i * 57 + 3) % 160);
    divisor[i] = i % 37 == 5 ? 11.0f : 0.7f;
  }
  for (const int variant : {0, 1, 2, 3}) {
    const bool wide = variant % 2 == 1;
    const Factors f = make_factors(d.n, d.k, 9, 32, kLowRankBits[variant / 2]);
    rrs::Scheme scheme;
    rrs::LayerChannels channels;
    channels.input_permutation = permutation.data();
    channels.divisor = divisor.data();
    if (wide) {
      scheme.activation.window.kind = rrs::WindowKind::kWhole;
      channels.group_permutation = permutation.data();
    }
    const PreparedWeight w = attach(rrs_test::prepare(d, scheme, channels), f);
    const std::vector<float> x =
        rrs::reference::rotated_rows(d.x.data(), d.m, d.k, scheme, channels);
    for (const rrs::Isa isa : rrs_test::supported_isas()) {
      Call call;
      call.isa = isa, call.channels = channels;
      const std::vector<float> y = run_linear(d.X(), w, call);
      double worst = 0.0;
      for (std::int64_t t = 0; t < d.m; ++t) {
        // The rotation of a row errs by at most 8 roundings of its norm per value.
        double norm = 0.0;
        for (std::int64_t k = 0; k < d.k; ++k) {
          norm += std::pow(static_cast<double>(x[static_cast<std::size_t>(t * d.k + k)]), 2);
        }
        const double rotation = 8 * 0x1p-24 * std::sqrt(norm);
        for (std::int64_t n = 0; n < d.n; ++n) {
          double exact = 0.0, magnitude = 0.0, moved = 0.0;
          for (std::int64_t j = 0; j < f.rank; ++j) {
            const double a = static_cast<double>(f.up[static_cast<std::size_t>(n * f.rank + j)]) *
                             static_cast<double>(f.s[static_cast<std::size_t>(j)]);
            for (std::int64_t k = 0; k < d.k; ++k) {
              const double b = static_cast<double>(f.down[static_cast<std::size_t>(j * d.k + k)]);
              const double v = static_cast<double>(x[static_cast<std::size_t>(t * d.k + k)]);
              exact += a * b * v;
              magnitude += std::abs(a * b * v);
              moved += std::abs(a * b) * rotation;
            }
          }
          const double bound = (static_cast<double>(d.k + f.rank) + 1 + (f.bits == 8 ? 1 : 0)) *
                                   0x1p-24 * magnitude +
                               moved;
          const double error =
              std::abs(static_cast<double>(y[static_cast<std::size_t>(t * d.n + n)]) - exact);
          ASSERT_TRUE(error <= bound) << error << " > " << bound << " at " << t << ", " << n;
          if (error / bound > worst) worst = error / bound;
        }
      }
      EXPECT_GT(worst, 1e-4);  // the bound is not a wish
    }
  }
}

// One activation for q, k and v, each with its own branch, one of them without.
TEST(LowRankLayer, SiblingsShareAnActivation) {
  const LayerData d = rrs_test::make_layer(33, 48, 128, 41);
  const rrs::Scheme scheme = rrs::presets::rrs();
  const PreparedWeight none = rrs_test::prepare(d, scheme);
  const PreparedWeight q = attach(none, make_factors(d.n, d.k, 16, 42));
  const PreparedWeight k = attach(none, make_factors(d.n, d.k, 24, 43, 8));
  const rrs::LowRankView views[] = {q.view().low_rank, none.view().low_rank, k.view().low_rank};
  rrs::ActivationOptions options;
  options.low_rank = views;
  options.low_rank_count = 3;
  rrs::Workspace ws(rrs::workspace_bytes(d.m, d.k, scheme, 0, rrs::low_rank_columns(views, 3)));
  rrs::PreparedActivation a;
  ASSERT_TRUE(rrs::smooth_rotate_quantize(d.X(), scheme, ws, a, {}, options).ok());
  for (const PreparedWeight* w : {&q, &k, &none}) {
    std::vector<float> y(static_cast<std::size_t>(d.m * d.n));
    ASSERT_TRUE(rrs::gemm(a, *w, MatrixView<float>(y.data(), d.m, d.n)).ok());
    Call call;
    call.isa = a.table->isa;
    EXPECT_TRUE(rrs_test::bits_equal(y, run_linear(d.X(), *w, call)));
  }
}

TEST(LowRankLayer, NonFiniteRowsAreNanAndAlone) {
  LayerData d = rrs_test::make_layer(30, 20, 64, 51);
  const rrs::Scheme schemes[] = {rrs::presets::rrs(), rrs::presets::rrs_whole(),
                                 rrs::presets::rrs_w4a16()};
  for (const int variant : {0, 1, 2, 3, 4, 5}) {
    const rrs::Scheme& scheme = schemes[variant % 3];
    LayerData bad = d;
    bad.x[17 * 64 + 5] = std::numeric_limits<float>::quiet_NaN();
    const PreparedWeight w = attach(rrs_test::prepare(d, scheme),
                                    make_factors(d.n, d.k, 8, 52, kLowRankBits[variant / 3]));
    std::vector<float> without(d.x.begin(), d.x.begin() + 17 * 64);
    without.insert(without.end(), d.x.begin() + 18 * 64, d.x.end());
    for (const rrs::Isa isa : rrs_test::supported_isas()) {
      std::vector<float> y(static_cast<std::size_t>(d.m * d.n));
      rrs::Workspace ws(rrs::workspace_bytes(d.m, w));
      rrs::ActivationOptions options;
      options.isa = isa;
      const rrs::Status status =
          rrs::linear(bad.X(), w, MatrixView<float>(y.data(), d.m, d.n), ws, {}, options);
      EXPECT_EQ(status.code, StatusCode::kNonFinite);
      EXPECT_EQ(status.value, 17);
      Call call;
      call.isa = isa;
      const std::vector<float> rest =
          run_linear(MatrixView<const float>(without.data(), 29, 64), w, call);
      EXPECT_TRUE(rrs_test::bits_equal(y.data(), rest.data(), 17 * 20));
      EXPECT_TRUE(rrs_test::bits_equal(y.data() + 18 * 20, rest.data() + 17 * 20, 12 * 20));
      for (int n = 0; n < 20; ++n) EXPECT_TRUE(std::isnan(y[static_cast<std::size_t>(340 + n)]));
    }
  }
}

TEST(LowRankLayer, BadInputIsNamed) {
  const LayerData d = rrs_test::make_layer(4, 24, 64, 81);
  const PreparedWeight base = rrs_test::prepare(d, rrs::presets::rrs());
  Factors f = make_factors(24, 64, 25, 82);
  const auto refused = [&](std::int64_t n, std::int64_t ra, std::int64_t rb, std::int64_t k) {
    std::vector<float> a(static_cast<std::size_t>(n * ra)), b(static_cast<std::size_t>(rb * k));
    return rrs::attach_low_rank(base, MatrixView<const float>(a.data(), n, ra),
                                MatrixView<const float>(b.data(), rb, k))
        .status();
  };
  EXPECT_EQ(std::string(refused(24, 25, 25, 64).argument), "rank");
  EXPECT_EQ(refused(24, 25, 25, 64).limit, 24);
  EXPECT_EQ(std::string(refused(24, 0, 0, 64).argument), "rank");
  EXPECT_EQ(std::string(refused(23, 8, 8, 64).argument), "L_A.rows");
  EXPECT_EQ(std::string(refused(24, 8, 9, 64).argument), "L_A.cols");
  EXPECT_EQ(std::string(refused(24, 8, 8, 65).argument), "L_B.cols");
  f = make_factors(24, 64, 8, 83);
  f.b[3 * 64 + 7] = std::numeric_limits<float>::quiet_NaN();
  const rrs::Status nan = rrs::attach_low_rank(base, MatrixView<const float>(f.a.data(), 24, 8),
                                               MatrixView<const float>(f.b.data(), 8, 64))
                              .status();
  EXPECT_EQ(std::string(nan.argument), "L_B");
  EXPECT_EQ(nan.value, 3);
  const auto refused_bits = [&](int bits) {
    return rrs::attach_low_rank(base, MatrixView<const float>(f.a.data(), 24, 8),
                                MatrixView<const float>(f.b.data(), 8, 64), bits)
        .status();
  };
  EXPECT_EQ(std::string(refused_bits(8).argument), "L_B");
  EXPECT_EQ(refused_bits(8).value, 3);
  f.b[3 * 64 + 7] = 0.0f;
  f.a[5 * 8] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(std::string(refused_bits(8).argument), "L_A");
  EXPECT_EQ(refused_bits(8).value, 5);
  f.a[5 * 8] = 3e38f, f.b[6] = 3e38f;  // finite, but their product over 127^2 is not
  EXPECT_EQ(std::string(refused_bits(8).argument), "L_A");
  EXPECT_EQ(refused_bits(8).value, 0);
  EXPECT_EQ(std::string(refused_bits(4).argument), "low_rank.bits");
  EXPECT_EQ(refused_bits(4).value, 4);

  // At run time: a branch that the activation does not carry; one of another K; exact_reference;
  // a workspace without room for it.
  f = make_factors(24, 64, 8, 84);
  const PreparedWeight w = attach(base, f);
  rrs::Workspace ws(rrs::workspace_bytes(d.m, w));
  rrs::PreparedActivation a;
  ASSERT_TRUE(rrs::smooth_rotate_quantize(d.X(), w.scheme(), ws, a).ok());
  std::vector<float> y(static_cast<std::size_t>(d.m * d.n), 7.0f);
  const MatrixView<float> Y(y.data(), d.m, d.n);
  EXPECT_EQ(std::string(rrs::gemm(a, w, Y).argument), "activation.low_rank");
  EXPECT_EQ(y[0], 7.0f);
  rrs::LowRankView view = w.view().low_rank;
  rrs::ActivationOptions options;
  options.low_rank = &view;
  options.low_rank_count = 1;
  view.k = 96;
  rrs::Status status = rrs::smooth_rotate_quantize(d.X(), w.scheme(), ws, a, {}, options);
  EXPECT_EQ(std::string(status.argument), "low_rank.k");
  view.k = 64, view.rank = 25;
  status = rrs::smooth_rotate_quantize(d.X(), w.scheme(), ws, a, {}, options);
  EXPECT_EQ(std::string(status.argument), "low_rank.rank");
  view.rank = 8, view.bits = 8;  // 16 bits are what it has: no scales
  status = rrs::smooth_rotate_quantize(d.X(), w.scheme(), ws, a, {}, options);
  EXPECT_EQ(std::string(status.argument), "low_rank.scales");
  view.bits = 12;
  status = rrs::smooth_rotate_quantize(d.X(), w.scheme(), ws, a, {}, options);
  EXPECT_EQ(std::string(status.argument), "low_rank.bits");
  rrs::WeightView broken = w.view();
  broken.low_rank.bits = 8;
  EXPECT_EQ(rrs::serialized_bytes(broken), 0u);
  EXPECT_EQ(std::string(rrs::linear(d.X(), broken, Y, ws).argument), "low_rank.scales");
  view.bits = 16, options.low_rank_count = 9;
  status = rrs::smooth_rotate_quantize(d.X(), w.scheme(), ws, a, {}, options);
  EXPECT_EQ(std::string(status.argument), "low_rank_count");
  options.low_rank_count = 1;
  status = rrs::smooth_rotate_quantize(d.X(), rrs::presets::rrs_published(), ws, a, {}, options);
  EXPECT_EQ(std::string(status.argument), "activation.exact_reference");
  rrs::Workspace small(rrs::workspace_bytes(d.m, d.k, w.scheme()));
  status = rrs::linear(d.X(), w, Y, small);
  EXPECT_EQ(status.code, StatusCode::kWorkspaceTooSmall);
  EXPECT_EQ(y[0], 7.0f);
}

}  // namespace
