// RS without groups: one smoothing scale per channel. It has no integer product, so it is
// simulated.
#pragma once

#include <vector>

#include "layer_report/layers.hpp"
#include "rrs/pipeline/weight_view.hpp"

namespace layer_report {

// Y [M,N] of the published RS: channel maxima over all tokens, 4-bit codes per token, times the
// dequantized weight, accumulated in double.
std::vector<float> simulate_rs(const Layer& layer, const rrs::WeightView& weight);

}  // namespace layer_report
