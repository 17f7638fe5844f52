// A few SVG primitives that append to a string. Coordinates in pixels, y downwards.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace layer_report {

struct TextStyle {
  double size = 12.0;
  const char* anchor = "start";  // start, middle, end
  const char* colour = "#24292f";
  bool bold = false;
};

class Canvas {
 public:
  Canvas(double width, double height);

  void text(double x, double y, const std::string& content, const TextStyle& style = TextStyle{});
  void rect(double x, double y, double width, double height, const std::string& fill,
            double radius = 0.0);
  void line(double x1, double y1, double x2, double y2, const char* colour, double width = 1.0,
            const char* dashes = nullptr);
  void polygon(const std::vector<std::pair<double, double>>& corners, const char* fill);
  void polyline(const std::vector<std::pair<double, double>>& corners, const char* colour,
                double width);
  // Diagonal stripes of a colour: fill with "url(#id)".
  void stripes(const char* id, const char* colour);

  std::string finish() const { return out_ + "</svg>\n"; }

 private:
  void points(const std::vector<std::pair<double, double>>& points);

  std::string out_;
};

}  // namespace layer_report
