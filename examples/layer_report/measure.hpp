// Runs every method on a layer: errors once, times in interleaved rounds.
//
// from: layers.hpp, methods.hpp, the library.  to: report.hpp.
#pragma once

#include <string>
#include <vector>

#include "layer_report/report.hpp"

namespace layer_report {

// Throws UserError when the library refuses (e.g. an unknown RRS_ISA).
LayerReport measure_layer(const Layer& layer, const std::vector<Method>& methods, int rounds);

// A report without layers: what runs, and where.
Report describe_run(const std::string& file, int rounds);

// "AMD EPYC ..., kernels avx512vnni, g++ 12.2, one thread".
std::string machine_text();

}  // namespace layer_report
