#include "layer_report/program.hpp"

#include <cstdio>
#include <cstring>
#include <cerrno>
#include <exception>

#include "layer_report/args.hpp"
#include "layer_report/json.hpp"
#include "layer_report/measure.hpp"
#include "layer_report/svg.hpp"
#include "layer_report/table.hpp"

namespace layer_report {
namespace {

constexpr int kCannotWrite = 1;
constexpr int kBadInput = 2;

bool write_file(const std::string& path, const std::string& content) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  bool good = file != nullptr;
  if (good) {
    good = std::fwrite(content.data(), 1, content.size(), file) == content.size();
    good = std::fclose(file) == 0 && good;
  }
  if (!good) {
    std::fprintf(stderr, "layer_report: %s: cannot be written: %s\n", path.c_str(),
                 std::strerror(errno));
  }
  return good;
}

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// The tables appear layer by layer, as they are measured.
int run(const Options& options) {
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
  bool good = true;
  if (!options.json.empty()) good = write_file(options.json, json_text(report));
  if (!options.svg.empty()) good = write_file(options.svg, svg_text(report)) && good;
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) good = false;
  return good ? 0 : kCannotWrite;
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
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "layer_report: %s\n", error.what());
    return kBadInput;
  }
}

}  // namespace layer_report
