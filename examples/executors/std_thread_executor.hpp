// StdThreadExecutor: fresh threads for every call, as an executor (rrs/core/executor.hpp).
//
// Use it where calls are rare and long, or to try threads without keeping any: a call costs tens of
// microseconds per thread. Stateless, so calls may overlap. Tasks come from a shared counter; when
// the system refuses a thread, those that exist do the work.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace rrs_examples {

class StdThreadExecutor {
 public:
  explicit StdThreadExecutor(int threads) noexcept : threads_(threads) {}

  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const {
    std::atomic<std::int64_t> next{0};
    const auto work = [&next, &task, n_tasks] {
      for (std::int64_t i = next++; i < n_tasks; i = next++) task(i);
    };
    std::vector<std::thread> team;
    try {
      for (std::int64_t i = 1; i < threads_ && i < n_tasks; ++i) team.emplace_back(work);
    } catch (...) {  // no more threads or memory
    }
    work();
    for (std::thread& member : team) member.join();
  }

 private:
  int threads_;
};

}  // namespace rrs_examples
