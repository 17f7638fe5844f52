// Left half of a layer's picture: channel magnitudes in three panels over one log axis.
#pragma once

#include "layer_report/canvas.hpp"
#include "layer_report/report.hpp"

namespace layer_report {

struct Box {
  double x = 0.0, y = 0.0, width = 0.0, height = 0.0;
};

void draw_panels(const LayerReport& layer, const Box& box, Canvas* canvas);

}  // namespace layer_report
