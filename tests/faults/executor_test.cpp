// Executors that keep their contract in any order and number of threads give the same bits; those
// that break it (skip a task, run one twice, at once, or one that does not exist) give whatever
// they give, but touch no memory that is not theirs. The latter is for the address sanitizer to
// see. Calls of several threads may share a weight: for the thread sanitizer to see.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

#include "rrs/calibrate/gptq.hpp"
#include "rrs/calibrate/statistics.hpp"
#include "rrs/rrs.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"
#include "support/layer.hpp"
#include "support/thread_executor.hpp"

namespace {

using rrs::MatrixView;

// What one executor makes of a layer: the packed weight, Y, and GPTQ's codes.
struct Outputs {
  std::vector<std::uint8_t> panels;
  std::vector<float> y;
  std::vector<double> hessian;
  std::vector<std::int8_t> codes;
};

template <class Executor>
Outputs run_everything(const rrs_test::LayerData& d, const rrs::Scheme& s, rrs::Isa isa,
                       const Executor& executor) {
  Outputs out;
  const auto w = rrs::prepare_weight(d.W(), s, rrs::WeightOptions{}, executor);
  EXPECT_TRUE(w.ok());
  const rrs::WeightView& v = w->view();
  out.panels.assign(v.panels, v.panels + rrs::panel_count(v.n) * v.panel_bytes);
  out.y.assign(static_cast<std::size_t>(d.m * d.n), 0.0f);
  rrs::Workspace ws(rrs::workspace_bytes(d.m, v));
  rrs::ActivationOptions options;
  options.isa = isa;
  // A broken executor's activation may hold NaN: its Status is not looked at.
  static_cast<void>(
      rrs::linear(d.X(), v, MatrixView<float>(out.y.data(), d.m, d.n), ws, executor, options).ok());
  rrs::InputStatistics seen;
  EXPECT_TRUE(rrs::update_statistics(d.X(), true, &seen, executor).ok());
  out.hessian = seen.hessian;
  const auto factor = rrs::factor_hessian(seen.hessian, d.k);
  if (!factor.ok()) return out;
  const auto codes = rrs::gptq(d.W(), *factor, s.weight, rrs::GptqOptions{}, executor);
  if (codes.ok()) out.codes = codes->codes;
  return out;
}

std::vector<rrs::Scheme> schemes() {
  rrs::Scheme whole = rrs::presets::rrs();
  whole.activation.window.kind = rrs::WindowKind::kWhole;
  return {rrs::presets::rrs(), rrs::presets::rrs_published(), rrs::presets::quarot(),
          rrs::presets::rrs_w4a16(), whole};
}

TEST(Executors, AnyOrderAndOneToSixteenThreadsGiveTheSameBits) {
  const rrs_test::LayerData d = rrs_test::make_layer(70, 90, 160, 3);
  int compared = 0;
  for (const rrs::Scheme& s : schemes()) {
    for (const rrs::Isa isa : rrs_test::supported_isas()) {
      const Outputs expected = run_everything(d, s, isa, rrs::SerialExecutor{});
      ASSERT_EQ(expected.codes.size(), d.w.size());
      const auto same = [&](const Outputs& o) {
        ASSERT_TRUE(rrs_test::bits_equal(o.panels, expected.panels));
        ASSERT_TRUE(rrs_test::bits_equal(o.y, expected.y));
        ASSERT_TRUE(rrs_test::bits_equal(o.hessian, expected.hessian));
        ASSERT_TRUE(rrs_test::bits_equal(o.codes, expected.codes));
        ++compared;
      };
      same(run_everything(d, s, isa, rrs_test::ReverseExecutor{}));
      for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        same(run_everything(d, s, isa, rrs_test::ShuffledExecutor(seed)));
      }
      for (const int threads : {1, 2, 3, 5, 8, 16}) {
        same(run_everything(d, s, isa, rrs_test::ThreadExecutor(threads)));
      }
    }
  }
  EXPECT_EQ(compared, 50 * static_cast<int>(rrs_test::supported_isas().size()));
}

// Calls share nothing but weights: each thread has an activation and a workspace of its own.
TEST(Executors, CallsOfManyThreadsShareAWeight) {
  constexpr int kThreads = 4, kCalls = 3;
  int compared = 0;
  for (const rrs::Scheme& s : schemes()) {
    const rrs_test::LayerData d = rrs_test::make_layer(20, 90, 160, 6);
    const auto w = rrs::prepare_weight(d.W(), s);
    ASSERT_TRUE(w.ok());
    for (const rrs::Isa isa : rrs_test::supported_isas()) {
      // Thread i: the first 5 (i + 1) rows, in one call and in two steps by turns.
      const auto call = [&](int i, bool two_steps) {
        const std::int64_t m = 5 * (i + 1);
        const MatrixView<const float> X(d.x.data(), m, d.k);
        std::vector<float> y(static_cast<std::size_t>(m * d.n));
        const MatrixView<float> Y(y.data(), m, d.n);
        rrs::Workspace ws(rrs::workspace_bytes(m, w->view()));
        rrs::ActivationOptions options;
        options.isa = isa;
        rrs::PreparedActivation a;
        const rrs::Status status =
            two_steps ? rrs::smooth_rotate_quantize(X, s, ws, a, rrs::SerialExecutor{}, options)
                      : rrs::linear(X, w->view(), Y, ws, rrs::SerialExecutor{}, options);
        const bool ok = status.ok() && (!two_steps || rrs::gemm(a, w->view(), Y).ok());
        return ok ? y : std::vector<float>();
      };
      std::vector<float> got[kThreads][kCalls];
      std::vector<std::thread> team;
      team.reserve(kThreads);
      for (int i = 0; i < kThreads; ++i) {
        team.emplace_back([&, i] {
          for (int j = 0; j < kCalls; ++j) got[i][j] = call(i, (i + j) % 2 == 1);
        });
      }
      for (std::thread& member : team) member.join();
      for (int i = 0; i < kThreads; ++i) {
        const std::vector<float> alone = call(i, false);
        ASSERT_FALSE(alone.empty());
        for (int j = 0; j < kCalls; ++j, ++compared) {
          ASSERT_TRUE(rrs_test::bits_equal(got[i][j], alone));
        }
      }
    }
  }
  EXPECT_EQ(compared, 5 * kThreads * kCalls * static_cast<int>(rrs_test::supported_isas().size()));
}

// Skips each `step`-th task, from `first`.
struct Skips {
  std::int64_t first, step;
  template <class Task>
  void operator()(std::int64_t n, const Task& task) const {
    for (std::int64_t i = 0; i < n; ++i) {
      if (i % step != first) task(i);
    }
  }
};

struct RunsNothing {
  template <class Task>
  void operator()(std::int64_t, const Task&) const {}
};

struct RunsTwice {
  template <class Task>
  void operator()(std::int64_t n, const Task& task) const {
    for (std::int64_t i = 0; i < n; ++i) task(i), task(n - 1 - i);
  }
};

// Every task, and some that do not exist before, between and after them.
struct RunsOthersToo {
  template <class Task>
  void operator()(std::int64_t n, const Task& task) const {
    for (const std::int64_t i : {INT64_MIN, std::int64_t{-1}, n, INT64_MAX}) task(i);
    for (std::int64_t i = 0; i < n; ++i) task(i), task(i + n), task(i - n);
  }
};

// Only tasks that do not exist: those just outside on both sides.
struct RunsOnlyOthers {
  template <class Task>
  void operator()(std::int64_t n, const Task& task) const {
    for (std::int64_t i = 0; i <= n; ++i) task(-1 - i), task(n + i);
  }
};

// Every task on two threads at once: a data race by design, so not under the thread sanitizer.
struct RunsTwiceAtOnce {
  template <class Task>
  void operator()(std::int64_t n, const Task& task) const {
    const auto all = [&] {
      for (std::int64_t i = 0; i < n; ++i) task(i);
    };
    std::thread other(all);
    all();
    other.join();
  }
};

TEST(Executors, ABrokenContractStaysMemorySafe) {
  const rrs_test::LayerData d = rrs_test::make_layer(70, 90, 160, 4);
  int ran = 0;
  for (const rrs::Scheme& s : schemes()) {
    for (const rrs::Isa isa : rrs_test::supported_isas()) {
      const auto run = [&](const auto& executor) {
        run_everything(d, s, isa, executor);
        ++ran;
      };
      run(Skips{0, 2});
      run(Skips{1, 2});
      run(Skips{0, 3});
      run(RunsNothing{});
      run(RunsTwice{});
      run(RunsOthersToo{});
      run(RunsOnlyOthers{});
#if !defined(__SANITIZE_THREAD__)
      run(RunsTwiceAtOnce{});
#endif
    }
  }
  std::printf("%d broken runs\n", ran);
  EXPECT_GE(ran, 35 * static_cast<int>(rrs_test::supported_isas().size()));
}

// Seen without a sanitizer, too: tasks that do not exist change no bit.
TEST(Executors, TasksThatDoNotExistDoNothing) {
  const rrs_test::LayerData d = rrs_test::make_layer(70, 90, 160, 5);
  int compared = 0;
  for (const rrs::Scheme& s : schemes()) {
    for (const rrs::Isa isa : rrs_test::supported_isas()) {
      const Outputs expected = run_everything(d, s, isa, rrs::SerialExecutor{});
      const Outputs got = run_everything(d, s, isa, RunsOthersToo{});
      ASSERT_TRUE(rrs_test::bits_equal(got.panels, expected.panels));
      ASSERT_TRUE(rrs_test::bits_equal(got.y, expected.y));
      ASSERT_TRUE(rrs_test::bits_equal(got.hessian, expected.hessian));
      ASSERT_EQ(got.codes.size(), d.w.size());
      ASSERT_TRUE(rrs_test::bits_equal(got.codes, expected.codes));
      ++compared;
    }
  }
  EXPECT_EQ(compared, 5 * static_cast<int>(rrs_test::supported_isas().size()));
}

}  // namespace
