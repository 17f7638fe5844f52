// A persistent pool as executor: workers spin briefly, then sleep. For benchmarks.
//
// One call at a time. Tasks are taken from a shared counter; the calling thread takes part.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace rrs_bench {

class ThreadPool {
 public:
  explicit ThreadPool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { serve(); });
  }
  ~ThreadPool() {
    publish(nullptr, nullptr, 0);
    for (std::thread& w : workers_) w.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  template <class Task>
  void run(std::int64_t n_tasks, const Task& task) {
    next_.store(0, std::memory_order_relaxed);
    publish(&call<Task>, &task, n_tasks);
    take_tasks();
    while (busy_.load(std::memory_order_acquire) != 0) pause();
  }

 private:
  using Call = void (*)(const void*, std::int64_t);
  static constexpr int kSpins = 20000;

  template <class Task>
  static void call(const void* task, std::int64_t index) {
    (*static_cast<const Task*>(task))(index);
  }
  static void pause() { __builtin_ia32_pause(); }

  void publish(Call function, const void* task, std::int64_t n_tasks) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      call_ = function;
      task_ = task;
      n_tasks_ = n_tasks;
      busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }

  void take_tasks() {
    for (std::int64_t i = next_++; i < n_tasks_; i = next_++) call_(task_, i);
  }

  void wait_for(std::uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      if (epoch_.load(std::memory_order_acquire) != seen) return;
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
  }

  void serve() {
    for (std::uint64_t seen = 0;; ++seen) {
      wait_for(seen);
      if (call_ == nullptr) return;
      take_tasks();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<std::uint64_t> epoch_{0};
  std::atomic<std::int64_t> next_{0};
  std::atomic<int> busy_{0};
  Call call_ = nullptr;
  const void* task_ = nullptr;
  std::int64_t n_tasks_ = 0;
};

// What the library takes: a small callable that refers to a pool.
struct PoolExecutor {
  ThreadPool* pool;

  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const {
    if (pool->threads() == 1) {
      for (std::int64_t i = 0; i < n_tasks; ++i) task(i);
    } else {
      pool->run(n_tasks, task);
    }
  }
};

}  // namespace rrs_bench
