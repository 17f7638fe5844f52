#pragma once
// The engine's threads, lent to the library as an executor (rrs/core/executor.hpp).
//
// From: the engine's own loops, rrs::gemm and friends; to: the pool of examples/executors, which a
// decoded token calls several hundred times. One call at a time; not reentrant.

#include <cstdint>
#include <stdexcept>
#include <string>

#include "executors/persistent_pool.hpp"

namespace rrs_llm {

// A persistent pool that a const engine can call, with a checked number of threads.
class ThreadPool {
 public:
  // 1 to 1024, the caller is one of them; never more than CPUs.
  explicit ThreadPool(int threads) : pool_(checked(threads)) {}

  int threads() const noexcept { return pool_.threads(); }

  // Calls task(i) once for every i in [0, n_tasks); returns when all are done.
  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const noexcept {
    pool_.run(n_tasks, task);
  }

 private:
  static int checked(int threads) {
    constexpr int kMostThreads = 1024;
    if (threads < 1 || threads > kMostThreads) {
      throw std::runtime_error("threads: " + std::to_string(threads) + " is not 1 to " +
                               std::to_string(kMostThreads));
    }
    return threads;
  }

  mutable rrs_examples::PersistentPool pool_;
};

// Splits [0, count) into about four ranges per thread, none smaller than `least`.
struct Ranges {
  std::int64_t count = 0;
  std::int64_t tasks = 0;
  std::int64_t first(std::int64_t task) const noexcept { return count * task / tasks; }
  std::int64_t last(std::int64_t task) const noexcept { return count * (task + 1) / tasks; }
};
inline Ranges split(std::int64_t count, std::int64_t least, int threads) noexcept {
  std::int64_t tasks = threads == 1 ? 1 : 4 * static_cast<std::int64_t>(threads);
  if (tasks > count / least) tasks = count / least;
  return Ranges{count, tasks < 1 ? 1 : tasks};
}

}  // namespace rrs_llm
