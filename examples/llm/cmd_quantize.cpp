// rrs-llm quantize: prepare the weights once, into a file.
#include <cstddef>
#include <string>

#include <CLI/CLI.hpp>

#include "options.hpp"
#include "progress.hpp"
#include "quantized_file.hpp"

namespace rrs_llm {
namespace {

void run_quantize(const Options& o) {
  Session session(o.session);
  const Method method = make_method(only_method(o), all_settings(o));
  PrepareOptions options;
  if (method.needs_calibration()) options.calibration = &session.calibration();
  Progress progress("quantizing " + method.name, "linears");
  options.progress = [&](std::size_t done, std::size_t all) {
    progress.update(static_cast<double>(done), static_cast<double>(all));
  };
  write_quantized(session.model(), method, options, session.pool(), o.out);
  print(o.out + ": " + method.name + ": " + describe(method) + "\n");
}

}  // namespace

void define_quantize(CLI::App* app, Options* o) {
  add_session_options(app, o);
  add_method_options(app, o, false);
  app->add_option("--out", o->out, "the safetensors file to write")->required();
  app->footer(
      "Prepares the linears once. perplexity and generate take the file with --weights, beside the "
      "same --model: weights are used where they are mapped, and logits have the same bits.\n"
      "The file appears complete or not at all.");
  app->callback([o] { run_quantize(*o); });
}

}  // namespace rrs_llm
