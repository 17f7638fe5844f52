// Executors: how the caller lends its threads. The library never creates one.
//
// An executor is any callable executor(n_tasks, task) that calls task(i) exactly once for every i
// in [0, n_tasks), in any order, on any threads, and returns when all are done. `task` is a
// callable taking std::int64_t; it is noexcept and lives until the executor returns. Results never
// depend on the executor: each output element is computed by one task in one order.
//
// An executor that leaves tasks out, runs them again or at once, or asks for an index that does not
// exist gives wrong results, but touches no memory that is not the call's. One promise is trusted
// and cannot be checked: to return only when no task runs any more.
#pragma once

#include <cstdint>

#include "rrs/core/config.hpp"

RRS_TYPES_BEGIN

// Runs every task on the calling thread, in order. The default everywhere.
struct SerialExecutor {
  template <class Task>
  RRS_MEMBER void operator()(std::int64_t n_tasks, const Task& task) const noexcept {
    for (std::int64_t i = 0; i < n_tasks; ++i) task(i);
  }
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

// executor(n_tasks, task); indices outside [0, n_tasks) do nothing. The only call of an executor.
template <class Executor, class Task>
void run_tasks(const Executor& executor, std::int64_t n_tasks, const Task& task) {
  executor(n_tasks, [&task, n_tasks](std::int64_t i) noexcept {
    if (i >= 0 && i < n_tasks) task(i);
  });
}

}  // namespace detail

RRS_FUNCTIONS_END
