// Channel magnitudes through the pipeline, for the picture.
#pragma once

#include "layer_report/report.hpp"

namespace layer_report {

// Fills before, rotated and smoothed of the report, under the scheme `rrs`.
void measure_channels(const Layer& layer, LayerReport* report);

}  // namespace layer_report
