// rrs-llm plan: which modules get more activation bits, measured.
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "options.hpp"
#include "plan.hpp"
#include "progress.hpp"

namespace rrs_llm {
namespace {

void run_plan(const Options& o, PlanOptions plan) {
  rrs_examples::OutputFiles outputs({{"--out", o.out}}, input_files(o));
  const std::string base = only_method(o);
  const std::size_t at = base.find('@');
  plan.method = base.substr(0, at);
  if (at != std::string::npos) plan.settings = parse_settings("", base.substr(at + 1), '@');
  std::vector<Setting> ranks;  // of the exceptions: their branches take rank-bits and damping
  for (const std::string& rank : plan.ranks) ranks.push_back({"", "rank", rank});
  for (const Setting& s : all_settings(o, ranks)) plan.settings.push_back(s);
  make_method(plan.method, plan.settings);  // refuse early
  Session session(o.session);
  const std::vector<TokenId> tokens = session.calibration_tokens();
  PlanResult result;
  {
    Progress progress("plan", "steps");
    std::string label;
    result =
        make_plan(&session, tokens, plan, [&](const std::string& what, double done, double all) {
          if (what != label) progress.label("plan, " + what);
          label = what;
          progress.update(done, all);
        });
  }
  print(result.report);
  outputs.write("--out", recipe_text(result.recipe));
  print(o.out + ": apply it with --recipe " + o.out + "\n");
}

}  // namespace

void define_plan(CLI::App* app, Options* o) {
  const auto plan = std::make_shared<PlanOptions>();
  add_session_options(app, o);
  add_method_options(app, o, false);
  auto* budget = app->add_option("--budget", plan->budget,
                                 "mean activation bits over all multiplications; with --isa, mean "
                                 "time, where uniform 4 bits take 4")
                     ->check(CLI::PositiveNumber);
  app->add_option_function<double>(
         "--tolerance", [plan](double percent) { plan->tolerance = percent / 100.0; },
         "percent of perplexity above the same weights with precise activations: as few exceptions "
         "as that needs")
      ->check(CLI::NonNegativeNumber)
      ->excludes(budget);
  app->add_option("--isa", plan->isa,
                  "cost is time at this level: scalar, avx2, avxvnni, avx512, avx512vnni or amx");
  app->add_option("--bits", plan->bits, "activation bits an exception may have")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("--groups", plan->groups,
                  "activation groups an exception may have, such as 16; by default none is tried")
      ->delimiter(',');
  app->add_option("--ranks", plan->ranks,
                  "ranks of low-rank branches an exception may have (ASER), at the base's bits and "
                  "at 8; by default none is tried")
      ->delimiter(',');
  app->add_option("--windows", plan->windows, "search windows, over two thirds of the text")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--context", plan->context, "tokens of a search window")->capture_default_str();
  app->add_option("--held-out-windows", plan->held_out_windows, "windows of the last third")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--held-out-context", plan->held_out_context, "tokens of such a window")
      ->capture_default_str();
  add_output_option(app, "--out", &o->out, "the recipe (JSON) to write")->required();
  app->footer(
      "Measures what each module's activation error costs, and gives more bits where a bit buys "
      "most. The plan is checked on text that the search did not see.\n"
      "Bits alone are tried unless --groups or --ranks name more: each is one more preparation and "
      "one more measurement of every module.\n"
      "Example: rrs-llm plan --model M.gguf --calibration wiki.valid.txt --budget 4.5 --out "
      "R.json; "
      "then rrs-llm perplexity ... --method rrs --recipe R.json");
  app->callback([o, plan] { run_plan(*o, *plan); });
}

}  // namespace rrs_llm
