#include "bench_peers/clock_rate.hpp"

#include <x86intrin.h>

#include <cstdint>

#include "support/clock.hpp"

namespace rrs_bench {
namespace {

constexpr double kCalibration = 0.01;  // seconds

double counter_rate() {
  const Seconds start = now();
  const std::uint64_t first = __rdtsc();
  double seconds = 0.0;
  while (seconds < kCalibration) seconds = since(start).wall;
  return static_cast<double>(__rdtsc() - first) / seconds;
}

// Ticks of `loops` times ten dependent multiplications, the fence before and after included.
std::uint64_t chain_ticks(std::int64_t loops) {
  std::uint64_t x = 3;
  __asm__ volatile("lfence" : : : "memory");
  const std::uint64_t first = __rdtsc();
  __asm__ volatile(
      "lfence\n1:\n"
      ".rept 10\nimul %[x], %[x]\n.endr\n"
      "sub $1, %[loops]\njnz 1b\nlfence\n"
      : [x] "+r"(x), [loops] "+r"(loops)
      :
      : "memory", "cc");
  return __rdtsc() - first;
}

}  // namespace

double core_ghz() {
  static const double rate = counter_rate();
  chain_ticks(2);  // its code in L1, its branch learnt
  const auto fence = static_cast<double>(chain_ticks(2));
  const auto ticks = static_cast<double>(chain_ticks(42));
  return 1e-9 * 40 * 10 * 3 / ((ticks - fence) / rate);
}

}  // namespace rrs_bench
