// Pictures of the doctor's page.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "doctor_page.hpp"
#include "html.hpp"

namespace rrs_llm {
namespace {

constexpr int kWidth = 340;
constexpr int kHeight = 206;
constexpr int kBase = 166;  // of the foremost row
constexpr int kStepY = 5;   // from one row to the next, into the depth
constexpr int kStepX = 3;
constexpr int kPeak = 62;  // pixels of the largest value

std::string format(const char* text, double a, double b = 0.0) {
  char out[96];
  std::snprintf(out, sizeof out, text, a, b);
  return out;
}

std::string magnitude(double v) {
  return format(v >= 100.0 || v == 0.0 ? "%.0f" : v >= 1.0 ? "%.1f" : "%.3f", v);
}

// Light blue to dark red over [0, 1].
std::string colour(double part) {
  struct Stop {
    double at;
    int r, g, b;
  };
  static constexpr Stop kStops[] = {{0.0, 238, 243, 248},
                                    {0.35, 158, 197, 226},
                                    {0.6, 244, 190, 110},
                                    {0.8, 222, 97, 60},
                                    {1.0, 140, 20, 30}};
  const double p = std::isnan(part) ? 1.0 : (std::min)((std::max)(part, 0.0), 1.0);
  std::size_t i = 1;
  while (i + 1 < sizeof kStops / sizeof kStops[0] && p > kStops[i].at) ++i;
  const Stop &a = kStops[i - 1], &b = kStops[i];
  const double t = (p - a.at) / (b.at - a.at);
  const auto mix = [&](int x, int y) {
    return static_cast<int>(std::lround(static_cast<double>(x) + t * static_cast<double>(y - x)));
  };
  char out[16];
  std::snprintf(out, sizeof out, "#%02x%02x%02x", mix(a.r, b.r), mix(a.g, b.g), mix(a.b, b.b));
  return out;
}

// One row of the surface as a filled shape, in relative steps to keep the file small.
std::string ridge(const std::array<float, Surface::kColumns>& row, float largest,
                  std::size_t depth) {
  const int columns = static_cast<int>(Surface::kColumns);
  const int x0 = 8 + kStepX * static_cast<int>(depth);
  const int y0 = kBase - kStepY * static_cast<int>(depth);
  const int width = (kWidth - 16 - kStepX * static_cast<int>(Surface::kRows)) / columns;
  std::string d = "M" + std::to_string(x0) + " " + std::to_string(y0);
  int at = 0;
  float most = 0.0f;
  for (const float v : row) {
    most = (std::max)(most, v);
    const double part = largest > 0.0f ? static_cast<double>(v / largest) : 0.0;
    const int up = static_cast<int>(std::lround(part * kPeak));
    d += (d.find('l') == std::string::npos ? "l" : " ") + std::to_string(width) + " " +
         std::to_string(at - up);
    at = up;
  }
  d += "v" + std::to_string(at) + "z";
  const double part = largest > 0.0f ? static_cast<double>(most / largest) : 0.0;
  return "<path d=\"" + d + "\" fill=\"" + colour(0.15 + 0.75 * part) + "\"/>";
}

}  // namespace

std::string surface_svg(const Surface& s, const std::string& title) {
  std::string out = "<svg class=\"surface\" viewBox=\"0 0 " + std::to_string(kWidth) + " " +
                    std::to_string(kHeight) + "\" role=\"img\"><title>" + html_text(title) +
                    "</title><text x=\"8\" y=\"15\" class=\"t\">" + html_text(title) +
                    "</text><g stroke=\"#3b4a59\" stroke-width=\".6\">";
  for (std::size_t i = Surface::kRows; i > 0; --i) out += ridge(s.cells[i - 1], s.largest, i - 1);
  out +=
      "</g><text x=\"8\" y=\"184\">channels &#x2192;, tokens &#x2197;</text><text x=\"8\" "
      "y=\"199\">largest " +
      magnitude(static_cast<double>(s.largest)) + ", typical " +
      magnitude(static_cast<double>(s.median)) + "</text></svg>\n";
  return out;
}

std::string map_svg(const std::vector<std::vector<MapCell>>& rows,
                    const std::vector<std::string>& names, double low, double high) {
  constexpr int kLeft = 92, kCellHeight = 24, kTop = 4;
  const std::size_t columns = rows.empty() ? 0 : rows.front().size();
  const int cell = columns > 48 ? 12 : 22;
  const int width = kLeft + cell * static_cast<int>(columns) + 8;
  const int height = kTop + kCellHeight * static_cast<int>(rows.size()) + 20;
  std::string out = "<svg class=\"map\" viewBox=\"0 0 " + std::to_string(width) + " " +
                    std::to_string(height) + "\" role=\"img\">";
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const int y = kTop + kCellHeight * static_cast<int>(r);
    out += "<text x=\"" + std::to_string(kLeft - 6) + "\" y=\"" + std::to_string(y + 16) +
           "\" text-anchor=\"end\">" + html_text(names[r]) + "</text>";
    for (std::size_t c = 0; c < rows[r].size(); ++c) {
      const MapCell& at = rows[r][c];
      const double part = (std::log10((std::max)(at.value, 1e-12)) - std::log10(low)) /
                          (std::log10(high) - std::log10(low));
      out += "<a href=\"" + html_text(at.link) + "\"><rect x=\"" +
             std::to_string(kLeft + cell * static_cast<int>(c)) + "\" y=\"" + std::to_string(y) +
             "\" width=\"" + std::to_string(cell - 2) + "\" height=\"" +
             std::to_string(kCellHeight - 2) + "\" fill=\"" + colour(part) + "\"><title>" +
             html_text(at.label) + "</title></rect></a>";
    }
  }
  for (std::size_t c = 0; c < columns; c += 5) {
    out += "<text x=\"" + std::to_string(kLeft + cell * static_cast<int>(c) + cell / 2) +
           "\" y=\"" + std::to_string(height - 5) + "\" text-anchor=\"middle\">" +
           std::to_string(c) + "</text>";
  }
  return out + "</svg>\n";
}

}  // namespace rrs_llm
