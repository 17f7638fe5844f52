// SmoothQuant's channel scales for one layer.
#pragma once

#include <vector>

#include "layer_report/layers.hpp"

namespace layer_report {

// From the calibration tokens, or from the input itself where the file has none.
std::vector<float> smoothquant_divisor(const Layer& layer, float alpha);

}  // namespace layer_report
