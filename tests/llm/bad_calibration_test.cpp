// Bad calibration input through every command: an error that names it, and no file of any kind.
#include <cstdio>
#include <string>
#include <vector>

#include "../../examples/llm/commands.hpp"
#include "../../examples/llm/quantized_file.hpp"
#include "../../examples/llm/recipe.hpp"
#include "calibrated.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

struct Bad : QuantizeProgram {
  // The error that the command prints; fails unless it fails and leaves the folder as it was.
  std::string error_of(std::vector<std::string> arguments) const {
    const std::vector<std::string> files = c.folder.list();
    arguments.insert(arguments.begin(), {"rrs-llm"});
    arguments.insert(arguments.end(), {"--model", c.path, "--threads", "1"});
    std::vector<const char*> words;
    for (const std::string& a : arguments) words.push_back(a.c_str());
    ::testing::internal::CaptureStderr();
    const int code = run_program(static_cast<int>(words.size()), words.data());
    std::fflush(stderr);
    const std::string error = ::testing::internal::GetCapturedStderr();
    EXPECT_NE(code, 0) << arguments[1];
    EXPECT_EQ(c.folder.list(), files) << arguments[1];
    return error;
  }
};

TEST(BadCalibration, TextsAreNamedByEveryCommand) {
  const Bad b;
  const std::string empty = b.c.folder.write("empty.txt", ""),
                    brief = b.c.folder.write("brief.txt", " the"),
                    same = b.c.folder.write("same.txt", std::string(5000, 'z'));
  int cases = 0;
  for (const char* method : {"rrs-gptq", "rrs-gptaq", "rrs-zigzag", "rrs+aser@rank=8",
                             "smoothquant-w8a8@alpha=search@fold=1", "rrs+qfem", "rrs+qfep"}) {
    const auto error = [&](const std::string& text) {
      return b.error_of({"quantize", "--method", method, "--calibration", text, "--out", b.out});
    };
    expect_in(error(empty), {"no tokens"});
    expect_in(error(brief), {"do not fill one window"});
    expect_in(error(same), {"one token", "over and over"});
    cases += 3;
  }
  const auto plan_error = [&](const std::string& text) {
    return b.error_of({"plan", "--budget", "5", "--context", "24", "--held-out-context", "24",
                       "--calibration", text, "--out", b.out});
  };
  expect_in(plan_error(empty), {"calibration", "do not fill one window"});
  expect_in(plan_error(brief), {"calibration", "do not fill one window"});
  expect_in(plan_error(same), {"one token", "over and over"});
  // Another one where no search window is, or at the end of those held out.
  const std::string nearly = b.c.folder.write("nearly.txt", std::string(5000, 'z') + "\n");
  expect_in(plan_error(nearly), {"one token", "over and over"});
  const auto doctor_error = [&](const std::string& text) {
    return b.error_of({"doctor", "--context", "24", "--text", text, "--out", b.out});
  };
  expect_in(doctor_error(empty), {"text", "do not fill one window"});
  expect_in(doctor_error(brief), {"text", "do not fill one window"});
  expect_in(doctor_error(same), {"text", "one token", "over and over"});
  EXPECT_EQ(cases, 21);
}

TEST(BadCalibration, RanksAboveTheLayersAndRecipesForOthersWriteNothing) {
  const Bad b;
  expect_in(b.error_of({"quantize", "--method", "rrs+aser@rank=4096", "--calibration-windows", "1",
                        "--calibration", b.text, "--out", b.out}),
            {"rank", "4096"});
  Recipe other;
  other.model = "0123456789abcdef";
  other.method = "rrs-gptq";
  const std::string recipe = b.c.folder.write("r.json", recipe_text(other));
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"quantize", "--out", b.out},
        std::vector<std::string>{"perplexity", "--text", b.text, "--context", "64", "--json",
                                 b.out}}) {
    std::vector<std::string> all = command;
    all.insert(all.end(), {"--calibration", b.text, "--recipe", recipe});
    expect_in(b.error_of(all), {"another model", "0123456789abcdef"});
  }
}

// A Hessian that no damping mends, as from a statistics file that somebody changed.
TEST(BadCalibration, AnIndefiniteHessianIsNamedAndWritesNothing) {
  const Bad b;
  Calibration c = tiny_calibration(b.c.path, b.c.model);
  auto file = std::make_shared<StatisticsFile>("", 1, false);
  for (std::size_t layer = 0; layer < b.c.model.config.layers; ++layer) {
    LayerStatistics s = c.layers[layer];
    for (std::size_t i = 0; i < kInputsPerLayer; ++i) {
      s[i].hessian = c.hessian(layer, i);
      const std::size_t k = s[i].maxima.size();
      for (std::size_t j = 0; layer == 1 && j < k * k; ++j) {
        s[i].hessian[j] = j % (k + 1) == 0 ? 1.0 : 100.0;
      }
    }
    file->append(s);
  }
  c.file = file;
  const auto source = open_model(b.c.path);
  const ThreadPool pool(1);
  PrepareOptions options;
  options.calibration = &c;
  const std::vector<std::string> files = b.c.folder.list();
  // Not rotated: a rotation would add up what the off-diagonal elements say.
  for (const char* method : {"rtn-gptq", "rtn+aser@rank=8"}) {
    expect_in(refusal([&] {
                write_quantized(*source, make_method(method, {}), options, pool,
                                rrs_examples::AtomicFile(b.out));
              }),
              {"blk.1.attn_q", "positive definite"});
    EXPECT_EQ(b.c.folder.list(), files) << method;
  }
}

}  // namespace
