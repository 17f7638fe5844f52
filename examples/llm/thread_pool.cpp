#include "thread_pool.hpp"

#include <chrono>
#include <stdexcept>

namespace rrs_llm {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kSpins = 4000;  // about 50 us: longer than the gaps between the calls of one token

inline void pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads < 1 || threads > kMostThreads) {
    throw std::runtime_error("threads: " + std::to_string(threads) + " is not 1 to " +
                             std::to_string(kMostThreads));
  }
  for (int i = 1; i < threads; ++i) members_.emplace_back([this] { member(); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& thread : members_) thread.join();
}

void ThreadPool::work() const noexcept {
  for (std::int64_t i = next_.fetch_add(1); i < job_.tasks; i = next_.fetch_add(1)) {
    job_.call(job_.task, i);
  }
}

void ThreadPool::run(std::int64_t n_tasks, Call function, const void* task) const noexcept {
  job_ = Job{function, task, n_tasks};
  next_.store(0);
  busy_.store(static_cast<std::int64_t>(members_.size()));
  generation_.fetch_add(1);  // publishes the job
  if (sleepers_.load() > 0) {
    // The lock orders this with a member that is about to sleep.
    { const std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  work();
  // The task lives on our stack: every member must have left it.
  for (int spins = 0; busy_.load() > 0; ++spins) {
    if (spins < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::member() noexcept {
  std::uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (generation_.load() == seen && spins < kSpins) {
      pause();
      ++spins;
    }
    if (generation_.load() == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      sleepers_.fetch_sub(1);
    }
    if (stop_.load()) return;
    seen = generation_.load();  // one call at a time: the next waits for this member
    work();
    busy_.fetch_sub(1);
  }
}

}  // namespace rrs_llm
