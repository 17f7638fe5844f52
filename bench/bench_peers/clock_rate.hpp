// The clock of this core, now. CPUs lower it within microseconds while a loop draws much current,
// and raise it again as soon: a result in operations per cycle needs the clock of that very moment.
#pragma once

namespace rrs_bench {

// GHz over the next 0.3 us, by the latency of a chain of imul (3 cycles each on Intel since Nehalem
// and on AMD Zen). Takes about 0.6 us; the first call 10 ms, to find the rate of the time stamp
// counter. Call it once before, then right after the work, without a system call between (on a
// Granite Rapids the clock comes back 2 to 3 us after the work has ended).
double core_ghz();

}  // namespace rrs_bench
