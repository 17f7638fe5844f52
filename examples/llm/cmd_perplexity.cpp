// rrs-llm perplexity: compare methods on a text.
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "options.hpp"
#include "progress.hpp"
#include "quantized_file.hpp"

namespace rrs_llm {
namespace {

void run_perplexity(const Options& o) {
  rrs_examples::OutputFiles outputs({{"--json", o.json}}, input_files(o));
  Session session(o.session);
  const std::vector<Setting> settings = all_settings(o);
  if (!settings.empty() && method_texts(o).empty()) {
    throw std::runtime_error("--method: settings are given, but no method to take them");
  }
  std::vector<Method> methods;
  for (const std::string& name : method_texts(o)) {
    const Method method = make_method(name, settings);
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) method.plan(0, l);  // refuse early
    // Plain fp with a 16-bit cache runs anyway, first.
    const bool reference =
        method.kind == LinearKind::kFloat && !method.qfep && !o.session.kv.quantizes();
    if (!reference) methods.push_back(method);
  }
  if (o.context > session.model().config().context) {
    throw std::runtime_error("context: " + std::to_string(o.context) + " exceeds the model's " +
                             std::to_string(session.model().config().context));
  }
  const std::vector<TokenId> tokens = session.tokens_of_file(o.text);
  const std::size_t windows = window_count(tokens.size(), o.context, o.windows);
  std::vector<Contestant> contestants;
  contestants.push_back(session.prepare(make_method("fp", {}), 16));  // what all compare with
  for (const Method& method : methods) contestants.push_back(session.prepare(method));
  if (!o.weights.empty()) contestants.push_back(session.open(o.weights));
  char line[200];
  std::snprintf(line, sizeof line, "%zu tokens, %zu windows of %zu, %d threads; fp runs on %.80s\n",
                tokens.size(), windows, o.context, session.pool().threads(),
                float_linear_library().c_str());
  print(line);
  for (const Contestant& c : contestants) print("  " + c.method + ": " + c.scheme + "\n");
  std::vector<MethodRecord> records;
  {
    Progress progress("perplexity", "tokens");
    records = measure_perplexity(contestants, tokens, windows, o.context, session.pool(),
                                 [&](const std::string& what, double done, double all) {
                                   progress.label("perplexity, " + what);
                                   progress.update(done, all);
                                 });
  }
  const std::string model = model_fingerprint(session.model());
  for (MethodRecord& r : records) r.model = model;
  print("\n" + records_table(records));
  for (const MethodRecord& r : records) {
    if (r.simulated) print(r.method + " is simulated in float: it has no integer product\n");
  }
  outputs.write("--json", records_json(records));
}

}  // namespace

void define_perplexity(CLI::App* app, Options* o) {
  add_session_options(app, o);
  app->add_option("--text", o->text, "a text file")->required();
  add_method_options(app, o, true);
  add_recipe_option(app, o);
  app->add_option("--weights", o->weights, "a file that quantize wrote; one more row");
  app->add_option("--windows", o->windows, "how many windows; 0: all")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--context", o->context, "tokens of a window")->capture_default_str();
  add_kv_option(app, o);
  add_output_option(app, "--json", &o->json, "also write the records to this file");
  app->footer(
      "One token stream, cut into windows that do not overlap; tokens 2.. of each are scored.\n"
      "fp with a 16-bit cache always runs: ratio, KLD and top1 compare with its logits.\n"
      "Example: rrs-llm perplexity --model M.gguf --text wiki.test.raw --windows 3 "
      "--method rrs,rrs_w4a8,quarot");
  app->callback([o] { run_perplexity(*o); });
}

}  // namespace rrs_llm
