#include "plan.hpp"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "../support/quoted_name.hpp"
#include "plan_measure.hpp"
#include "quantized_file.hpp"

namespace rrs_llm {
namespace {

// 16-bit activations are tried per module when 8 bits lose more than this share of what the base
// loses.
constexpr double kWorthSixteen = 0.05;
constexpr std::size_t kCheckpoints = 12;  // of a search by tolerance

struct Option {
  std::string set;  // "" for the base
  Method method;
  Contestant ready;  // its linears
};

// Whole layer of 4096 x 4096 at 512 tokens, ratios of bench/README.md's table: 8 bits over 4 at
// groups of 128, float activations over 4 bits at 32. The scalar level multiplies everything at
// about the same speed. avxvnni and amx have no kernel for float activations: avxvnni runs avx2's
// (254 ms, its own 4 bits take 67), amx avx512vnni's (3.2 times 41 ms, its own 4 bits take 39).
// Groups of 16: twice the conversions of 32, extrapolated from 128 and 32.
struct LevelCost {
  const char* isa;
  double eight, sixteen;
};

LevelCost level_cost(const std::string& isa) {
  static constexpr LevelCost kLevels[] = {{"scalar", 1.0, 1.0},     {"avx2", 1.11, 2.44},
                                          {"avxvnni", 1.0, 3.79},   {"avx512", 1.09, 1.67},
                                          {"avx512vnni", 1.0, 3.2}, {"amx", 1.0, 3.35}};
  std::string known;
  for (const LevelCost& level : kLevels) {
    if (isa == level.isa) return level;
    known += (known.empty() ? "" : ", ") + std::string(level.isa);
  }
  throw std::runtime_error("isa " + rrs_examples::quoted_name(isa) + " is not one of " + known);
}

std::string line(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string line(const char* format, ...) {
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

Method with_setting(const PlanOptions& o, const std::string& set) {
  std::vector<Setting> settings = o.settings;
  if (!set.empty()) {
    for (const Setting& s : parse_settings("", set, ',')) settings.push_back(s);
  }
  return make_method(o.method, settings);
}

// Per MAC of the module, more than the base's branch.
double rank_cost(const PlanOptions& o, const PlanModule& m, int rank, const AserSpec& base) {
  if (rank == base.rank) return 0.0;
  const double numbers = static_cast<double>(rank - base.rank) * m.edges / m.macs;
  return numbers * (o.isa.empty() ? static_cast<double>(base.bits) : branch_cost(o.isa));
}

double option_cost(const PlanOptions& o, const rrs::ActivationScheme& a, int base_group) {
  if (!o.isa.empty()) return kernel_cost(o.isa, a);
  const auto scale_bits = [](int group) {
    return group == rrs::kRowGroup ? 0.0 : 16.0 / static_cast<double>(group);
  };
  const double bits = static_cast<double>(a.bits);
  return a.bits == rrs::kActivationFloat ? bits
                                         : bits + scale_bits(a.group) - scale_bits(base_group);
}

class Planner {
 public:
  Planner(Session* session, const PlanOptions& options, const PlanProgress& progress)
      : session_(*session),
        o_(options),
        progress_(progress),
        modules_(plan_modules(session->model().config())) {}

  PlanResult run(const std::vector<TokenId>& tokens) {
    const auto cut = tokens.begin() + static_cast<std::ptrdiff_t>(tokens.size() / 3 * 2);
    search_.assign(tokens.begin(), cut);
    held_out_.assign(cut, tokens.end());
    // Texts that will not do are refused before the work.
    search_windows_ = spread_windows(search_, o_.windows, o_.context);
    spread_windows(held_out_, o_.held_out_windows, o_.held_out_context);
    // Branches must not see the held-out text; without ranks, calibration is the method's own
    // matter.
    if (!o_.ranks.empty()) session_.use_calibration_tokens(search_);
    prepare_options();
    measure();
    const std::size_t count = o_.tolerance >= 0.0 ? count_for_tolerance() : count_for_budget();
    Recipe recipe = recipe_of(count);
    verify(&recipe);
    return PlanResult{recipe, report_ + recipe.verdict + "\n"};
  }

 private:
  void prepare_options() {
    add_option("");
    const rrs::ActivationScheme& base = options_[0].method.plan(0, 0).scheme.activation;
    if (options_[0].method.kind != LinearKind::kRrs) {
      throw std::runtime_error("method " + o_.method + ": its activations cannot be planned");
    }
    const std::vector<std::string> ranks = larger_ranks();
    const std::string best = ranks.empty() ? "" : ",rank=" + ranks.back();
    std::string most;  // bits of up to 8
    for (const std::string& bits : o_.bits) {
      const int count = std::atoi(bits.c_str());
      if (count <= base.bits) continue;
      // Beyond 8 bits with the branch of the clean option, so that only the bits differ.
      add_option("activation-bits=" + bits + (count > 8 ? best : ""));
      if (count <= 8 && count > std::atoi(most.c_str())) most = bits;
    }
    for (const std::string& group : o_.groups) add_option("activation-group=" + group);
    for (const std::string& rank : ranks) add_option("rank=" + rank);
    for (std::size_t i = 0; i < ranks.size() && !most.empty(); ++i) {
      add_option("activation-bits=" + most + ",rank=" + ranks[i]);
    }
    if (options_.size() == 1) {
      throw std::runtime_error("options: nothing is more precise than the base, " + o_.method);
    }
    report_tried();
    clean_ = 1;
    for (std::size_t i = 1; i < options_.size(); ++i) {
      const bool more = bits_of(i) > bits_of(clean_) ||
                        (bits_of(i) == bits_of(clean_) && rank_of(i) > rank_of(clean_));
      if (bits_of(i) <= 8 && (more || bits_of(clean_) > 8)) clean_ = i;
    }
    // Groups and ranks only: the last has the largest rank, or is the last group.
    if (bits_of(clean_) == bits_of(0)) clean_ = options_.size() - 1;
  }

  void report_tried() {
    report_ += "tried per module:";
    for (std::size_t i = 1; i < options_.size(); ++i) report_ += " " + options_[i].set;
    if (o_.groups.empty()) report_ += "; no groups (--groups 16)";
    if (o_.ranks.empty()) report_ += "; no low ranks (--ranks 8,16)";
    report_ += "\n";
    if (o_.ranks.empty() && options_[0].method.needs_calibration()) {
      report_ +=
          "the base's weights may have been calibrated on the held-out text, too: compare the rows "
          "there with each other only\n";
    }
  }

  // Of the ranks to try: those above the base's, smallest first.
  std::vector<std::string> larger_ranks() const {
    std::vector<int> values;
    for (const std::string& rank : o_.ranks) {
      LinearPlan probe;
      apply_setting(Setting{"", "rank", rank}, &probe);  // throws
      if (probe.weight.aser.rank > rank_of(0)) values.push_back(probe.weight.aser.rank);
    }
    std::sort(values.begin(), values.end());
    std::vector<std::string> texts;
    texts.reserve(values.size());
    for (const int value : values) texts.push_back(std::to_string(value));
    return texts;
  }

  int rank_of(std::size_t option) const {
    return options_[option].method.plan(0, 0).weight.aser.rank;
  }

  void add_option(const std::string& set) {
    Option option;
    option.set = set;
    option.method = with_setting(o_, set);
    option.ready = session_.prepare(option.method, 16);
    options_.push_back(std::move(option));
  }

  int bits_of(std::size_t option) const {
    return options_[option].method.plan(0, 0).scheme.activation.bits;
  }

  DamageRequest request(const std::vector<std::size_t>& options, bool modules,
                        const std::string& what) {
    DamageRequest r;
    r.parts = session_.parts();
    r.clean = &options_[clean_].ready.engine->linears();
    for (const std::size_t i : options) r.options.push_back(&options_[i].ready.engine->linears());
    r.stores = store_factory(options_[0].method.kv(16));
    r.windows = search_windows_;
    r.position_step = 2;  // neighbours say much the same
    r.per_module = modules;
    r.progress = [this, what](std::size_t done, std::size_t all) {
      if (progress_) progress_(what, static_cast<double>(done), static_cast<double>(all));
    };
    return r;
  }

  // Fills ladder_ and errors_.
  void measure() {
    std::vector<std::size_t> all;
    for (std::size_t i = 0; i < options_.size(); ++i) {
      if (i != clean_) all.push_back(i);
    }
    const Damages uniform =
        measure_damages(request(all, false, "uniform options"), session_.pool());
    std::vector<std::size_t> tried;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool sixteen = bits_of(all[i]) == rrs::kActivationFloat;
      const bool worth = !sixteen || uniform.uniform[i] > kWorthSixteen * uniform.uniform[0];
      if (worth) tried.push_back(all[i]);
      report_ +=
          line("all modules at %s: KL %.4f from %s%s\n",
               all[i] == 0 ? "the base" : options_[all[i]].set.c_str(), uniform.uniform[i],
               options_[clean_].set.c_str(), worth ? "" : "; not worth trying module by module");
    }
    const Damages d = measure_damages(request(tried, true, "measuring modules"), session_.pool());
    fill_ladder(d, tried);
    upgrades_ = order_upgrades(ladder_);
    base_ = base_cost(ladder_);
  }

  void fill_ladder(const Damages& d, const std::vector<std::size_t>& tried) {
    double macs = 0.0;
    for (const PlanModule& m : modules_) macs += m.macs;
    columns_ = tried;
    columns_.push_back(clean_);
    for (std::size_t m = 0; m < modules_.size(); ++m) {
      ladder_.weight.push_back(modules_[m].macs / macs);
      std::vector<double> cost, damage;
      double sixteen = 0.0;  // what the clean option itself loses
      const std::size_t first = modules_[m].linears.front();
      const auto activation = [&](std::size_t i) {
        return options_[i].method.plan(modules_[m].layer, first).scheme.activation;
      };
      const int base_group = activation(0).group;
      const AserSpec base_branch = options_[0].method.plan(0, 0).weight.aser;
      for (std::size_t i = 0; i < columns_.size(); ++i) {
        const rrs::ActivationScheme a = activation(columns_[i]);
        cost.push_back(option_cost(o_, a, base_group) +
                       rank_cost(o_, modules_[m], rank_of(columns_[i]), base_branch));
        damage.push_back(i < tried.size() ? d.mean[m][i] : sixteen);
        if (a.bits == rrs::kActivationFloat && columns_[i] != clean_) {
          sixteen = damage.back();
          damage.back() = 0.0;
        }
      }
      ladder_.cost.push_back(std::move(cost));
      ladder_.damage.push_back(std::move(damage));
    }
  }

  std::size_t count_for_budget() {
    if (o_.budget < base_ - 1e-9) {
      throw std::runtime_error(line("budget: %g is below the base's %g (%s)", o_.budget, base_,
                                    o_.isa.empty() ? "mean activation bits" : o_.isa.c_str()));
    }
    const std::size_t count = upgrades_within(upgrades_, base_, o_.budget);
    if (count < upgrades_.size()) {
      const Upgrade& next = upgrades_[count];
      report_ += line("the next step, %s at %s, would make the mean cost %.3f\n",
                      modules_[next.module].name.c_str(), options_[columns_[next.to]].set.c_str(),
                      cost_after(upgrades_, count + 1, base_));
    }
    return count;
  }

  // The fewest upgrades whose perplexity on the search text is within the tolerance of the clean
  // option's, out of evenly spaced counts.
  std::size_t count_for_tolerance() {
    std::vector<std::size_t> counts;
    std::vector<Contestant> contestants;
    contestants.push_back(session_.prepare(make_method("fp", {}), 16));
    contestants.push_back(session_.prepare(options_[clean_].method, 16));
    for (std::size_t i = 0; i <= kCheckpoints; ++i) {
      const std::size_t count = upgrades_.size() * i / kCheckpoints;
      if (!counts.empty() && counts.back() == count) continue;
      counts.push_back(count);
      contestants.push_back(session_.prepare(recipe_method(recipe_of(count), "", {}), 16));
    }
    const std::vector<MethodRecord> records = compare(contestants, search_, "searching");
    const double limit = records[1].perplexity * (1.0 + o_.tolerance);
    report_ += line("tolerance: perplexity at most %.3f, %s has %.3f\n", limit,
                    options_[clean_].set.c_str(), records[1].perplexity);
    std::size_t chosen = counts.back();
    bool found = false;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      report_ += line("  %4zu exceptions, mean cost %.3f: perplexity %.3f, KL %.4f\n", counts[i],
                      cost_after(upgrades_, counts[i], base_), records[i + 2].perplexity,
                      records[i + 2].kld_mean);
      if (found || !(records[i + 2].perplexity <= limit)) continue;
      chosen = counts[i];
      found = true;
    }
    if (!found) report_ += "tolerance: no plan is within it; this is the most precise one\n";
    return chosen;
  }

  std::vector<MethodRecord> compare(const std::vector<Contestant>& contestants,
                                    const std::vector<TokenId>& from, const std::string& what) {
    const auto windows = spread_windows(from, o_.held_out_windows, o_.held_out_context);
    std::vector<TokenId> tokens;
    for (const auto& w : windows) tokens.insert(tokens.end(), w.begin(), w.end());
    return measure_perplexity(contestants, tokens, windows.size(), o_.held_out_context,
                              session_.pool(),
                              [&](const std::string& method, double done, double all) {
                                if (progress_) progress_(what + ", " + method, done, all);
                              });
  }

  Recipe recipe_of(std::size_t count) const {
    Recipe r;
    r.model = model_fingerprint(session_.model());
    r.model_name = session_.model().path();
    r.model_name.erase(0, r.model_name.find_last_of('/') + 1);
    r.method = o_.method;
    r.cost = o_.isa.empty() ? "bits" : o_.isa;
    r.mean_cost = cost_after(upgrades_, count, base_);
    for (const Setting& s : o_.settings) {
      r.settings.push_back({s.pattern, s.value.empty() ? s.key : s.key + "=" + s.value});
    }
    for (std::size_t i = 0; i < count; ++i) {
      const Upgrade& u = upgrades_[i];
      r.log.push_back(RecipeStep{modules_[u.module].name, options_[columns_[u.to]].set, u.saves,
                                 cost_after(upgrades_, i + 1, base_)});
    }
    r.measured = measured();
    const std::vector<std::size_t> chosen = options_after(upgrades_, count, modules_.size());
    for (std::size_t m = 0; m < modules_.size(); ++m) {
      if (chosen[m] == 0) continue;
      for (const std::size_t l : modules_[m].linears) {
        r.settings.push_back(
            {linear_name(modules_[m].layer, l), options_[columns_[chosen[m]]].set});
      }
    }
    return r;
  }

  // Every module at every setting.
  std::vector<RecipeMeasurement> measured() const {
    std::vector<RecipeMeasurement> all;
    for (std::size_t m = 0; m < modules_.size(); ++m) {
      for (std::size_t i = 0; i < columns_.size(); ++i) {
        const std::vector<double>&damage = ladder_.damage[m], &cost = ladder_.cost[m];
        all.push_back({modules_[m].name, options_[columns_[i]].set, damage[i],
                       damage[0] - damage[i], ladder_.weight[m] * (cost[i] - cost[0])});
      }
    }
    return all;
  }

  void verify(Recipe* recipe) {
    std::vector<Contestant> contestants;
    contestants.push_back(session_.prepare(make_method("fp", {}), 16));
    contestants.push_back(session_.prepare(options_[0].method, 16));
    contestants.push_back(session_.prepare(recipe_method(*recipe, "", {}), 16));
    contestants.push_back(session_.prepare(options_[clean_].method, 16));
    const std::vector<MethodRecord> r = compare(contestants, held_out_, "verifying");
    RecipeCheck& check = recipe->held_out;
    std::vector<double> saved;
    for (std::size_t w = 0; w < r[1].window_kld.size(); ++w) {
      saved.push_back(r[1].window_kld[w] - r[2].window_kld[w]);
    }
    const MeanError e = mean_error(saved);
    check.windows = r[0].windows;
    check.context = r[0].context;
    check.uniform_kl = r[1].kld_mean;
    check.recipe_kl = r[2].kld_mean;
    check.saved = e.mean;
    check.standard_error = e.error;
    check.uniform_perplexity = r[1].perplexity;
    check.recipe_perplexity = r[2].perplexity;
    check.fp_perplexity = r[0].perplexity;
    report(r, *recipe);
    decide(recipe);
  }

  void report(const std::vector<MethodRecord>& r, const Recipe& recipe) {
    report_ += line("\n%-22s %-28s %10s %10s\n", "module", "set", "saves KL", "mean cost");
    for (const RecipeStep& s : recipe.log) {
      report_ += line("%-22s %-28s %10.5f %10.3f\n", s.module.c_str(), s.set.c_str(), s.saves,
                      s.mean_cost);
    }
    report_ += line("\nheld-out text, %zu windows of %zu tokens:\n", r[0].windows, r[0].context);
    const char* names[] = {"fp", "base, uniform", "plan", "all precise"};
    for (std::size_t i = 0; i < r.size(); ++i) {
      report_ +=
          line("  %-14s perplexity %8.3f  KL %.4f\n", names[i], r[i].perplexity, r[i].kld_mean);
    }
  }

  void decide(Recipe* recipe) {
    const RecipeCheck& c = recipe->held_out;
    const std::string numbers =
        line("held-out KL %.4f against %.4f uniform: %.4f less, standard error %.4f (%.1f times)",
             c.recipe_kl, c.uniform_kl, c.saved, c.standard_error,
             c.standard_error > 0.0 ? c.saved / c.standard_error : 0.0);
    if (recipe->log.empty()) {
      recipe->verdict = "the uniform base: " + why_no_exception();
      return;
    }
    if (c.recipe_kl < c.uniform_kl) {
      recipe->verdict = line("%zu exceptions, mean cost %.3f %s; ", recipe->log.size(),
                             recipe->mean_cost, recipe->cost.c_str()) +
                        numbers;
      return;
    }
    recipe->verdict = "the uniform base: the plan (in the log) was not better; " + numbers;
    recipe->settings.resize(o_.settings.size());
    recipe->mean_cost = base_;
    recipe->held_out.recipe_kl = c.uniform_kl;
    recipe->held_out.recipe_perplexity = c.uniform_perplexity;
    recipe->held_out.saved = 0.0;
  }

  std::string why_no_exception() const {
    if (upgrades_.empty()) return "no exception saves anything; no plan was tried";
    if (o_.tolerance >= 0.0) return "within the tolerance without exceptions; no plan was needed";
    return line("a budget of %g buys no exception, the first makes it %.3f; no plan was tried",
                o_.budget, cost_after(upgrades_, 1, base_));
  }

  Session& session_;
  const PlanOptions& o_;
  const PlanProgress& progress_;
  std::vector<PlanModule> modules_;
  std::vector<TokenId> search_, held_out_;
  std::vector<std::vector<TokenId>> search_windows_;
  std::vector<Option> options_;
  std::size_t clean_ = 0;
  std::vector<std::size_t> columns_;  // option of each column of the ladder
  Ladder ladder_;
  std::vector<Upgrade> upgrades_;
  double base_ = 0.0;
  std::string report_;
};

}  // namespace

double kernel_cost(const std::string& isa, const rrs::ActivationScheme& a) {
  constexpr double kGroup16 = 1.3;
  const LevelCost level = level_cost(isa);
  const double relative = a.bits <= 4 ? 1.0 : a.bits <= 8 ? level.eight : level.sixteen;
  return 4.0 * relative * (a.group == 16 && a.bits <= 8 ? kGroup16 : 1.0);
}

double branch_cost(const std::string& isa) { return 4.0 * level_cost(isa).sixteen; }

PlanResult make_plan(Session* session, const std::vector<TokenId>& tokens,
                     const PlanOptions& options, const PlanProgress& progress) {
  if (!(options.budget > 0.0) && !(options.tolerance >= 0.0)) {
    throw std::runtime_error("plan: needs a budget above 0, or a tolerance of at least 0");
  }
  const std::size_t longest = session->model().config().context;
  if (options.context > longest || options.held_out_context > longest) {
    throw std::runtime_error(line("context: %zu and %zu (held out), the model's is %zu",
                                  options.context, options.held_out_context, longest));
  }
  if (!options.isa.empty()) kernel_cost(options.isa, rrs::ActivationScheme{});
  return Planner(session, options, progress).run(tokens);
}

}  // namespace rrs_llm
