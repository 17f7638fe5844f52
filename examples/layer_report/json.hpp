// The report as JSON: an array of flat records.
#pragma once

#include <string>

#include "layer_report/report.hpp"

namespace layer_report {

// Undefined numbers become null.
std::string json_text(const Report& report);

}  // namespace layer_report
