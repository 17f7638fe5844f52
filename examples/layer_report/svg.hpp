// The report as a picture: per layer, channel magnitudes through the pipeline beside the error of
// every preset.
#pragma once

#include <string>

#include "layer_report/report.hpp"

namespace layer_report {

std::string svg_text(const Report& report);

}  // namespace layer_report
