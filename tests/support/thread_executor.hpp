// Executors for tests: real threads, reverse order, and scattered order.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

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

}  // namespace rrs_test
