// The baseline of the speed column: Eigen's float product, Y = X W^T.
#pragma once

#include <string>
#include <vector>

#include "layer_report/layers.hpp"

namespace layer_report {

void eigen_product(const Layer& layer, std::vector<float>* y);

// Version of Eigen and the SIMD set that it was compiled for.
std::string eigen_text();

}  // namespace layer_report
