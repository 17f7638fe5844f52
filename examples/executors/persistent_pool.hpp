// PersistentPool: a team of threads that lives as long as the pool, as an executor
// (rrs/core/executor.hpp).
//
//   rrs_examples::PersistentPool pool(4);         // three threads and the caller
//   rrs::linear(X, w, Y, ws, pool.executor());
//
// Use this one in an engine: a decoded token is hundreds of calls of some ten microseconds each, so
// a call must cost far less than creating or waking threads. A call writes the job, bumps a counter
// and works along; a member that has nothing to do spins for a few microseconds, then sleeps on a
// condition variable, so an idle pool costs nothing. Tasks are taken from a shared counter.
//
// Rules: one call at a time; a task must not call its own pool; the task is noexcept, as the
// library promises. Not more threads than CPUs of the process, however many are asked for. Cost of
// an empty call: executors_demo prints it.
#pragma once

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace rrs_examples {

// CPUs that this process may use, at least 1 (containers and taskset restrict them).
inline int usable_cpus() noexcept {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return count < 1 ? 1 : count;
}

class PersistentPool {
 public:
  // What the library takes: a small callable that refers to the pool.
  struct Executor {
    PersistentPool* pool;
    template <class Task>
    void operator()(std::int64_t n_tasks, const Task& task) const noexcept {
      pool->run(n_tasks, task);
    }
  };

  // `threads` counts the caller; 0 or too many: all CPUs. Fewer if the system refuses a thread.
  explicit PersistentPool(int threads = 0) {
    const int cpus = usable_cpus();
    const int team = threads < 1 || threads > cpus ? cpus : threads;
    members_.reserve(static_cast<std::size_t>(team - 1));
    try {
      for (int i = 1; i < team; ++i) members_.emplace_back([this] { serve(); });
    } catch (...) {  // no more threads: the ones that exist do the work
    }
  }
  // No call may be running.
  ~PersistentPool() {
    ending_.store(true, std::memory_order_seq_cst);
    announce();
    for (std::thread& member : members_) member.join();
  }
  PersistentPool(const PersistentPool&) = delete;
  PersistentPool& operator=(const PersistentPool&) = delete;

  int threads() const noexcept { return static_cast<int>(members_.size()) + 1; }
  Executor executor() noexcept { return Executor{this}; }

  // Calls task(i) once for every i in [0, n_tasks); returns when all are done.
  template <class Task>
  void run(std::int64_t n_tasks, const Task& task) noexcept {
    if (n_tasks <= 1 || members_.empty()) {
      for (std::int64_t i = 0; i < n_tasks; ++i) task(i);
      return;
    }
    job_ = Job{&call<Task>, &task, n_tasks};
    next_.store(0, std::memory_order_relaxed);
    gate_.fetch_or(kOpen, std::memory_order_release);
    announce();
    take_tasks();
    // Nobody waits for members that have not come: one whose CPU is busy elsewhere finds the gate
    // closed. Those inside must leave before the task dies and the job is written again.
    gate_.fetch_and(~kOpen, std::memory_order_relaxed);
    for (int spins = 0; gate_.load(std::memory_order_acquire) != 0; ++spins) relax(spins);
  }

 private:
  using Call = void (*)(const void* task, std::int64_t index) noexcept;
  struct Job {
    Call call = nullptr;
    const void* task = nullptr;
    std::int64_t tasks = 0;
  };
  // About 20 to 50 us: longer than the gap between two layers, shorter than a scheduler's slice.
  static constexpr int kSpins = 1000;
  static constexpr std::uint32_t kOpen = 1u << 31;

  template <class Task>
  static void call(const void* task, std::int64_t index) noexcept {
    (*static_cast<const Task*>(task))(index);
  }

  // Tells the CPU that this is a loop that waits; where it has no such instruction, nothing.
  static void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }

  // The caller waits for members that are working, so it never sleeps; but where another process
  // has the CPU of a member, it must not take the rest of its own slice from it.
  static void relax(int spins) noexcept {
    if (spins < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }

  // The lock is taken only when someone sleeps. Sequentially consistent on both sides: either the
  // sleeper sees the new call, or the caller sees the sleeper.
  void announce() noexcept {
    calls_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    { const std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }

  void take_tasks() noexcept {
    const Job job = job_;
    for (std::int64_t i = take(); i < job.tasks; i = take()) job.call(job.task, i);
  }
  std::int64_t take() noexcept { return next_.fetch_add(1, std::memory_order_relaxed); }

  bool has_call_after(std::uint64_t seen) const noexcept {
    return calls_.load(std::memory_order_seq_cst) != seen;
  }

  void wait_for_call_after(std::uint64_t seen) noexcept {
    for (int i = 0; i < kSpins; ++i) {
      if (has_call_after(seen)) return;
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [this, seen] { return has_call_after(seen); });
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

  void serve() noexcept {
    for (std::uint64_t seen = 0;;) {
      wait_for_call_after(seen);
      if (ending_.load(std::memory_order_seq_cst)) return;
      seen = calls_.load(std::memory_order_seq_cst);
      if ((gate_.fetch_add(1, std::memory_order_acquire) & kOpen) != 0) take_tasks();
      gate_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> members_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Job job_;
  // Each on its own line: members poll `calls_` while others count in `next_`.
  alignas(64) std::atomic<std::uint64_t> calls_{0};
  std::atomic<int> sleepers_{0};
  alignas(64) std::atomic<std::int64_t> next_{0};
  alignas(64) std::atomic<std::uint32_t> gate_{0};  // members inside, and kOpen
  std::atomic<bool> ending_{false};
};

}  // namespace rrs_examples
