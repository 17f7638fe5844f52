// Benchmarks stop at the first error: a wrong call must not be timed.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include "rrs/core/status.hpp"

namespace rrs_bench {

[[noreturn]] inline void stop(const std::string& why) {
  std::fprintf(stderr, "benchmark stopped: %s\n", why.c_str());
  std::exit(1);
}

inline void check(const rrs::Status& status) {
  if (!status.ok()) stop(status.message());
}

}  // namespace rrs_bench
