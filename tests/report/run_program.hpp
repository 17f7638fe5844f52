#pragma once
// layer_report as its user starts it.

#include <vector>

#include "layer_report/program.hpp"

namespace rrs_test {

inline int run_program(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "layer_report");
  return layer_report::run_program(static_cast<int>(arguments.size()), arguments.data());
}

}  // namespace rrs_test
