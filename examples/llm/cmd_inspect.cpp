// rrs-llm inspect: tensors, scheme fit, outliers.
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "inspect.hpp"
#include "options.hpp"
#include "progress.hpp"

namespace rrs_llm {
namespace {

void run_inspect(const Options& o) {
  Session session(o.session);
  print(tensors_text(session.model()) + "\n");
  print(fit_text(session.model(), make_method(only_method(o), all_settings(o))));
  if (o.text.empty()) return;
  const std::vector<TokenId> tokens = session.tokens_of_file(o.text);
  const std::size_t windows = window_count(tokens.size(), o.sample_context, o.sample_windows);
  Contestant fp = session.prepare(make_method("fp", {}), 16);
  std::vector<ModuleOutliers> outliers;
  {
    Progress progress("inspecting", "tokens x layers");
    outliers = measure_outliers(fp.engine.get(), tokens, windows, o.sample_context,
                                [&](double done, double all) { progress.update(done, all); });
  }
  print("\nOutliers over " + std::to_string(windows) + " windows of " +
        std::to_string(o.sample_context) + " tokens, highest QFeM score first:\n");
  print(outliers_text(std::move(outliers), o.modules));
}

}  // namespace

void define_inspect(CLI::App* app, Options* o) {
  add_session_options(app, o);
  add_method_options(app, o, false);
  app->add_option("--text", o->text, "also run the float model over it and show outliers");
  app->add_option("--windows", o->sample_windows, "how many windows; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--context", o->sample_context, "tokens of a window")->capture_default_str();
  app->add_option("--modules", o->modules, "modules to show; 0: all")->capture_default_str();
  app->callback([o] { run_inspect(*o); });
}

}  // namespace rrs_llm
