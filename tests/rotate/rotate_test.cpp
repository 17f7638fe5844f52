// Rotation of rows and matrices: oracle, bound, inverse, bit equality of levels, types, errors.
#include "rrs/rotate/rotate.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "rrs/reference/rotate.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/random.hpp"

namespace {

using rrs::KernelTable;
using rrs::Rotation;
using rrs::RotationKind;
using rrs::RotationPlan;

const std::vector<std::int64_t>& model_orders() {
  static const std::vector<std::int64_t> orders = {576,   640,   768,   896,   1152,  1536,  2048,
                                                   4864,  8960,  10920, 11008, 12288, 13696, 13824,
                                                   14336, 18944, 25600, 27648, 28672, 29568};
  return orders;
}

Rotation full(bool signs = false) { return Rotation{RotationKind::kFull, 32, signs, 11}; }
Rotation block(int size, bool signs = false) {
  return Rotation{RotationKind::kBlock, size, signs, 12};
}

// A plan with its memory.
struct Rotator {
  Rotator(const Rotation& rotation, std::int64_t k) : plan(rrs::plan_rotation(rotation, k)) {
    memory.resize(rrs::rotation_tables_bytes(plan) + 64);
    auto* at = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
    rrs::build_rotation_tables(&plan, at);
    scratch.resize(static_cast<std::size_t>(rrs::rotation_scratch_floats(plan)));
  }
  std::vector<float> forward(const KernelTable& table, std::vector<float> x) {
    rrs::rotate_row(table, plan, x.data(), scratch.data());
    return x;
  }
  std::vector<float> backward(const KernelTable& table, std::vector<float> x) {
    rrs::inverse_rotate_row(table, plan, x.data(), scratch.data());
    return x;
  }
  std::vector<double> exact(const std::vector<float>& x) const {
    std::vector<double> y(x.begin(), x.end());
    rrs::reference::rotate_row(plan.rotation, plan.signs, plan.k, y.data());
    return y;
  }
  RotationPlan plan;
  std::vector<unsigned char> memory;
  std::vector<float> scratch;
};

double norm(const std::vector<float>& x) {
  double sum = 0.0;
  for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

std::vector<double> to_double(const std::vector<float>& x) { return {x.begin(), x.end()}; }

// A row whose sums absorb: 1, then values just below half a unit in the last place of 1, at
// multiples of `step`: with step 2^k, the butterflies give the dense factors such a row in every
// column.
std::vector<float> absorbing_vector(std::int64_t k, std::int64_t step) {
  std::vector<float> x(static_cast<std::size_t>(k), 0.0f);
  for (std::int64_t i = 0; i < k; i += step) x[static_cast<std::size_t>(i)] = 0x1.fp-25f;
  x[0] = 1.0f;
  return x;
}

std::vector<float> unit_vector(std::int64_t k, std::int64_t at) {
  std::vector<float> x(static_cast<std::size_t>(k), 0.0f);
  x[static_cast<std::size_t>(at)] = 1.0f;
  return x;
}

// The fast oracle against the matrix by definition.
TEST(RotateReference, TransformEqualsMatrix) {
  int orders = 0;
  for (const std::int64_t n : {1, 2, 3, 8, 12, 24, 36, 44, 60, 105, 107, 144, 172, 214, 336}) {
    const rrs::HadamardPlan plan = rrs::plan_hadamard(n);
    const std::vector<double> h = rrs::reference::hadamard_matrix(plan);
    const std::vector<float> x = rrs_test::normal_vector(n, 5);
    std::vector<double> y(x.begin(), x.end());
    rrs::reference::hadamard_transform(plan, y.data());
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (std::int64_t i = 0; i < n; ++i) {
        sum += static_cast<double>(x[static_cast<std::size_t>(i)]) *
               h[static_cast<std::size_t>(i * n + j)];
      }
      sum /= std::sqrt(static_cast<double>(n));
      ASSERT_LE(std::abs(sum - y[static_cast<std::size_t>(j)]), 1e-12) << n << " at " << j;
    }
    ++orders;
  }
  EXPECT_EQ(orders, 15);
}

// Every level against the oracle, within the bound, which is reached within 50.
TEST(Rotate, WithinBoundOfReference) {
  struct Case {
    Rotation rotation;
    std::int64_t k;
  };
  std::vector<Case> cases;
  for (const std::int64_t k : model_orders()) cases.push_back({full(k % 3 == 0), k});
  for (const std::int64_t k : {1, 2, 7, 107, 577, 600, 1031}) cases.push_back({full(), k});
  for (const int b : {16, 32, 64, 128, 256}) {
    for (const std::int64_t k : {1, 31, 577, 2048}) cases.push_back({block(b, b == 64), k});
  }
  const int levels = static_cast<int>(rrs_test::supported_isas().size());
  int checked = 0, due = 0;
  double worst_ratio = 0.0, tightest = 1e9;
  for (const Case& c : cases) {
    // Scalar loops are slow there; where another level runs, bit equality covers them.
    const bool skips_scalar = levels > 1 && c.k > 5000;
    Rotator rotator(c.rotation, c.k);
    const double bound = rrs::rotation_error_bound(rotator.plan);
    double worst = 0.0;
    std::vector<std::vector<float>> inputs = {rrs_test::normal_vector(c.k, 3)};
    inputs.push_back(rrs_test::llm_activations(1, c.k, 0, 4));
    inputs.push_back(absorbing_vector(c.k, std::int64_t{1} << rotator.plan.full.log2_segment));
    if (c.rotation.random_signs) {  // undone by the rotation's own signs
      rrs::detail::multiply_by(inputs[2].data(), rotator.plan.signs, c.k);
    }
    for (const std::vector<float>& x : inputs) {
      const std::vector<double> exact = rotator.exact(x);
      rrs_test::each_isa([&](const KernelTable& table) {
        if (skips_scalar && table.isa == rrs::Isa::kScalar) return;
        const double error = rrs_test::relative_error(rotator.forward(table, x), exact);
        ASSERT_LE(error, bound) << c.k;
        worst = error > worst ? error : worst;
        ++checked;
      });
      due += levels - (skips_scalar ? 1 : 0);
    }
    worst_ratio = worst / bound > worst_ratio ? worst / bound : worst_ratio;
    if (c.k == 1) continue;  // exact
    tightest = worst / bound < tightest ? worst / bound : tightest;
    EXPECT_GE(worst, bound / 50.0) << "K " << c.k << ": the bound is vacuous";
  }
  RecordProperty("least_ratio_permille", static_cast<int>(tightest * 1000));
  RecordProperty("worst_ratio_permille", static_cast<int>(worst_ratio * 1000));
  EXPECT_EQ(checked, due);
  EXPECT_GE(due, 3 * static_cast<int>(cases.size()));
}

TEST(Rotate, InverseRestoresAndNormIsKept) {
  int checked = 0;
  for (const std::int64_t k : model_orders()) {
    for (const bool signs : {false, true}) {
      Rotator rotator(full(signs), k);
      const double bound = 2.0 * rrs::rotation_error_bound(rotator.plan);
      const KernelTable& table = rrs_test::table_of(rrs::best_isa());
      for (const std::vector<float>& x :
           {rrs_test::normal_vector(k, 7), unit_vector(k, k / 3), unit_vector(k, 0)}) {
        const std::vector<float> y = rotator.forward(table, x);
        EXPECT_LE(rrs_test::relative_error(rotator.backward(table, y), to_double(x)), bound) << k;
        EXPECT_NEAR(norm(y) / norm(x), 1.0, bound) << k;
        ++checked;
      }
    }
  }
  EXPECT_EQ(checked, 6 * static_cast<int>(model_orders().size()));
}

// A unit vector spreads over the whole row: no entry above sqrt(2 / K), and +-1 / sqrt(K) exactly
// for Hadamard orders.
TEST(Rotate, UnitVectorsSpread) {
  for (const std::int64_t k : model_orders()) {
    Rotator rotator(full(), k);
    const float scale = rrs::rotation_scale(k);
    const std::vector<float> y =
        rotator.forward(rrs_test::table_of(rrs::best_isa()), unit_vector(k, k - 1));
    for (const float v : y) {
      if (rotator.plan.full.is_hadamard()) {
        ASSERT_EQ(std::abs(v), scale) << k;
      } else {
        ASSERT_LE(std::abs(v), 1.41422f * scale) << k;
      }
    }
  }
}

// All levels give the bytes of the scalar loops, at any alignment of the row.
TEST(Rotate, LevelsAreBitEqual) {
  int compared = 0;
  const auto compare = [&](const Rotation& rotation, std::int64_t k) {
    Rotator rotator(rotation, k);
    const std::vector<float> x = rrs_test::llm_activations(1, k, 0, static_cast<std::uint64_t>(k));
    std::vector<float> expected;
    rrs_test::each_isa([&](const KernelTable& table) {
      std::vector<float> y(x.size() + 2, 99.0f);  // one float off any vector boundary, guarded
      std::memcpy(y.data() + 1, x.data(), x.size() * sizeof(float));
      rrs::rotate_row(table, rotator.plan, y.data() + 1, rotator.scratch.data());
      if (table.isa == rrs::Isa::kScalar) expected = y;
      ASSERT_TRUE(rrs_test::bits_equal(y, expected)) << "K " << k;
      ++compared;
    });
  };
  for (std::int64_t k = 1; k <= 300; ++k) {
    compare(full(k % 2 == 0), k);
    compare(block(32), k);
    compare(block(128, true), k);
    if (HasFatalFailure()) return;
  }
  for (const int b : {16, 64, 256}) compare(block(b), 1297);
  for (const std::int64_t k : {512, 577, 1031, 1024, 2048, 4096, 8192, 16384, 32768, 65536}) {
    compare(full(), k);
  }
  for (const std::int64_t k : model_orders()) {
    if (k != 11008 && k != 18944)
      compare(full(), k);  // scalar takes longest there; 5504, 592 instead
  }
  for (const std::int64_t k : {344, 592, 1376}) compare(full(), k);
  EXPECT_EQ(compared, 934 * static_cast<int>(rrs_test::supported_isas().size()));
}

// What the drivers promise about each leaf, over odd shapes.
TEST(RotateKernels, MixIsBitEqualForAllShapes) {
  int compared = 0;
  for (const int order : {1, 2, 3, 5, 12, 13}) {
    for (const int outputs : {1, 3, 4, 7}) {
      for (std::int64_t columns = 1; columns <= 140; columns += columns < 40 ? 1 : 13) {
        const std::vector<float> c = rrs_test::normal_vector(std::int64_t{order} * outputs, 1);
        const std::vector<float> in = rrs_test::normal_vector(order * columns, 2);
        std::vector<float> expected;
        rrs_test::each_isa([&](const KernelTable& table) {
          std::vector<float> out(static_cast<std::size_t>(outputs * columns) + 1, 99.0f);
          table.rotate.mix(in.data(), out.data(), columns, c.data(), outputs, order, 0.3f);
          if (table.isa == rrs::Isa::kScalar) expected = out;
          ASSERT_TRUE(rrs_test::bits_equal(out, expected)) << order << " " << columns;
          ++compared;
        });
      }
    }
  }
  EXPECT_EQ(compared, 6 * 4 * 47 * static_cast<int>(rrs_test::supported_isas().size()));
}

// Every 16-bit pattern, NaNs included, at an odd position.
TEST(RotateKernels, ConversionsAreBitEqual) {
  constexpr std::size_t kCount = 65536;
  std::vector<rrs::f16> half(kCount + 1);
  std::vector<rrs::bf16> brain(kCount + 1);
  for (std::size_t i = 0; i < kCount; ++i) {
    half[i + 1].bits = static_cast<std::uint16_t>(i);
    brain[i + 1].bits = static_cast<std::uint16_t>(i);
  }
  rrs_test::each_isa([&](const KernelTable& table) {
    for (const std::size_t n : {kCount, kCount - 1, kCount - 9}) {
      std::vector<float> a(kCount, 7.0f), b(kCount, 7.0f);
      table.rotate.f16_to_f32(half.data() + 1, a.data(), static_cast<std::int64_t>(n));
      table.rotate.bf16_to_f32(brain.data() + 1, b.data(), static_cast<std::int64_t>(n));
      for (std::size_t i = 0; i < kCount; ++i) {
        const float expected_a = i < n ? rrs::to_f32(half[i + 1]) : 7.0f;
        const float expected_b = i < n ? rrs::to_f32(brain[i + 1]) : 7.0f;
        ASSERT_EQ(rrs::float_bits(a[i]), rrs::float_bits(expected_a)) << i;
        ASSERT_EQ(rrs::float_bits(b[i]), rrs::float_bits(expected_b)) << i;
      }
    }
  });
}

// Row i of the orthonormal Hartley matrix of order m.
std::vector<double> hartley_row(std::int64_t m, std::int64_t i) {
  std::vector<double> row;
  for (std::int64_t j = 0; j < m; ++j) {
    const double angle =
        2.0 * std::acos(-1.0) * static_cast<double>(i * j % m) / static_cast<double>(m);
    row.push_back((std::cos(angle) + std::sin(angle)) / std::sqrt(static_cast<double>(m)));
  }
  return row;
}

TEST(Rotate, LargePrimeOrder) {
  constexpr std::int64_t kK = 1511;  // above the stored Hartley matrices
  Rotator rotator(full(true), kK);
  const std::vector<float> x = rrs_test::normal_vector(kK, 8);
  const std::vector<double> exact = rotator.exact(x);
  std::vector<float> expected;
  rrs_test::each_isa([&](const KernelTable& table) {
    const std::vector<float> y = rotator.forward(table, x);
    if (table.isa == rrs::Isa::kScalar) expected = y;
    EXPECT_TRUE(rrs_test::bits_equal(y, expected));
    EXPECT_LE(rrs_test::relative_error(y, exact), rrs::rotation_error_bound(rotator.plan));
  });
  Rotator larger(full(), 10007);
  const std::vector<float> unit = unit_vector(10007, 4321);
  const KernelTable& best = rrs_test::table_of(rrs::best_isa());
  // Row 4321 of the matrix.
  const std::vector<float> row = larger.forward(best, unit);
  EXPECT_LE(rrs_test::relative_error(row, hartley_row(10007, 4321)),
            rrs::rotation_error_bound(larger.plan));
}

TEST(Rotate, SignsDependOnSeedAndPositionOnly) {
  Rotator a(block(32, true), 1000), b(full(true), 1000);
  b.plan.rotation.sign_seed = a.plan.rotation.sign_seed;
  Rotator longer(block(32, true), 1600);
  int minus = 0;
  for (std::size_t k = 0; k < 1000; ++k) {
    ASSERT_TRUE(a.plan.signs[k] == 1.0f || a.plan.signs[k] == -1.0f);
    ASSERT_EQ(a.plan.signs[k], longer.plan.signs[k]);
    minus += a.plan.signs[k] < 0 ? 1 : 0;
  }
  EXPECT_GT(minus, 430);
  EXPECT_LT(minus, 570);
  int different = 0;
  for (std::size_t k = 0; k < 1000; ++k) different += a.plan.signs[k] != b.plan.signs[k] ? 1 : 0;
  EXPECT_GT(different, 430);  // another seed
}

// Division and permutation while loading; the divisor belongs to the original channel.
TEST(LoadRow, DividesThenPermutes) {
  constexpr std::int64_t kK = 45;
  const std::vector<float> x = rrs_test::normal_vector(2 * kK, 21);
  std::vector<float> divisor(kK), scratch(kK), out(kK);
  std::vector<std::int32_t> permutation(kK);
  for (std::size_t k = 0; k < kK; ++k) {
    divisor[k] = 0.5f + static_cast<float>(k) / 7.0f;
    permutation[k] = static_cast<std::int32_t>(k * 7 % kK);
  }
  rrs::LayerChannels channels;
  channels.divisor = divisor.data();
  const rrs::ErasedView view = rrs::erase(rrs::MatrixView<const float>(x.data(), 2, kK));
  rrs_test::each_isa([&](const KernelTable& table) {
    for (const bool permuted : {false, true}) {
      channels.input_permutation = permuted ? permutation.data() : nullptr;
      for (const rrs::ChannelUse use : {rrs::ChannelUse::kActivation, rrs::ChannelUse::kWeight}) {
        rrs::load_row(table, view, 1, channels, use, out.data(),
                      permuted ? scratch.data() : nullptr);
        for (std::size_t k = 0; k < kK; ++k) {
          const std::size_t from = permuted ? static_cast<std::size_t>(permutation[k]) : k;
          const float value = x[kK + from];
          const float d = divisor[from];
          ASSERT_EQ(out[k], use == rrs::ChannelUse::kActivation ? value / d : value * d);
        }
      }
    }
  });
}

// The public entry: types, strides, misalignment, threads-in-any-order, inverse.
struct BackwardExecutor {
  template <class Task>
  void operator()(std::int64_t n, const Task& task) const {
    for (std::int64_t i = n; i-- > 0;) task(i);
  }
};

template <class T>
void check_matrix(const Rotation& rotation, std::int64_t m, std::int64_t k, T (*narrow)(float)) {
  const std::int64_t x_stride = k + 3, y_stride = k + 1;
  std::vector<T> x(static_cast<std::size_t>(m * x_stride) + 1);
  rrs_test::Random random(77);
  for (T& v : x) v = narrow(random.normal());
  std::vector<unsigned char> workspace(rrs::rotate_workspace_bytes(m, k, rotation) + 1);
  std::vector<float> expected;
  rrs_test::each_isa([&](const KernelTable& table) {
    std::vector<float> y(static_cast<std::size_t>(m * y_stride) + 1, 5.0f);
    const rrs::MatrixView<const T> X(x.data() + 1, m, k, x_stride);
    const rrs::MatrixView<float> Y(y.data() + 1, m, k, y_stride);
    const rrs::Status status =
        rrs::rotate(X, rotation, Y, workspace.data() + 1, workspace.size() - 1, BackwardExecutor{});
    ASSERT_TRUE(status.ok()) << status.message();
    if (table.isa == rrs::Isa::kScalar) expected = y;
    ASSERT_TRUE(rrs_test::bits_equal(y, expected));
    for (std::int64_t t = 0; t < m; ++t) {  // the gaps between rows
      ASSERT_EQ(y[static_cast<std::size_t>(t * y_stride)], 5.0f) << t;
    }
    std::vector<float> back(static_cast<std::size_t>(m * k));
    ASSERT_TRUE(rrs::inverse_rotate(Y, rotation, rrs::MatrixView<float>(back.data(), m, k),
                                    workspace.data(), workspace.size())
                    .ok());
    for (std::int64_t t = 0; t < m; ++t) {
      for (std::int64_t c = 0; c < k; ++c) {
        const float original = rrs::to_f32(X.row(t)[c]);
        ASSERT_NEAR(back[static_cast<std::size_t>(t * k + c)], original, 1e-4f) << t << " " << c;
      }
    }
  });
}

float keep(float x) { return x; }
rrs::f16 narrow_f16(float x) { return rrs::to_f16(x); }
rrs::bf16 narrow_bf16(float x) { return rrs::to_bf16(x); }

TEST(RotateMatrix, TypesStridesAndInverse) {
  int cases = 0;
  for (const Rotation& rotation :
       {full(), full(true), block(32), block(128, true), Rotation{RotationKind::kNone, 0}}) {
    for (const std::int64_t k : {1, 17, 96, 150}) {
      check_matrix<float>(rotation, 3, k, &keep);
      check_matrix<rrs::f16>(rotation, 70, k, &narrow_f16);
      check_matrix<rrs::bf16>(rotation, 2, k, &narrow_bf16);
      cases += 3;
    }
  }
  EXPECT_EQ(cases, 60);
}

TEST(RotateMatrix, NonFiniteRowsBecomeNanAndTheRestIsUntouched) {
  constexpr std::int64_t kM = 6, kK = 96;
  const std::vector<float> clean = rrs_test::normal_vector(kM * kK, 31);
  std::vector<float> x = clean, y(clean.size()), expected(clean.size());
  x[4 * kK + 7] = std::numeric_limits<float>::infinity();
  x[2 * kK + 95] = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t c = 0; c < kK; ++c) x[5 * kK + c] = 3e38f;  // overflows when rotated
  const Rotation rotation = block(32);
  std::vector<unsigned char> workspace(rrs::rotate_workspace_bytes(kM, kK, rotation));
  const auto run = [&](const std::vector<float>& in, std::vector<float>* out) {
    return rrs::rotate(rrs::MatrixView<const float>(in.data(), kM, kK), rotation,
                       rrs::MatrixView<float>(out->data(), kM, kK), workspace.data(),
                       workspace.size());
  };
  rrs_test::each_isa([&](const KernelTable&) {
    ASSERT_TRUE(run(clean, &expected).ok());
    const rrs::Status status = run(x, &y);
    EXPECT_EQ(status.code, rrs::StatusCode::kNonFinite);
    EXPECT_EQ(status.value, 2);
    for (std::size_t t = 0; t < kM; ++t) {
      const bool bad = t == 2 || t == 4 || t == 5;
      for (std::size_t c = t * kK; c < (t + 1) * kK; ++c) {
        ASSERT_EQ(rrs::float_bits(y[c]), bad ? 0x7fc00000u : rrs::float_bits(expected[c])) << t;
      }
    }
  });
}

TEST(RotateMatrix, ErrorsNameTheArgumentAndLeaveYUntouched) {
  constexpr std::int64_t kM = 2, kK = 48;
  std::vector<float> x(kM * kK, 1.0f), y(kM * kK, 9.0f);
  std::vector<unsigned char> workspace(rrs::rotate_workspace_bytes(kM, kK, full()));
  const rrs::MatrixView<const float> X(x.data(), kM, kK);
  const rrs::MatrixView<float> Y(y.data(), kM, kK);
  struct Case {
    rrs::MatrixView<const float> x;
    Rotation rotation;
    rrs::MatrixView<float> y;
    std::size_t bytes;
    const char* argument;
  };
  const std::size_t bytes = workspace.size();
  const std::vector<Case> cases = {
      {{x.data(), kM, kK, kK - 1}, full(), Y, bytes, "X.row_stride"},
      {{nullptr, kM, kK}, full(), Y, bytes, "X.data"},
      {X, full(), {y.data(), kM, kK - 1}, bytes, "Y.cols"},
      {X, full(), {y.data(), kM - 1, kK}, bytes, "Y.rows"},
      {X, full(), {x.data(), kM, kK}, bytes, "Y.data"},
      {X, full(), Y, bytes - 1, "bytes"},
      {X, block(24), Y, bytes, "rotation.block"},
      {{x.data(), kM, 0}, full(), {y.data(), kM, 0}, bytes, "K"},
  };
  for (const Case& c : cases) {
    const rrs::Status status = rrs::rotate(c.x, c.rotation, c.y, workspace.data(), c.bytes);
    EXPECT_FALSE(status.ok()) << c.argument;
    EXPECT_STREQ(status.argument, c.argument);
  }
  const rrs::Status overlap = rrs::rotate(X, block(32), Y, y.data(), 4 * y.size());
  EXPECT_STREQ(overlap.argument, "workspace");
  for (const float v : y) ASSERT_EQ(v, 9.0f);
  EXPECT_TRUE(rrs::rotate(rrs::MatrixView<const float>(nullptr, 0, kK), full(),
                          rrs::MatrixView<float>(nullptr, 0, kK), nullptr, 0)
                  .ok());
}

}  // namespace
