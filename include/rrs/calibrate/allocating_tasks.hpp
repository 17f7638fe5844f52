// Tasks that allocate, for executors whose tasks must not throw.
//
// from: calibrate/ (its tasks need scratch of their own).  to: any executor (core/executor.hpp).
// Offline. A task that finds no memory is left there and then; the others run, and the call says
// kOutOfMemory. What the tasks had written until then is unspecified.
#pragma once

#include <atomic>
#include <cstdint>
#include <new>

#include "rrs/core/config.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/status.hpp"

RRS_FUNCTIONS_BEGIN

namespace detail {

template <class Executor, class Task>
Status run_allocating_tasks(const Executor& executor, std::int64_t n_tasks, const Task& task) {
  std::atomic<bool> failed{false};
  run_tasks(executor, n_tasks, [&](std::int64_t i) noexcept {
#if defined(__cpp_exceptions)
    try {
      task(i);
    } catch (const std::bad_alloc&) {
      failed.store(true, std::memory_order_relaxed);
    }
#else
    task(i);
#endif
  });
  if (!failed.load()) return Status{};
  return Status{
      StatusCode::kOutOfMemory, "scratch", "of a task could not be allocated", 0, 0, nullptr};
}

}  // namespace detail

RRS_FUNCTIONS_END
