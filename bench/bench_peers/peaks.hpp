// Multiply instructions of this machine, measured: the flat roofs. Bandwidth: peer_stream.cpp.
#pragma once

#include <string>
#include <vector>

namespace rrs_bench {

struct InstructionPeak {
  std::string level;
  std::string instruction;
  double macs_per_second = 0.0;  // independent registers, nothing else in the loop
  double ghz = 0.0;              // right after it
};

// vpmaddubsw ymm, vpmaddubsw zmm, vpdpbusd zmm, and vfmadd of both widths, as far as the CPU has
// them. Medians over rounds.
std::vector<InstructionPeak> measure_instruction_peaks(int rounds);

}  // namespace rrs_bench
