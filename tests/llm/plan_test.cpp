// The precision plan on tiny models: restarts inside the model, damages, budget, verification.

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "../../examples/llm/commands.hpp"
#include "../../examples/llm/plan.hpp"
#include "../../examples/llm/plan_measure.hpp"
#include "engine_support.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

struct Planned {
  TempFolder folder;
  TinyModel model = tiny_model(Architecture::kLlama, true);
  std::string path = write_tiny_gguf(model, folder);
  std::unique_ptr<Session> session;
  std::vector<TokenId> tokens = random_tokens(model, 600, 3);

  explicit Planned(int threads = 2) {
    SessionOptions options;
    options.model = path;
    options.threads = threads;
    session = std::make_unique<Session>(options);
  }
  PlanOptions options(double budget) const {
    PlanOptions o;
    o.budget = budget;
    o.windows = 2;
    o.context = 24;
    o.held_out_windows = 3;
    o.held_out_context = 32;
    return o;
  }
  PlanResult plan(const PlanOptions& o) { return make_plan(session.get(), tokens, o, nullptr); }
  double mean_bits(const Recipe& recipe) const {
    const Method m = recipe_method(recipe, "", {});
    double bits = 0.0, macs = 0.0;
    for (const PlanModule& module : plan_modules(model.config)) {
      macs += module.macs;
      const int first = m.plan(module.layer, module.linears.front()).scheme.activation.bits;
      for (const std::size_t l : module.linears) {
        EXPECT_EQ(m.plan(module.layer, l).scheme.activation.bits, first) << module.name;
      }
      bits += module.macs * first;
    }
    return bits / macs;
  }
};

TEST(ForwardFrom, EveryLayerGivesTheBitsOfTheWholeModel) {
  Planned p;
  const std::vector<TokenId> text = random_tokens(p.model, 20, 5);
  for (const char* name : {"fp", "rrs"}) {
    Contestant c = p.session->prepare(make_method(name, {}), 16);
    std::vector<std::vector<float>> residuals;
    c.engine->observe_layers([&](std::size_t layer, const float* x, std::int64_t rows) {
      EXPECT_EQ(layer, residuals.size());
      residuals.emplace_back(x, x + rows * static_cast<std::int64_t>(p.model.config.hidden));
    });
    Sequence sequence = c.engine->start();
    const float* hidden = c.engine->forward(text, &sequence);
    const std::vector<float> whole(hidden, hidden + text.size() * p.model.config.hidden);
    c.engine->observe_layers(nullptr);
    ASSERT_EQ(residuals.size(), p.model.config.layers);
    for (std::size_t layer = 0; layer < residuals.size(); ++layer) {
      const float* again = c.engine->forward_from(layer, residuals[layer].data(), 20);
      EXPECT_TRUE(std::equal(whole.begin(), whole.end(), again)) << name << " " << layer;
    }
    expect_in(refusal([&] { c.engine->forward_from(2, residuals[0].data(), 20); }),
              {"forward_from", "2"});
    EXPECT_THROW(c.engine->forward_from(0, residuals[0].data(), 0), std::runtime_error);
  }
}

TEST(Damages, OfTheCleanOptionAreZeroAndOfFewBitsAreNot) {
  std::vector<Damages> runs;
  for (const int threads : {1, 2}) {
    Planned p(threads);
    Contestant four = p.session->prepare(make_method("rrs@a3", {}), 16);
    Contestant eight = p.session->prepare(make_method("rrs@a8", {}), 16);
    DamageRequest r;
    r.parts = p.session->parts();
    r.clean = &eight.engine->linears();
    r.options = {&four.engine->linears(), &eight.engine->linears()};
    r.stores = store_factory(make_method("rrs", {}).kv(16));
    r.windows = spread_windows(p.tokens, 3, 24);
    r.position_step = 2;
    std::size_t steps = 0;
    r.progress = [&](std::size_t done, std::size_t all) {
      EXPECT_EQ(done, ++steps);
      EXPECT_EQ(all, 3u * 2u * 8u);
    };
    runs.push_back(measure_damages(r, p.session->pool()));
    EXPECT_EQ(steps, 3u * 2u * 8u);
  }
  for (std::size_t m = 0; m < 8; ++m) {
    EXPECT_GT(runs[0].mean[m][0], 1e-5) << m;
    EXPECT_GT(runs[0].error[m][0], 0.0);
    EXPECT_NEAR(runs[0].mean[m][1], 0.0, 1e-9);
    EXPECT_EQ(runs[0].mean[m][0], runs[1].mean[m][0]) << "threads change the damage";
  }
  EXPECT_GT(runs[0].uniform[0], runs[0].mean[0][0]);
  EXPECT_NEAR(runs[0].uniform[1], 0.0, 1e-9);
}

TEST(Plan, ModulesCoverEveryLinearOnce) {
  const TinyModel model = tiny_model(Architecture::kQwen3, false);
  std::vector<int> seen(model.config.layers * kLinearsPerLayer);
  double macs = 0.0;
  for (const PlanModule& m : plan_modules(model.config)) {
    for (const std::size_t l : m.linears) ++seen[m.layer * kLinearsPerLayer + l];
    macs += m.macs;
  }
  for (const int count : seen) EXPECT_EQ(count, 1);
  double weights = 0.0;
  for (const TinyTensor& t : model.tensors) {
    const bool norm = t.name.find("norm") != std::string::npos;
    if (t.name.rfind("blk.", 0) == 0 && !norm) weights += static_cast<double>(t.values.size());
  }
  EXPECT_EQ(macs, weights);
  EXPECT_EQ(plan_modules(model.config)[7].name, "blk.1.ffn_down");
  EXPECT_EQ(plan_modules(model.config)[2].name, "blk.0.ffn_up");
}

TEST(Plan, KeepsTheBudgetTellsWhatItBoughtAndGrowsWithIt) {
  Planned p;
  std::size_t exceptions = 0;
  for (const double budget : {4.0, 4.6, 5.5, 16.0}) {
    const PlanResult result = p.plan(p.options(budget));
    const Recipe& r = result.recipe;
    const double bits = p.mean_bits(r);
    EXPECT_LE(bits, budget + 1e-9);
    EXPECT_NEAR(bits, r.mean_cost, 1e-9);
    const RecipeCheck& c = r.held_out;
    EXPECT_EQ(c.windows, 3u);
    EXPECT_LE(c.recipe_kl, c.uniform_kl);
    EXPECT_GE(r.log.size(), exceptions);
    exceptions = r.log.size();
    for (const RecipeStep& s : r.log) {
      EXPECT_GT(s.saves, 0.0);
      expect_in(result.report, {s.module, s.set});
    }
    expect_in(result.report, {"held-out", r.log.empty() ? "no plan was tried" : "standard error"});
    EXPECT_TRUE(r.log.empty() || budget > 4.0);
    EXPECT_GE(r.log.size(), budget == 16.0 ? 8u : 0u);
    EXPECT_EQ(recipe_text(parse_recipe(recipe_text(r), "R")), recipe_text(r));
  }
  EXPECT_GT(exceptions, 0u);
}

// Every module at every option is in the recipe, whatever was chosen; the log agrees with it.
void expect_measured(const Recipe& r, const std::vector<std::string>& sets) {
  ASSERT_EQ(r.measured.size(), 8u * sets.size());
  std::map<std::pair<std::string, std::string>, RecipeMeasurement> found;
  double base_damage = 0.0;
  for (const RecipeMeasurement& m : r.measured) {
    EXPECT_TRUE(found.emplace(std::make_pair(m.module, m.set), m).second) << m.module << m.set;
    EXPECT_EQ(std::count(sets.begin(), sets.end(), m.set), 1) << m.set;
    if (m.set.empty()) {
      base_damage = m.damage;
      EXPECT_GT(m.damage, 0.0);
      EXPECT_EQ(m.cost, 0.0);
    } else {
      EXPECT_GT(m.cost, 0.0);
    }
    EXPECT_EQ(m.saves, base_damage - m.damage) << m.module << " at " << m.set;
  }
  std::set<std::string> seen;
  for (const RecipeStep& s : r.log) {
    if (!seen.insert(s.module).second) continue;  // later steps start from the one before
    EXPECT_EQ(s.saves, found.at({s.module, s.set}).saves);
  }
}

TEST(Plan, RecipesHoldEverythingMeasuredAlsoWhenNothingIsBought) {
  Planned p;
  PlanOptions o = p.options(4.0);
  o.bits = {"8"};
  PlanResult result = p.plan(o);
  EXPECT_TRUE(result.recipe.settings.empty());
  EXPECT_TRUE(result.recipe.log.empty());
  expect_measured(result.recipe, {"", "activation-bits=8"});
  // Not "no plan was better": none was tried.
  expect_in(result.recipe.verdict, {"uniform", "budget of 4 buys no exception"});
  expect_in(result.report, {"the next step, blk.", "mean cost 4.", "tried per module:",
                            "no groups (--groups 16)", "no low ranks (--ranks 8,16)"});
  o.budget = 5.0;
  o.groups = {"16"};
  result = p.plan(o);
  EXPECT_FALSE(result.recipe.log.empty());
  expect_measured(result.recipe, {"", "activation-bits=8", "activation-group=16"});
  EXPECT_EQ(result.report.find("no groups"), std::string::npos);
  const std::string text = recipe_text(result.recipe);
  EXPECT_EQ(parse_recipe(text, "R").measured.size(), result.recipe.measured.size());
  o.budget = 0.0;
  o.tolerance = 1e6;
  expect_in(p.plan(o).recipe.verdict, {"uniform", "within the tolerance"});
}

// When precision does not help on the held-out text, the uniform base comes back with the log. 16
// bits instead of 8 are noise to a tiny model, so some text is among the first that shows it.
TEST(Plan, NeverWorseThanUniform) {
  Planned p;
  PlanOptions o = p.options(10.2);  // any one module fits
  o.method = "rrs_w4a8";
  o.settings = parse_settings("", "sign-seed=2", '@');
  o.bits = {"16"};
  std::size_t thrown_away = 0;
  for (unsigned seed = 1; seed <= 24 && thrown_away == 0; ++seed) {
    p.tokens = random_tokens(p.model, 600, seed);
    const PlanResult result = p.plan(o);
    const Recipe& r = result.recipe;
    EXPECT_LE(r.held_out.recipe_kl, r.held_out.uniform_kl);
    ASSERT_FALSE(r.log.empty()) << result.report;
    expect_measured(r, {"", "activation-bits=16"});
    if (r.settings.size() > 1) continue;
    ++thrown_away;
    ASSERT_EQ(r.settings.size(), 1u);  // the base's own
    EXPECT_EQ(r.settings[0].set, "sign-seed=2");
    EXPECT_NEAR(r.mean_cost, 8.0, 1e-9);
    EXPECT_EQ(r.held_out.recipe_kl, r.held_out.uniform_kl);
    EXPECT_EQ(r.held_out.recipe_perplexity, r.held_out.uniform_perplexity);
    EXPECT_EQ(r.held_out.saved, 0.0);
    expect_in(r.verdict, {"uniform base", "in the log", "was not better"});
    expect_in(result.report, {r.log[0].module, r.verdict});
    EXPECT_EQ(parse_recipe(recipe_text(r), "R").log.size(), r.log.size());
  }
  EXPECT_EQ(thrown_away, 1u);
}

TEST(Plan, ToleranceGroupsAndKernelCosts) {
  Planned p;
  PlanOptions o = p.options(0.0);
  o.tolerance = 1e6;  // anything is within it
  EXPECT_TRUE(p.plan(o).recipe.settings.empty());
  o.tolerance = -1.0;
  o.budget = 4.4;
  o.groups = {"16"};
  o.bits = {"8"};
  const Recipe r = p.plan(o).recipe;
  EXPECT_LE(r.mean_cost, 4.4 + 1e-9);
  EXPECT_FALSE(r.log.empty());
  rrs::ActivationScheme a = rrs::presets::rrs().activation;
  EXPECT_EQ(kernel_cost("avx2", a), 4.0);
  a.bits = 8;
  EXPECT_EQ(kernel_cost("avx512vnni", a), 4.0);
  EXPECT_GT(kernel_cost("avx2", a), 4.0);
  for (const char* isa : {"amx", "avxvnni"}) {  // a byte costs what a nibble costs
    EXPECT_EQ(kernel_cost(isa, a), 4.0);
    a.bits = rrs::kActivationFloat;
    EXPECT_GT(kernel_cost(isa, a), 12.0);
    EXPECT_EQ(branch_cost(isa), kernel_cost(isa, a));
    a.bits = 8;
  }
  expect_in(refusal([&] { kernel_cost("sse", a); }), {"'sse'", "avx2"});
  o.isa = "avx512vnni";
  o.budget = 4.0;
  o.groups.clear();
  const Recipe free = p.plan(o).recipe;
  EXPECT_EQ(free.cost, "avx512vnni");
  EXPECT_NEAR(free.mean_cost, 4.0, 1e-9);
}

// A branch is an exception like any other: it costs its numbers, and is in the recipe and the
// model. `bits`: of its numbers.
void expect_ranks_bought(Planned* planned, const PlanOptions& o, int bits) {
  Planned& p = *planned;
  const PlanResult result = p.plan(o);
  const Recipe& r = result.recipe;
  ASSERT_FALSE(r.log.empty());
  expect_in(result.report, {"rank=4", "rank=8"});
  const Method m = recipe_method(r, "", {});
  double cost = 0.0, macs = 0.0;
  std::size_t branches = 0;
  for (const PlanModule& module : plan_modules(p.model.config)) {
    const LinearPlan plan = m.plan(module.layer, module.linears.front());
    double numbers = 0.0, weights = 0.0;
    for (const std::size_t l : module.linears) {
      const TensorInfo info = *p.session->model().info(linear_name(module.layer, l));
      numbers += static_cast<double>(info.rows + info.columns);
      weights += static_cast<double>(info.rows * info.columns);
      EXPECT_EQ(m.plan(module.layer, l).weight.aser.rank, plan.weight.aser.rank);
    }
    EXPECT_EQ(module.edges, numbers);
    const int rank = plan.weight.aser.rank;
    EXPECT_EQ(plan.weight.aser.bits, bits);
    branches += rank > 0 ? 1u : 0u;
    cost += module.macs * (plan.scheme.activation.bits + 1.0 * bits * rank * numbers / weights);
    macs += module.macs;
  }
  EXPECT_NEAR(cost / macs, r.mean_cost, 1e-9);
  EXPECT_LE(r.mean_cost, o.budget + 1e-9);
  EXPECT_TRUE(r.settings.empty() || branches > 0);
}

TEST(Plan, LowRanksAreBoughtForWhatTheyCost) {
  Planned p;
  PlanOptions o = p.options(7.0);
  o.bits = {"8"};
  o.ranks = {"8", "4"};
  expect_ranks_bought(&p, o, 16);
  o.method = "rrs@rank-bits=8";
  expect_ranks_bought(&p, o, 8);
  // Larger than the layer: refused by name, before anything is measured.
  o.ranks = {"4096"};
  expect_in(refusal([&] { p.plan(o); }), {"rank"});
  o.ranks = {"-1"};
  expect_in(refusal([&] { p.plan(o); }), {"rank", "-1"});
}

TEST(Plan, RefusesWhatCannotBePlanned) {
  Planned p;
  PlanOptions o = p.options(0.0);
  expect_in(refusal([&] { p.plan(o); }), {"budget", "tolerance"});
  o.budget = 3.9;
  expect_in(refusal([&] { p.plan(o); }), {"budget", "3.9", "4"});
  o.budget = 5.0;
  o.bits = {"4"};
  expect_in(refusal([&] { p.plan(o); }), {"rrs", "precise"});
  o.bits = {"8"};
  o.method = "fp";
  expect_in(refusal([&] { p.plan(o); }), {"fp"});
  o.method = "rrs";
  o.context = 129;
  expect_in(refusal([&] { p.plan(o); }), {"context", "129", "128"});
  o.context = 24;
  p.tokens.resize(60);
  expect_in(refusal([&] { p.plan(o); }), {"calibration", "20", "32"});
}

TEST(Plan, CommandWritesARecipeThatPerplexityTakes) {
  Planned p;
  std::string bytes;
  for (int i = 0; i < 500; ++i) bytes += "hello the " + std::to_string(i * 7919 % 1000) + " ab";
  const std::string text = p.folder.write("text.txt", bytes), out = p.folder.file("r.json");
  const auto run = [](std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "rrs-llm");
    return run_program(static_cast<int>(arguments.size()), arguments.data());
  };
  EXPECT_EQ(run({"plan",
                 "--model",
                 p.path.c_str(),
                 "--calibration",
                 text.c_str(),
                 "--budget",
                 "5",
                 "--windows",
                 "1",
                 "--context",
                 "24",
                 "--held-out-windows",
                 "2",
                 "--held-out-context",
                 "24",
                 "--bits",
                 "8",
                 "--method",
                 "rrs@sign-seed=2",
                 "--out",
                 out.c_str()}),
            0);
  const Recipe r = read_recipe(out);
  EXPECT_EQ(r.method, "rrs");
  ASSERT_FALSE(r.settings.empty());
  EXPECT_EQ(r.settings[0].set, "sign-seed=2");
  EXPECT_EQ(run({"perplexity", "--model", p.path.c_str(), "--recipe", out.c_str(), "--text",
                 text.c_str(), "--context", "24", "--windows", "1"}),
            0);
}

}  // namespace
