#include "layer_report/program.hpp"

#include <cstdio>
#include <exception>

#include "layer_report/args.hpp"
#include "layer_report/json.hpp"
#include "layer_report/measure.hpp"
#include "layer_report/svg.hpp"
#include "layer_report/table.hpp"
#include "support/output_files.hpp"
#include "support/write_error.hpp"

namespace layer_report {
namespace {

constexpr int kCannotWrite = 1;
constexpr int kBadInput = 2;

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// The tables appear layer by layer, as they are measured.
int run(const Options& options) {
  rrs_examples::OutputFiles outputs({{"--json", options.json}, {"--svg", options.svg}},
                                    {{"FILE.safetensors", options.file}});
  const std::vector<Layer> layers = load_layers(options.file);
  const std::vector<Method> methods = all_methods();
  Report report = describe_run(options.file, options.rounds);
  print(header_text(report));
  for (const Layer& layer : layers) {
    std::fflush(stdout);
    report.layers.push_back(measure_layer(layer, methods, options.rounds));
    print(layer_text(report.layers.back()));
  }
  print(footer_text(report));
  outputs.write("--json", json_text(report));
  outputs.write("--svg", svg_text(report));
  return std::fflush(stdout) == 0 && std::ferror(stdout) == 0 ? 0 : kCannotWrite;
}

int fail(const std::exception& error, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "layer_report: %s\n", error.what());
  return code;
}

}  // namespace

int run_program(int argc, const char* const* argv) {
  try {
    const Options options = parse_arguments(argc, argv);
    if (options.help) {
      print(kHelp);
      return 0;
    }
    return run(options);
  } catch (const rrs_examples::WriteError& error) {
    return fail(error, kCannotWrite);
  } catch (const std::exception& error) {
    return fail(error, kBadInput);
  }
}

}  // namespace layer_report
