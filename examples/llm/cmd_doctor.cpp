// rrs-llm doctor: one page that says why the model breaks at 4 bits, and what to do.
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "doctor.hpp"
#include "doctor_page.hpp"
#include "options.hpp"
#include "progress.hpp"

namespace rrs_llm {
namespace {

void run_doctor(const Options& o, DoctorOptions doctor) {
  rrs_examples::OutputFiles outputs({{"--out", o.out}, {"--recipe-out", o.recipe_out}},
                                    input_files(o));
  Session session(o.session);
  const std::vector<TokenId> tokens = session.tokens_of_file(o.text);
  doctor.text_path = o.text;
  doctor.calibration_path = o.session.calibration;
  DoctorReport report;
  {
    Progress progress("doctor", "steps");
    report =
        examine(&session, tokens, doctor, [&](const std::string& what, double done, double all) {
          progress.label("doctor, " + what);
          progress.update(done, all);
        });
  }
  outputs.write("--recipe-out", recipe_text(report.recipe));
  outputs.write("--out", doctor_page(report, o.recipe_out));
  print(o.out + ": " + std::to_string(report.modules.size()) + " modules\n");
  if (!recipe_helps(report)) {
    print("on this text the recipe is not better than uniform rrs: it is not recommended\n");
  }
}

}  // namespace

void define_doctor(CLI::App* app, Options* o) {
  const auto doctor = std::make_shared<DoctorOptions>();
  add_session_options(app, o);
  app->add_option("--text", o->text, "a text file")->required();
  app->add_option("--windows", doctor->windows, "how many windows; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--context", doctor->context, "tokens of a window")->capture_default_str();
  app->add_option("--calibration", o->session.calibration,
                  "text for the page's commands and, where tokens spike, for QFeP's search; by "
                  "default examples/data/wiki.valid.txt");
  add_output_option(app, "--out", &o->out, "the page (HTML) to write")->required();
  add_output_option(app, "--recipe-out", &o->recipe_out,
                    "also write the recommended recipe (JSON)");
  app->footer(
      "One self-contained page: open it in a browser, send it by mail; it loads nothing.\n"
      "Example: rrs-llm doctor --model M.gguf --text wiki.test.raw --out report.html");
  app->callback([o, doctor] { run_doctor(*o, *doctor); });
}

}  // namespace rrs_llm
