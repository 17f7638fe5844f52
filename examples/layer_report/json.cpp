#include "layer_report/json.hpp"

#include <cmath>

#include <nlohmann/json.hpp>

namespace layer_report {
namespace {

using Json = nlohmann::ordered_json;

Json finite_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json record_json(const LayerReport& layer, const Record& r) {
  const rrs::Scheme& s = r.method.scheme;
  Json out;
  out["layer"] = layer.name;
  out["method"] = r.method.name;
  out["window"] = window_text(s.activation.window);
  out["activation_bits"] = s.activation.bits;
  out["activation_group"] = s.simulated ? 1 : s.activation.group;  // RS: each channel its own
  out["weight_bits"] = s.weight.bits;
  out["weight_group"] = s.weight.group;
  out["error_median"] = finite_or_null(r.errors.median);
  out["error"] = finite_or_null(r.errors.all);
  out["victim_error"] = finite_or_null(r.errors.victims);
  out["error_worst"] = finite_or_null(r.errors.worst);
  out["bits_per_weight"] = finite_or_null(r.bits_per_weight);
  out["prepare_ms"] = finite_or_null(r.prepare_ms);
  out["gemm_ms"] = finite_or_null(r.gemm_ms);
  out["kernel"] = r.kernel;
  out["simulated"] = s.simulated;
  return out;
}

}  // namespace

std::string json_text(const Report& report) {
  Json all = Json::array();
  for (const LayerReport& layer : report.layers) {
    for (const Record& r : layer.records) all.push_back(record_json(layer, r));
  }
  return all.dump(1) + "\n";
}

}  // namespace layer_report
