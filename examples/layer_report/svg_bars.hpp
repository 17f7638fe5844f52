// Right half of a layer's picture: the error of every preset as horizontal bars.
#pragma once

#include "layer_report/svg_panels.hpp"

namespace layer_report {

// Pixels that the bars of this layer need.
double bars_height(const LayerReport& layer);

void draw_bars(const LayerReport& layer, const Box& box, Canvas* canvas);

// What colours, stripes and columns mean: once per picture, one line at y.
void draw_bar_legend(double x, double y, Canvas* canvas);

}  // namespace layer_report
