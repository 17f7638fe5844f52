// A small SVG chart: two axes, linear or logarithmic (base 2), lines, points and labels.
#pragma once

#include <string>
#include <vector>

namespace rrs_bench {

struct Axis {
  std::string title;
  double low = 0.0;
  double high = 1.0;
  bool logarithmic = false;
};

enum class Mark { kCircle, kSquare, kDiamond, kTriangle, kWedge };

struct Point {
  double x = 0.0;
  double y = 0.0;
};

class Chart {
 public:
  Chart(std::string title, Axis x, Axis y);

  void line(const std::vector<Point>& points, const std::string& ink, bool dashed = false);
  // The tooltip appears where SVG is shown in a browser.
  void point(Point at, Mark mark, const std::string& ink, const std::string& tooltip);
  // Text above a point, to its right; below it when `below`.
  void label(Point at, const std::string& text, const std::string& ink, bool below = false);
  // Another line of the legend, beside the plot.
  void legend(const std::string& text, Mark mark, const std::string& ink);

  void write(const std::string& path) const;

 private:
  double place_x(double x) const;
  double place_y(double y) const;
  void draw_axes();

  Axis x_, y_;
  std::string body_;
  int legend_lines_ = 0;
};

// The n-th of a few colours that can be told apart; they repeat.
inline constexpr int kColourCount = 16;
std::string colour(int n);

}  // namespace rrs_bench
