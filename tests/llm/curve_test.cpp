// llm/curve: frontier, refusals, and a picture that holds every record.
#include "llm/curve.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace {

std::string record(const std::string& method, double bits, double perplexity, int windows = 3,
                   const std::string& precision = "w4a4") {
  return "{\"method\":\"" + method + "\",\"bits_per_weight\":" + std::to_string(bits) +
         ",\"perplexity\":" + std::to_string(perplexity) +
         ",\"windows\":" + std::to_string(windows) +
         ",\"context\":2048,\"kv_bits\":16,\"linears\":[{\"precision\":\"" + precision + "\"}]}";
}

std::vector<rrs_llm::CurvePoint> points(const std::vector<std::string>& records) {
  std::string json = "[";
  for (const std::string& r : records) json += (json.size() > 1 ? "," : "") + r;
  return rrs_llm::read_points(json + "]", "records.json");
}

std::string error_of(const std::vector<std::string>& records) {
  try {
    rrs_llm::make_curve(points(records));
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "";
}

TEST(Curve, MarksTheFrontier) {
  const auto curve = rrs_llm::make_curve(
      points({record("fp", 32, 22.9, 3, "fp"), record("c", 5.0, 25.0), record("a", 4.5, 26.0),
              record("worse", 4.5, 27.0), record("dominated", 5.5, 25.5),
              record("last", 6.0, 24.0, 3, "w4a8"), record("c", 5.0, 25.0)}));
  std::string order, frontier;
  for (const rrs_llm::CurvePoint& p : curve) {
    order += p.method + " ";
    if (p.frontier) frontier += p.method + " ";
  }
  EXPECT_EQ(order, "a worse c dominated last fp ");
  EXPECT_EQ(frontier, "a c last ");
  EXPECT_EQ(curve[4].activation_bits, 8);
  const std::string table = rrs_llm::curve_table(curve);
  EXPECT_NE(table.find("26.0000"), std::string::npos) << table;
  const std::string svg = rrs_llm::curve_svg(curve, "a < b");
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  std::size_t circles = 0;
  for (std::size_t at = 0; (at = svg.find("<title>", at)) != std::string::npos; ++at) ++circles;
  EXPECT_EQ(circles, 5u);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
}

// As accuracy_table.py keeps them, one object a file.
TEST(Curve, OneRecordAloneIsRead) {
  const auto read = rrs_llm::read_points(record("rrs", 4.5, 26.0), "rrs.json");
  ASSERT_EQ(read.size(), 1u);
  EXPECT_EQ(read[0].method, "rrs");
  EXPECT_EQ(read[0].bits, 4.5);
  EXPECT_THROW(rrs_llm::read_points("{\"method\":\"rrs\"}", "rrs.json"), std::runtime_error);
}

// A method whose linears are float is a line, whatever it is called: at 32 bits per weight it would
// stretch the axis.
TEST(Curve, FloatMethodsAreLines) {
  const auto curve = rrs_llm::make_curve(points(
      {record("fp", 32, 22.9, 3, "fp"), record("fp+qfep", 32, 22.8, 3, "fp"),
       record("rrs", 4.5, 26.0), record("partly", 20.0, 23.0, 3, "fp\"},{\"precision\":\"w4a4")}));
  std::string floats;
  for (const rrs_llm::CurvePoint& p : curve) floats += p.is_float ? p.method + " " : "";
  EXPECT_EQ(floats, "fp+qfep fp ");
  const std::string svg = rrs_llm::curve_svg(curve, "t");
  EXPECT_NE(svg.find("fp+qfep 22.80"), std::string::npos);
  EXPECT_EQ(svg.find("fp+qfep: "), std::string::npos);  // not a point
}

TEST(Curve, OnePointIsAPicture) {
  const auto curve = rrs_llm::make_curve(points({record("only", 4.5, 25.0)}));
  EXPECT_EQ(rrs_llm::curve_svg(curve, "").find("nan"), std::string::npos);
}

TEST(Curve, RefusesWhatDoesNotCompare) {
  EXPECT_NE(error_of({record("a", 4.5, 25), record("b", 4.5, 25, 20)}).find("method b"),
            std::string::npos);
  std::string other_values = record("b", 4.5, 25);  // records of before have no such field
  other_values.replace(other_values.find("\"kv_bits\":16"), 12,
                       "\"kv_bits\":16,\"kv_value_bits\":4");
  EXPECT_NE(error_of({record("a", 4.5, 25), other_values}).find("16 bits (values: 4)"),
            std::string::npos);
  EXPECT_NE(error_of({record("fp", 32, 22.9)}).find("quantized"), std::string::npos);
  EXPECT_NE(error_of({record("a", 4.5, 25), "{\"method\":\"b\"}"}).find("record 1"),
            std::string::npos);
  EXPECT_NE(error_of({record("a", 4.5, -1)}).find("above 0"), std::string::npos);
  EXPECT_THROW(rrs_llm::read_points("{}", "f"), std::runtime_error);
  EXPECT_THROW(rrs_llm::read_points("[", "f"), std::runtime_error);
}

}  // namespace
