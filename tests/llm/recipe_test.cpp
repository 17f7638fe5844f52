// Recipes: what they expand to, round trip, and what is refused.

#include <cmath>
#include <fstream>

#include "../../examples/llm/commands.hpp"
#include "../../examples/llm/plan_ladder.hpp"
#include "../../examples/llm/quantized_file.hpp"
#include "../../examples/llm/recipe.hpp"
#include "engine_support.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

Recipe some_recipe(const std::string& model) {
  Recipe r;
  r.model = model;
  r.model_name = "tiny \"model\"\xff.gguf";
  r.method = "rrs";
  r.cost = "bits";
  r.mean_cost = 4.25;
  r.verdict = "two exceptions";
  r.settings = {{"", "sign-seed=3"},
                {"blk.1.ffn_down", "activation-bits=8"},
                {"blk.0.attn_output", "activation-bits=16,clip=0.9"}};
  r.log = {{"blk.1.ffn_down", "activation-bits=8", 0.0125, 4.1},
           {"blk.0.attn_output", "activation-bits=16,clip=0.9", 0.001, 4.25}};
  r.measured = {{"blk.1.ffn_down", "", 0.0125, 0.0, 0.0},
                {"blk.1.ffn_down", "activation-bits=8", 0.0, 0.0125, 0.1},
                {"blk.0.attn_q", "activation-bits=8", 0.002, -0.0005, 0.2}};
  r.held_out = RecipeCheck{3, 24, 0.5, 0.25, 0.25, 0.0625, 30.0, 28.0, 20.0};
  return r;
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const std::size_t at = text.find(what);
  if (at == std::string::npos) throw std::logic_error("no " + what + " in " + text);
  return text.replace(at, what.size(), with);
}

TEST(Recipe, RoundTripAndOneLinePerException) {
  const Recipe r = some_recipe("00ff00ff00ff00ff");
  const std::string text = recipe_text(r);
  const Recipe back = parse_recipe(text, "R");
  EXPECT_EQ(recipe_text(back), text);
  EXPECT_EQ(back.model, r.model);
  EXPECT_EQ(back.held_out.standard_error, 0.0625);
  ASSERT_EQ(back.settings.size(), 3u);
  EXPECT_EQ(back.settings[2].set, "activation-bits=16,clip=0.9");
  ASSERT_EQ(back.log.size(), 2u);
  EXPECT_EQ(back.log[0].saves, 0.0125);
  ASSERT_EQ(back.measured.size(), 3u);
  EXPECT_EQ(back.measured[1].saves, 0.0125);
  EXPECT_EQ(back.measured[2].damage, 0.002);
  EXPECT_EQ(back.measured[2].saves, -0.0005);
  EXPECT_EQ(back.measured[2].cost, 0.2);
  expect_in(text, {"\n  {\"module\":\"blk.0.attn_q\",\"set\":\"activation-bits=8\",\"damage\":"});
  expect_in(text, {"\n  {\"pattern\":\"blk.1.ffn_down\",\"set\":\"activation-bits=8\"},\n",
                   "\n  {\"module\":\"blk.1.ffn_down\""});
  Recipe empty = r;
  empty.settings.clear();
  empty.log.clear();
  empty.measured.clear();
  empty.held_out = RecipeCheck{};
  EXPECT_EQ(recipe_text(parse_recipe(recipe_text(empty), "R")), recipe_text(empty));
}

TEST(Recipe, MalformedFilesAreRefusedWithPlaceAndReason) {
  const std::string good = recipe_text(some_recipe("0123456789abcdef"));
  const struct {
    std::string text;
    std::vector<std::string> said;
  } kCases[] = {
      {"", {"R"}},
      {"{", {"R"}},
      {"[]", {"R", "not an object"}},
      {"{\"format\": \"rrs-llm recipe\"}", {"R", "'version'", "missing"}},
      {replaced(good, "rrs-llm recipe", "cake"), {"'format'", "cake"}},
      {replaced(good, "\"version\": 1", "\"version\": 2"), {"'version'", "2", "1"}},
      {replaced(good, "\"model\": \"0123456789abcdef\"", "\"model\": 7"),
       {"'model'", "not a string"}},
      {replaced(good, "\"method\": \"rrs\"", "\"method\": \"rrs@a8\""), {"'method'", "rrs@a8"}},
      {replaced(good, "\"method\": \"rrs\"", "\"method\": \"rrs-plan\""), {"'method'", "rrs-plan"}},
      {replaced(good, "activation-bits=8", "activation-bits=9"),
       {"settings[1]", "activation-bits", "9"}},
      {replaced(good, "activation-bits=8", "bits=8"), {"settings[1]", "'bits'"}},
      {replaced(good, "\"pattern\":\"blk.1.ffn_down\"", "\"pattern\":3"),
       {"settings[1]", "'pattern'", "not a string"}},
      {replaced(good, "\"settings\": [", "\"settings\": 1, \"x\": ["), {"'settings'", "array"}},
      {replaced(good, "\"damage\":0.002", "\"damage\":\"x\""),
       {"measured[2]", "'damage'", "not a number"}},
      {replaced(good, "\"cost\": \"bits\"", "\"model\": \"bits\""),
       {"R", "model"}},  // a duplicate key
  };
  for (const auto& c : kCases) {
    expect_in(refusal([&] { parse_recipe(c.text, "R"); }), c.said);
  }
  EXPECT_THROW(read_recipe("/nonexistent/recipe.json"), std::runtime_error);
}

TEST(Recipe, ExpandsToOverridesOfItsMethod) {
  const Method m = recipe_method(some_recipe("x"), "", parse_override("blk.0.ffn_up=a6"));
  EXPECT_EQ(m.text, "rrs");
  EXPECT_TRUE(m.recipe);
  EXPECT_EQ(m.plan(0, kQ).scheme.activation.bits, 4);
  EXPECT_EQ(m.plan(1, kDown).scheme.activation.bits, 8);
  EXPECT_EQ(m.plan(0, kO).scheme.activation.bits, 16);
  EXPECT_EQ(m.plan(0, kUp).scheme.activation.bits, 6);
  EXPECT_TRUE(m.plan(0, kQ).scheme.rotation.random_signs);
  expect_in(refusal([] { make_method("rrs-plan", {}); }), {"rrs-plan", "recipe", "--recipe"});
  expect_in(refusal([] { make_method("rrs-plan@recipe=", {}); }), {"recipe"});
}

// perplexity and quantize take the same recipe; another model refuses it.
TEST(Recipe, ProgramAppliesItAndRefusesAnotherModel) {
  TempFolder folder;
  const TinyModel model = tiny_model(Architecture::kLlama, true);
  const std::string path = write_tiny_gguf(model, folder);
  const std::string fingerprint = model_fingerprint(*open_model(path));
  const std::string recipe = folder.write("r.json", recipe_text(some_recipe(fingerprint)));
  const std::string text = folder.write("text.txt", std::string(400, 'h') + " hello the ab");
  const auto run = [&](std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "rrs-llm");
    return run_program(static_cast<int>(arguments.size()), arguments.data());
  };
  const std::string out = folder.file("w.safetensors"), json = folder.file("p.json");
  EXPECT_EQ(
      run({"quantize", "--model", path.c_str(), "--recipe", recipe.c_str(), "--out", out.c_str()}),
      0);
  const auto source = open_model(path);
  const QuantizedFile file = open_quantized(out, *source);
  EXPECT_EQ(file.linears[1][kDown]->info().precision, "w4a8");
  EXPECT_EQ(file.linears[0][kO]->info().precision, "w4a16");
  EXPECT_EQ(file.linears[0][kUp]->info().precision, "w4a4");
  EXPECT_EQ(run({"perplexity", "--model", path.c_str(), "--recipe", recipe.c_str(), "--text",
                 text.c_str(), "--context", "32", "--windows", "2", "--json", json.c_str()}),
            0);
  const std::string named = "rrs-plan@recipe=" + recipe;
  EXPECT_EQ(run({"perplexity", "--model", path.c_str(), "--method", named.c_str(), "--text",
                 text.c_str(), "--context", "32", "--windows", "2"}),
            0);
  EXPECT_EQ(run({"quantize", "--model", path.c_str(), "--method", "rrs", "--recipe", recipe.c_str(),
                 "--out", out.c_str()}),
            1);  // the recipe names its method

  const std::string other =
      folder.write("other.json", recipe_text(some_recipe("0123456789abcdef")));
  const std::string refused = folder.file("refused.safetensors");
  EXPECT_EQ(run({"quantize", "--model", path.c_str(), "--recipe", other.c_str(), "--out",
                 refused.c_str()}),
            1);
  EXPECT_FALSE(std::ifstream(refused).good());
  const Method method = recipe_method(read_recipe(other), "", {});
  expect_in(refusal([&] { check_recipe_model(method, *source); }),
            {"another model", "0123456789abcdef", path, fingerprint});
}

Ladder ladder_of(std::vector<double> weight, std::vector<double> base_damage) {
  Ladder l;
  l.weight = std::move(weight);
  for (const double d : base_damage) {
    l.cost.push_back({4.0, 16.0, 8.0});
    l.damage.push_back({d, 0.0, d / 10.0});
  }
  return l;
}

TEST(Ladder, BestGainPerCostFirstAndBudgetKept) {
  const Ladder l = ladder_of({0.5, 0.25, 0.25}, {0.4, 0.1, 0.3});
  const std::vector<Upgrade> u = order_upgrades(l);
  ASSERT_EQ(u.size(), 6u);
  EXPECT_EQ(u[0].module, 2u);  // 0.27 for 1.0
  EXPECT_EQ(u[1].module, 0u);  // 0.36 for 2.0
  EXPECT_EQ(u[2].module, 1u);  // 0.09 for 1.0
  for (const Upgrade& x : u) EXPECT_GT(x.saves, 0.0);
  EXPECT_EQ(base_cost(l), 4.0);
  EXPECT_EQ(upgrades_within(u, 4.0, 4.0), 0u);
  EXPECT_EQ(upgrades_within(u, 4.0, 5.0), 1u);
  EXPECT_EQ(upgrades_within(u, 4.0, 6.99), 1u);
  EXPECT_EQ(upgrades_within(u, 4.0, 7.0), 2u);
  EXPECT_EQ(upgrades_within(u, 4.0, 100.0), 6u);
  const auto all = options_after(u, 6, 3);
  for (const std::size_t option : all) EXPECT_EQ(option, 1u);
}

TEST(Ladder, LargerBudgetsContainSmallerOnesAndNeverLose) {
  Random random(5);
  Ladder l;
  for (int m = 0; m < 40; ++m) {
    l.weight.push_back(1.0 / 40.0);
    l.cost.push_back({4.0, 5.0, 8.0, 16.0});
    l.damage.push_back({});
    for (int o = 0; o < 4; ++o) {
      l.damage.back().push_back(std::abs(static_cast<double>(random.real())));
    }
  }
  l.damage[7][2] = std::nan("");
  const auto u = order_upgrades(l);
  double last = 1e300;
  std::size_t count_before = 0;
  for (double budget = 4.0; budget < 16.5; budget += 0.25) {
    const std::size_t count = upgrades_within(u, base_cost(l), budget);
    EXPECT_GE(count, count_before);
    count_before = count;
    EXPECT_LE(cost_after(u, count, base_cost(l)), budget + 1e-9);
    const auto options = options_after(u, count, 40);
    EXPECT_NE(options[7], 2u);
    double damage = 0.0, cost = 0.0;
    for (std::size_t m = 0; m < 40; ++m) {
      damage += l.damage[m][options[m]];
      cost += l.weight[m] * l.cost[m][options[m]];
    }
    EXPECT_NEAR(cost, cost_after(u, count, base_cost(l)), 1e-9);
    EXPECT_LE(damage, last);
    last = damage;
  }
  EXPECT_GT(count_before, 20u);
}

// A smaller step behind one that does not fit is not taken: with it, this budget's choice would not
// be in that of a larger one, which holds the large step alone.
TEST(Ladder, StopsAtTheFirstStepThatDoesNotFit) {
  const Ladder l = ladder_of({0.8, 0.2}, {0.8, 0.1});  // to 8 bits: costs 3.2, then 0.8
  const std::vector<Upgrade> u = order_upgrades(l);
  ASSERT_EQ(u[0].module, 0u);
  ASSERT_EQ(u[1].module, 1u);
  EXPECT_LT(u[1].costs, 1.0);
  EXPECT_EQ(upgrades_within(u, 4.0, 5.0), 0u);  // module 1 alone would fit
  EXPECT_EQ(upgrades_within(u, 4.0, 7.5), 1u);  // and here not beside module 0
  EXPECT_EQ(upgrades_within(u, 4.0, 8.0), 2u);
}

TEST(Ladder, FreeUpgradesComeFirstAndBadInputIsRefused) {
  Ladder l = ladder_of({0.5, 0.5}, {0.01, 0.5});
  l.cost[0][2] = 4.0;  // 8 bits cost nothing here
  const auto u = order_upgrades(l);
  EXPECT_EQ(u[0].module, 0u);
  EXPECT_EQ(u[0].to, 2u);
  EXPECT_EQ(upgrades_within(u, 4.0, 4.0), 1u);
  l.damage[1].pop_back();
  EXPECT_THROW(order_upgrades(l), std::runtime_error);
}

// The same tensors under another configuration are another model.
TEST(Recipe, FingerprintsCoverTheConfiguration) {
  TinyModel m = tiny_model(Architecture::kLlama, true);
  const auto fingerprint = [&] {
    const TempFolder folder;
    write_tiny_hf(m, folder);
    return model_fingerprint(*open_model(folder.path()));
  };
  const std::string first = fingerprint();
  EXPECT_EQ(fingerprint(), first);
  m.config.context = 64;
  const std::string shorter = fingerprint();
  EXPECT_NE(shorter, first);
  m.config.heads = 2;
  m.config.kv_heads = 1;
  m.config.head_size = 32;
  EXPECT_NE(fingerprint(), shorter);
}

}  // namespace
