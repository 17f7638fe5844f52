#pragma once
// The engine's threads, lent to the library as an executor (rrs/core/executor.hpp).
//
// From: the engine's own loops, rrs::gemm and friends; to: a fixed team. Tasks are taken from a
// shared counter; the caller works too. A member spins for some microseconds before it sleeps,
// because a decoded token is several hundred short calls. One call at a time; not reentrant.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace rrs_llm {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // at least 1; the caller is one of them
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const noexcept { return static_cast<int>(members_.size()) + 1; }

  // Calls task(i) once for every i in [0, n_tasks); returns when all are done.
  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const noexcept {
    if (n_tasks <= 1 || members_.empty()) {
      for (std::int64_t i = 0; i < n_tasks; ++i) task(i);
      return;
    }
    run(n_tasks, &call<Task>, &task);
  }

 private:
  using Call = void (*)(const void* task, std::int64_t index);
  template <class Task>
  static void call(const void* task, std::int64_t index) {
    (*static_cast<const Task*>(task))(index);
  }
  // What one call hands out.
  struct Job {
    Call call = nullptr;
    const void* task = nullptr;
    std::int64_t tasks = 0;
  };

  void run(std::int64_t n_tasks, Call function, const void* task) const noexcept;
  void work() const noexcept;
  void member() noexcept;

  std::vector<std::thread> members_;
  mutable Job job_;
  mutable std::atomic<std::int64_t> next_{0};
  mutable std::atomic<std::int64_t> busy_{0};         // members that have not finished the call
  mutable std::atomic<std::uint64_t> generation_{0};  // counts calls
  mutable std::atomic<int> sleepers_{0};
  mutable std::mutex mutex_;
  mutable std::condition_variable wake_;
  std::atomic<bool> stop_{false};
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
