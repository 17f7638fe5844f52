#pragma once
// Perplexity over bits per weight: the JSON records of `perplexity` as a picture and a table.
//
// From: files written by perplexity --json; to: `rrs-llm curve`. A record is on the frontier when
// no other has at most its bits and a lower perplexity, nor its perplexity with fewer bits. Methods
// whose linears are float are dashed lines, not points. Activations and cache may differ between
// points: the colour is the widest activation of the linears, and only records of one context,
// number of windows and cache width share a picture.

#include <cstddef>
#include <string>
#include <vector>

namespace rrs_llm {

struct CurvePoint {
  std::string method;
  double bits = 0.0;  // per weight, everything stored
  double perplexity = 0.0;
  int activation_bits = 16;  // the widest
  bool is_float = false;
  bool simulated = false;
  bool frontier = false;
  std::size_t windows = 0, context = 0;
  int kv_bits = 16;
  int kv_value_bits = 16;
};

// Records of one JSON text (an array, one record alone, or {"records": [...]} or {"methods":
// [...]}). Throws naming `source` and the record for anything that is not one.
std::vector<CurvePoint> read_points(const std::string& json, const std::string& source);

// Sorted by bits, frontier marked, the later of two records of one method kept. Throws when
// windows, context or cache differ, or nothing is left.
std::vector<CurvePoint> make_curve(std::vector<CurvePoint> points);

std::string curve_svg(const std::vector<CurvePoint>& curve, const std::string& title);
std::string curve_table(const std::vector<CurvePoint>& curve);

}  // namespace rrs_llm
