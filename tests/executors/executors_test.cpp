// Every adapter runs each task exactly once, call after call, and changes no bit of a layer.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "executors/openmp_executor.hpp"
#include "executors/persistent_pool.hpp"
#include "executors/std_thread_executor.hpp"
#if __has_include(<tbb/task_arena.h>) && defined(RRS_EXAMPLE_TBB)
#define RRS_TEST_TBB 1
#include "executors/tbb_executor.hpp"
#endif
#include "support/layer.hpp"

namespace {

using rrs_examples::OpenMpExecutor;
using rrs_examples::PersistentPool;
using rrs_examples::StdThreadExecutor;

constexpr std::int64_t kSizes[] = {0, 1, 2, 63, 1000};

// Plain counters: a task that ran twice at once is also a data race that TSan reports.
template <class Executor>
int count_calls(const Executor& executor, int repeats) {
  int checked = 0;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    for (const std::int64_t n : kSizes) {
      std::vector<int> ran(static_cast<std::size_t>(n), 0);
      executor(n, [&ran](std::int64_t i) noexcept { ++ran[static_cast<std::size_t>(i)]; });
      int once = 0;  // read right after the call: all tasks must be done and visible
      for (const int count : ran) once += count == 1 ? 1 : 0;
      EXPECT_EQ(once, n);
      ++checked;
    }
  }
  return checked;
}

template <class Executor>
void expect_same_layer(const Executor& executor) {
  const rrs_test::LayerData data = rrs_test::make_layer(70, 96, 256, 5);
  const rrs::PreparedWeight w = rrs_test::prepare(data, rrs::presets::rrs());
  const std::vector<float> expected = rrs_test::run_layer(data.X(), w);
  const std::vector<float> y = rrs_test::run_layer(data.X(), w, {}, executor);
  ASSERT_EQ(y.size(), std::size_t{70 * 96});
  EXPECT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0);
}

TEST(PersistentPool, RunsEveryTaskOnce) {
  for (const int threads : {0, 1, 2, 3}) {
    PersistentPool pool(threads);
    EXPECT_EQ(count_calls(pool.executor(), 200), 1000);
  }
}

TEST(PersistentPool, NeverMoreThreadsThanCpus) {
  EXPECT_GE(PersistentPool(0).threads(), 1);
  EXPECT_LE(PersistentPool(1000).threads(), rrs_examples::usable_cpus());
  EXPECT_EQ(PersistentPool(1).threads(), 1);
}

// Members fall asleep between calls and must wake again, also to end.
TEST(PersistentPool, WakesAfterSleep) {
  PersistentPool pool(2);
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(i % 3));
    EXPECT_EQ(count_calls(pool.executor(), 1), 5);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

TEST(PersistentPool, EndsAtAnyMoment) {
  int built = 0;
  for (int i = 0; i < 200; ++i) {
    PersistentPool pool(2);
    if (i % 2 == 0) count_calls(pool.executor(), 1);
    ++built;
  }
  EXPECT_EQ(built, 200);
}

// Two tasks that wait for each other: only real concurrency lets this return.
TEST(PersistentPool, TasksRunAtTheSameTime) {
  PersistentPool pool(2);
  if (pool.threads() < 2) GTEST_SKIP() << "one CPU";
  std::atomic<int> arrived{0};
  pool.run(2, [&arrived](std::int64_t) noexcept {
    ++arrived;
    while (arrived.load() < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived.load(), 2);
}

TEST(PersistentPool, SameLayer) {
  PersistentPool pool(2);
  expect_same_layer(pool.executor());
}

TEST(StdThread, RunsEveryTaskOnceSameLayer) {
  EXPECT_EQ(count_calls(StdThreadExecutor(3), 10), 50);
  expect_same_layer(StdThreadExecutor(2));
}

TEST(OpenMp, RunsEveryTaskOnceSameLayer) {
  EXPECT_EQ(count_calls(OpenMpExecutor(3), 50), 250);
  expect_same_layer(OpenMpExecutor(2));
}

#ifdef RRS_TEST_TBB
TEST(Tbb, RunsEveryTaskOnceSameLayer) {
  tbb::task_arena arena(2);
  const rrs_examples::TbbExecutor executor(arena);
  EXPECT_EQ(count_calls(executor, 50), 250);
  expect_same_layer(executor);
}
#endif

}  // namespace
