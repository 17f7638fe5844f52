// Two clocks per measurement: wall time, and the CPU time of the calling thread.
//
// On a machine that is shared, wall time counts what others did meanwhile; the CPU time of the
// thread does not. With one thread CPU time is the result; with several, wall time (CPU time of one
// thread says nothing then). Both are kept, so that a reader sees when they differ.
#pragma once

#include <time.h>

namespace rrs_bench {

struct Seconds {
  double cpu = 0.0;  // calling thread
  double wall = 0.0;
};

inline double read_clock(clockid_t id) noexcept {
  timespec t{};
  clock_gettime(id, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

inline Seconds now() noexcept {
  return {read_clock(CLOCK_THREAD_CPUTIME_ID), read_clock(CLOCK_MONOTONIC)};
}

inline Seconds since(const Seconds& start) noexcept {
  const Seconds t = now();
  return {t.cpu - start.cpu, t.wall - start.wall};
}

}  // namespace rrs_bench
