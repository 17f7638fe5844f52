// What to do with each module, from its errors; and the recipe that does it.
#include <algorithm>
#include <cstdio>

#include "doctor.hpp"

namespace rrs_llm {
namespace {

constexpr double kBudget = 5.0;        // mean activation bits of the recipe
constexpr double kWorse = 1.5;         // times the median module: worth 8 bits
constexpr double kWeightsRule = 0.3;   // share of the activations below which weights are to blame
constexpr double kWeightsWorse = 1.2;  // times the median module's weight error
constexpr double kStillLost = 0.25;    // of the 4-bit activation error, left at 8 bits

std::string line(const char* format, double a, double b) {
  char text[200];
  std::snprintf(text, sizeof text, format, a, b);
  return text;
}

// Squared error of the activations alone, relative to the signal.
double activation_error(const ModuleReport& m, DoctorMethodIndex at) {
  return (std::max)(m.errors[at].noise - m.errors[kA16].noise, 0.0) / m.errors[kA16].signal;
}

double weight_error(const ModuleReport& m) { return m.errors[kA16].noise / m.errors[kA16].signal; }

template <class Value>
double median_of(const std::vector<ModuleReport>& modules, const Value& value) {
  std::vector<double> values;
  values.reserve(modules.size());
  for (const ModuleReport& m : modules) values.push_back(value(m));
  std::sort(values.begin(), values.end());
  return values.empty() ? 0.0 : values[(values.size() - 1) / 2];
}

void judge(double activation_median, double weight_median, ModuleReport* m) {
  const OutputError& four = m->errors[kRotated];
  m->activation_share = four.noise > 0.0 ? 1.0 - m->errors[kA16].noise / four.noise : 0.0;
  const double lost = activation_error(*m, kRotated);
  if (lost > kWorse * activation_median) {
    const bool sixteen = activation_error(*m, kA8) > kStillLost * lost;
    m->action = sixteen ? Action::kSixteenBits : Action::kEightBits;
    m->reason = line("its activations lose %.1f times as much as the median module's",
                     lost / activation_median, 0.0);
    return;
  }
  if (m->activation_share < kWeightsRule && weight_error(*m) > kWeightsWorse * weight_median) {
    m->action = Action::kBetterWeights;
    m->reason = line("%.0f %% of the error is the weights', %.1f times the median module's",
                     100.0 * (1.0 - m->activation_share), weight_error(*m) / weight_median);
    return;
  }
  m->action = Action::kFourBits;
  m->reason = line("rotation gains %.1f dB over plain 4 bits; %.1f dB remain",
                   four.sqnr_db() - m->errors[kPlain].sqnr_db(), four.sqnr_db());
}

int bits_of(Action action) {
  if (action == Action::kEightBits) return 8;
  return action == Action::kSixteenBits ? 16 : 4;
}

// NaN does not help.
bool beats_uniform(const DoctorReport& report, const MethodRecord& r) {
  const MethodRecord& uniform = record_of(report, "rrs");
  return r.kld_mean < uniform.kld_mean && r.perplexity <= uniform.perplexity;
}

}  // namespace

void advise(DoctorReport* report) {
  std::vector<ModuleReport>& modules = report->modules;
  const double activations =
      median_of(modules, [](const ModuleReport& m) { return activation_error(m, kRotated); });
  const double weights = median_of(modules, weight_error);
  double macs = 0.0;
  for (ModuleReport& m : modules) {
    judge(activations, weights, &m);
    macs += m.module.macs;
  }
  std::vector<ModuleReport*> worst;
  for (ModuleReport& m : modules) {
    if (bits_of(m.action) > 4) worst.push_back(&m);
  }
  std::stable_sort(worst.begin(), worst.end(), [](const auto* a, const auto* b) {
    return activation_error(*a, kRotated) > activation_error(*b, kRotated);
  });
  Recipe& recipe = report->recipe;
  recipe.method = "rrs";
  recipe.cost = "bits";
  recipe.mean_cost = 4.0;
  for (ModuleReport* m : worst) {
    const double more = m->module.macs / macs * static_cast<double>(bits_of(m->action) - 4);
    if (recipe.mean_cost + more > kBudget) {
      m->action = Action::kFourBits;
      m->reason += ", but others need the bits more";
      continue;
    }
    recipe.mean_cost += more;
    for (const std::size_t l : m->module.linears) {
      recipe.settings.push_back({linear_name(m->module.layer, l),
                                 "activation-bits=" + std::to_string(bits_of(m->action))});
    }
  }
  recipe.verdict =
      "by rule, from each module's own error: `plan` measures what a module does to the model";
}

const MethodRecord& record_of(const DoctorReport& report, const std::string& method) {
  for (const MethodRecord& r : report.records) {
    if (r.method == method) return r;
  }
  return report.records.front();
}

bool recipe_helps(const DoctorReport& report) {
  return beats_uniform(report, report.records.back());
}

bool tokens_spike(const DoctorReport& report) {
  return std::any_of(report.modules.begin(), report.modules.end(), [](const ModuleReport& m) {
    return rrs::spike_score(m.spikes) >= kSpikeRatio;
  });
}

bool prefix_helps(const DoctorReport& report) {
  return !report.prefix.empty() && beats_uniform(report, record_of(report, kSpikeRemedy));
}

double weights_share(const DoctorReport& report) {
  double activations = 0.0, all = 0.0;
  for (const ModuleReport& m : report.modules) {
    const double four = m.errors[kRotated].noise / m.errors[kRotated].signal;
    all += four;
    activations += four * m.activation_share;
  }
  return all > 0.0 ? 1.0 - activations / all : 0.0;
}

}  // namespace rrs_llm
