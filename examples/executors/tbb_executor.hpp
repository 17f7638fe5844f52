// TbbExecutor: oneTBB's workers, as an executor (rrs/core/executor.hpp).
//
// Use it in a program that uses oneTBB anyway, so that there is one set of threads. Each call runs
// inside the arena, which bounds the number of threads; a task may be stolen by any of its workers.
// isolate: the caller, while it waits, must not pick up unrelated work that calls the library with
// the same workspace again.
#pragma once

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>

#include <cstdint>

namespace rrs_examples {

class TbbExecutor {
 public:
  // `arena` outlives the executor, e.g. tbb::task_arena(4).
  explicit TbbExecutor(tbb::task_arena& arena) noexcept : arena_(&arena) {}

  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const {
    arena_->execute([n_tasks, &task] {
      tbb::this_task_arena::isolate([n_tasks, &task] {
        // Grains of one: the library already cuts its work into few tasks.
        tbb::parallel_for(
            tbb::blocked_range<std::int64_t>(0, n_tasks, 1),
            [&task](const tbb::blocked_range<std::int64_t>& range) {
              for (std::int64_t i = range.begin(); i < range.end(); ++i) task(i);
            },
            tbb::simple_partitioner{});
      });
    });
  }

 private:
  tbb::task_arena* arena_;
};

}  // namespace rrs_examples
