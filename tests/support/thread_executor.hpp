// Executors for tests: real threads, reverse order, and scattered order.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "support/random.hpp"

namespace rrs_test {

// Fresh threads for every call, taking tasks from a shared counter.
class ThreadExecutor {
 public:
  explicit ThreadExecutor(int threads) : threads_(threads) {}

  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const {
    std::atomic<std::int64_t> next{0};
    const auto work = [&] {
      for (std::int64_t i = next++; i < n_tasks; i = next++) task(i);
    };
    std::vector<std::thread> team;
    for (int i = 1; i < threads_; ++i) team.emplace_back(work);
    work();
    for (std::thread& member : team) member.join();
  }

 private:
  int threads_;
};

// Last task first.
struct ReverseExecutor {
  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const {
    for (std::int64_t i = n_tasks - 1; i >= 0; --i) task(i);
  }
};

// In an order drawn anew from the seed.
class ShuffledExecutor {
 public:
  explicit ShuffledExecutor(std::uint64_t seed) : seed_(seed) {}

  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const {
    Random random(seed_);
    std::vector<std::int64_t> order(static_cast<std::size_t>(n_tasks));
    for (std::size_t i = 0; i < order.size(); ++i) {
      order[i] = static_cast<std::int64_t>(i);
      std::swap(order[i], order[static_cast<std::size_t>(random.bits() % (i + 1))]);
    }
    for (const std::int64_t i : order) task(i);
  }

 private:
  std::uint64_t seed_;
};

}  // namespace rrs_test
