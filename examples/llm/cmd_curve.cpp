// rrs-llm curve: records of `perplexity --json` as a picture.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "../support/mapped_file.hpp"
#include "curve.hpp"
#include "options.hpp"

namespace rrs_llm {
namespace {

struct CurveOptions {
  std::vector<std::string> files;
  std::string title = "Perplexity over bits per weight";
};

void run_curve(const CurveOptions& c, const Options& o) {
  std::vector<rrs_examples::NamedPath> inputs;
  for (const std::string& path : c.files) inputs.push_back({"records", path});
  rrs_examples::OutputFiles outputs({{"--out", o.out}}, inputs);
  std::vector<CurvePoint> points;
  for (const std::string& path : c.files) {
    const rrs_examples::MappedFile file(path);
    for (CurvePoint& p : read_points(std::string(file.text()), path)) {
      points.push_back(std::move(p));
    }
  }
  const std::vector<CurvePoint> curve = make_curve(std::move(points));
  print(curve_table(curve));
  outputs.write("--out", curve_svg(curve, c.title));
}

}  // namespace

void define_curve(CLI::App* app, Options* o) {
  auto own = std::make_shared<CurveOptions>();
  app->add_option("records", own->files, "files of perplexity --json")->required();
  add_output_option(app, "--out", &o->out, "the picture, an SVG file");
  app->add_option("--title", own->title, "of the picture")->capture_default_str();
  app->callback([own, o] { run_curve(*own, *o); });
}

}  // namespace rrs_llm
