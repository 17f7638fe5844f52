// The driver and the epilogue: ragged shapes, executors, batch invariance, output types, bounds.
#include <algorithm>
#include <cmath>
#include <limits>

#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/gemm_tiles.hpp"
#include "support/shapes.hpp"
#include "support/thread_executor.hpp"

namespace rrs_test {
namespace {

struct Precision {
  int activation_bits, weight_bits;
};
constexpr Precision kPrecisions[] = {{4, 4}, {8, 4}, {8, 8}, {16, 4}, {16, 8}};

// Small blocks, so that small problems have many tasks.
rrs::GemmBlocking tiny_blocks() {
  rrs::GemmBlocking b;
  b.weight_block_bytes = 1;
  b.row_block = 1;
  b.min_task_macs = 1;
  return b;
}

// Runs tasks last to first.
struct ReversedExecutor {
  template <class Task>
  void operator()(std::int64_t n, const Task& task) const {
    for (std::int64_t i = n - 1; i >= 0; --i) task(i);
  }
};

// Each task exactly once, counted.
struct CountingExecutor {
  std::int64_t* tasks;
  template <class Task>
  void operator()(std::int64_t n, const Task& task) const {
    *tasks += n;
    for (std::int64_t i = 0; i < n; ++i) task(i);
  }
};

GemmCase make_case(const Shape& s, const Precision& p, int group, bool offsets) {
  return GemmCase{s.m, s.n, s.k, p.activation_bits, p.weight_bits, group, group, offsets};
}

TEST(GemmDriver, EveryShapeGivesScalarBits) {
  std::vector<std::vector<float>> expected;
  each_isa([&](const rrs::KernelTable& table) {
    std::size_t cases = 0;
    const int groups[] = {32, 128, rrs::kRowGroup};
    for (const Shape& s : gemm_shapes()) {
      for (const Precision& p : kPrecisions) {
        const std::size_t i = cases++;
        const GemmData d =
            make_gemm_data(make_case(s, p, groups[i % 3], i % 4 == 3), Fill::kRandom, i);
        const std::vector<float> y = run_gemm_f32(d, table, rrs::SerialExecutor{});
        if (table.isa == rrs::Isa::kScalar) expected.push_back(y);
        ASSERT_TRUE(bits_equal(y, expected[i])) << s.m << "x" << s.n << "x" << s.k;
      }
    }
    ASSERT_EQ(cases, 33u * 5u);
  });
}

TEST(GemmDriver, ExecutorsAndBlockingDoNotMatter) {
  each_isa([](const rrs::KernelTable& table) {
    int cases = 0;
    for (const Precision& p : kPrecisions) {
      const GemmData d = make_gemm_data(make_case({119, 150, 96}, p, 32, false));
      const std::vector<float> y = run_gemm_f32(d, table, rrs::SerialExecutor{});
      std::int64_t tasks = 0;
      ASSERT_TRUE(bits_equal(run_gemm_f32(d, table, CountingExecutor{&tasks}, tiny_blocks()), y));
      ASSERT_GE(tasks, 6);  // at least 3 row blocks x 2 panel blocks for every tile shape
      ASSERT_TRUE(bits_equal(run_gemm_f32(d, table, ReversedExecutor{}, tiny_blocks()), y));
      for (int threads = 1; threads <= 8; ++threads) {
        ASSERT_TRUE(bits_equal(run_gemm_f32(d, table, ThreadExecutor{threads}, tiny_blocks()), y));
        ++cases;
      }
    }
    ASSERT_EQ(cases, 40);
  });
}

// Row t of a call with many rows equals the same row alone.
TEST(GemmDriver, RowsDoNotDependOnTheBatch) {
  each_isa([](const rrs::KernelTable& table) {
    int rows = 0;
    for (const Precision& p : kPrecisions) {
      const GemmCase c = make_case({61, 70, 160}, p, 64, p.weight_bits == 8);
      const GemmData d = make_gemm_data(c);
      const std::vector<float> y = run_gemm_f32(d, table, rrs::SerialExecutor{});
      for (std::int64_t t = 0; t < c.m; t += 7) {
        GemmCase one_case = c;
        one_case.m = 1;
        GemmData one = make_gemm_data(c);
        std::copy_n(d.codes.get() + t * d.k_padded, d.k_padded, one.codes.get());
        if (d.is_float()) std::copy_n(d.x.get() + t * d.k_padded, d.k_padded, one.x.get());
        std::copy_n(d.sums.get() + t * d.groups, d.groups, one.sums.get());
        std::copy_n(d.s.get() + t * d.activation_groups, d.activation_groups, one.s.get());
        one.token[0] = d.token[t];
        one.c = one_case;
        const std::vector<float> alone = run_gemm_f32(one, table, rrs::SerialExecutor{});
        ASSERT_TRUE(bits_equal(alone.data(), y.data() + t * c.n, static_cast<std::size_t>(c.n)));
        ++rows;
      }
    }
    ASSERT_EQ(rows, 45);
  });
}

// |y - exact| <= (terms + 3) * 2^-24 * magnitude, terms = roundings of the chain (gemm.hpp).
double bound_factor(const GemmData& d) {
  const auto groups = static_cast<double>(d.groups) * (d.c.offsets ? 2.0 : 1.0);
  const double part = d.is_float()
                          ? static_cast<double>((std::min)(
                                d.k_padded, d.inner == rrs::kRowGroup ? d.k_padded : d.inner))
                          : 0.0;
  return (groups + part + 3.0) * 0x1p-24;
}

TEST(GemmDriver, WithinTheBoundOfTheReference) {
  each_isa([](const rrs::KernelTable& table) {
    int cases = 0;
    double closest = 0.0;  // worst error over bound
    for (const Precision& p : kPrecisions) {
      for (const Shape s : {Shape{5, 19, 61}, Shape{3, 33, 300}, Shape{9, 16, 16}}) {
        for (const bool offsets : {false, true}) {
          const GemmData d = make_gemm_data(make_case(s, p, 32, offsets), Fill::kRandom, 7);
          const std::vector<float> y = run_gemm_f32(d, table, rrs::SerialExecutor{});
          const auto r = rrs::reference::gemm(reference_inputs(d), d.is_float());
          for (std::size_t i = 0; i < y.size(); ++i) {
            const double error = std::abs(static_cast<double>(y[i]) - r.y[i]);
            const double bound = bound_factor(d) * r.magnitude[i];
            ASSERT_TRUE(error <= bound) << "element " << i << ": " << y[i] << " against " << r.y[i];
            if (bound > 0.0) closest = (std::max)(closest, error / bound);
          }
          ++cases;
        }
      }
    }
    ASSERT_EQ(cases, 30);
    ASSERT_GE(closest, 1.0 / 50.0);
    ::testing::Test::RecordProperty("error_over_bound", std::to_string(closest));
  });
}

// The epilogue as core/types.hpp computes it.
float expected_value(float acc, float a, const float* bias, bool accumulate, float old) {
  if (bias != nullptr) {
    const float y = std::fma(a, acc, *bias);
    return accumulate ? y + old : y;
  }
  return accumulate ? std::fma(a, acc, old) : a * acc;
}

float convert(float x, float) { return x; }
rrs::f16 convert(float x, rrs::f16) { return rrs::to_f16(x); }
rrs::bf16 convert(float x, rrs::bf16) { return rrs::to_bf16(x); }

// acc values: ordinary, overflowing f16, subnormal in f16, ties, infinities.
float store_input(std::int64_t i) {
  const float special[] = {
      0.0f,      -0.0f,    65504.0f,      65520.0f,   -1e30f,
      0x1p-24f,  0x1p-25f, 1e-7f,         0x1.002p0f, 0x1.01p0f,
      0x1.03p0f, 0x1p-14f, -0x1.ffcp-15f, 3.4e38f,    std::numeric_limits<float>::infinity(),
      1e-40f};
  if (i % 2 == 0) return special[static_cast<std::size_t>(i / 2) % 16];
  return Random(static_cast<std::uint64_t>(i)).normal() * 100.0f;
}

template <class T, class Store>
void check_store(const Store& store, int* cases) {
  for (const std::int64_t n : {1, 2, 7, 8, 9, 15, 16, 17, 31, 48, 77}) {
    for (const float a : {1.0f, 0.37f, -2.0f, std::numeric_limits<float>::quiet_NaN()}) {
      for (int mode = 0; mode < 4; ++mode) {
        Aligned<float> acc(n), bias(n);
        Aligned<T> y(n);
        std::vector<T> expected(static_cast<std::size_t>(n));
        for (std::int64_t i = 0; i < n; ++i) {
          acc[i] = store_input(i + n);
          bias[i] = static_cast<float>(i) - 3.5f;
          y[i] = convert(static_cast<float>(i) * 0.3f, T{});
          expected[static_cast<std::size_t>(i)] = convert(
              expected_value(acc[i], a, mode & 1 ? &bias[i] : nullptr, mode & 2, rrs::to_f32(y[i])),
              T{});
        }
        store(acc.get(), n, a, mode & 1 ? bias.get() : nullptr, (mode & 2) != 0, y.get());
        ASSERT_TRUE(bits_equal(y.get(), expected.data(), static_cast<std::size_t>(n)))
            << "n " << n << " a " << a << " mode " << mode;
        ++*cases;
      }
    }
  }
}

TEST(GemmEpilogue, StoresRoundOnceAndKeepNaN) {
  each_isa([](const rrs::KernelTable& table) {
    int cases = 0;
    check_store<float>(table.gemm.store_f32, &cases);
    check_store<rrs::f16>(table.gemm.store_f16, &cases);
    check_store<rrs::bf16>(table.gemm.store_bf16, &cases);
    ASSERT_EQ(cases, 3 * 11 * 4 * 4);
  });
}

// Bias, accumulate, strides and types through the driver; columns between rows stay untouched.
template <class T>
void check_output(const rrs::KernelTable& table) {
  const GemmData d = make_gemm_data(make_case({59, 37, 64}, {4, 4}, 32, false));
  const std::vector<float> plain = run_gemm_f32(d, table, rrs::SerialExecutor{});
  const rrs::GemmKernel& kernel = table.gemm.w4a4;
  const PackedTiles tiles = pack_tiles(d, table.pack, kernel.max_rows);
  rrs::GemmProblem p = gemm_problem(d, tiles);
  p.token_scales = nullptr;  // 1
  const std::int64_t stride = 41;
  Aligned<T> y(58 * stride + 37);
  for (std::int64_t i = 0; i < y.size(); ++i) y[i] = convert(2.0f, T{});
  p.output = rrs::GemmOutput{y.get(), rrs::ElementTypeOf<T>::value, stride, d.bias.get(), true};
  rrs::run_gemm(table, kernel, p, rrs::SerialExecutor{}, tiny_blocks());
  GemmData ones = make_gemm_data(d.c);
  for (std::int64_t t = 0; t < d.c.m; ++t) ones.token[t] = 1.0f;
  const std::vector<float> acc = run_gemm_f32(ones, table, rrs::SerialExecutor{});
  for (std::int64_t t = 0; t < 59; ++t) {
    for (std::int64_t n = 0; n < stride && t * stride + n < y.size(); ++n) {
      T expected = convert(2.0f, T{});
      if (n < 37) {
        const float a = acc[static_cast<std::size_t>(t * 37 + n)];
        expected = convert(expected_value(a, 1.0f, &d.bias[n], true, 2.0f), T{});
      }
      ASSERT_TRUE(bits_equal(&y[t * stride + n], &expected, 1)) << t << ", " << n;
    }
  }
}

TEST(GemmEpilogue, OutputsOfEveryType) {
  each_isa([](const rrs::KernelTable& table) {
    check_output<float>(table);
    check_output<rrs::f16>(table);
    check_output<rrs::bf16>(table);
  });
}

}  // namespace
}  // namespace rrs_test
