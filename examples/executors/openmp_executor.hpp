// OpenMpExecutor: the OpenMP runtime's team, as an executor (rrs/core/executor.hpp).
//
// Use it in a program that uses OpenMP anyway, so that there is one set of threads. Compile with
// -fopenmp (without it the pragma is ignored and everything runs on the caller). Inside a parallel
// region it is serial unless nested regions are enabled. OMP_WAIT_POLICY decides whether idle
// threads spin. ThreadSanitizer does not know libgomp's barriers: expect false reports there.
#pragma once

#include <cstdint>

namespace rrs_examples {

class OpenMpExecutor {
 public:
  explicit OpenMpExecutor(int threads) noexcept : threads_(threads) {}

  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const noexcept {
    [[maybe_unused]] const int threads =
        n_tasks < threads_ ? static_cast<int>(n_tasks < 1 ? 1 : n_tasks) : threads_;
#if defined(_OPENMP)
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
#endif
    for (std::int64_t i = 0; i < n_tasks; ++i) task(i);
  }

 private:
  int threads_;
};

}  // namespace rrs_examples
