// The report as text.
#pragma once

#include <string>

#include "layer_report/report.hpp"

namespace layer_report {

std::string header_text(const Report& report);     // what the columns mean
std::string layer_text(const LayerReport& layer);  // one layer: presets, then variants of rrs
std::string footer_text(const Report& report);     // medians side by side, kernels, machine

// About three digits, without exponent up to a million; "-" when undefined.
std::string short_number(double value);

}  // namespace layer_report
