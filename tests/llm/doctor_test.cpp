// The doctor's page on tiny models: well-formed, complete, escaped, and its numbers.

#include <cctype>
#include <cmath>
#include <fstream>
#include <map>
#include <set>

#include "../../examples/llm/commands.hpp"
#include "../../examples/llm/doctor.hpp"
#include "../../examples/llm/doctor_page.hpp"
#include "../../examples/llm/html.hpp"
#include "engine_support.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

// Empty when `text` is well-formed: tags nest, attributes are quoted, entities are known, ids are
// unique and every local link has its target. Otherwise what is wrong.
class Checker {
 public:
  explicit Checker(const std::string& text) : s_(text) {}

  std::string check() {
    const std::string doctype = "<!DOCTYPE html>\n";
    if (s_.rfind(doctype, 0) != 0) return "no doctype";
    for (at_ = doctype.size(); at_ < s_.size() && problem_.empty();) {
      if (s_[at_] == '<') {
        tag();
      } else if (s_[at_] == '&') {
        entity();
      } else if (s_[at_] == '>') {
        problem_ = "stray >";
      } else {
        ++at_;
      }
    }
    if (problem_.empty() && !open_.empty()) problem_ = "not closed: " + open_.back();
    for (const std::string& link : links_) {
      if (problem_.empty() && ids_.count(link) == 0) problem_ = "no target " + link;
    }
    return problem_.empty() ? "" : problem_ + " before: " + s_.substr(at_, 60);
  }
  int count(const std::string& tag) const {
    const auto at = tags_.find(tag);
    return at == tags_.end() ? 0 : at->second;
  }

 private:
  std::string name() {
    const std::size_t from = at_;
    while (at_ < s_.size() &&
           (std::isalnum(static_cast<unsigned char>(s_[at_])) != 0 || s_[at_] == '-')) {
      ++at_;
    }
    return s_.substr(from, at_ - from);
  }
  void entity() {
    const std::size_t end = s_.find(';', at_);
    if (end == std::string::npos || end - at_ > 10) {
      problem_ = "bare &";
      return;
    }
    const std::string e = s_.substr(at_ + 1, end - at_ - 1);
    const bool known = e == "amp" || e == "lt" || e == "gt" || e == "quot" || e[0] == '#';
    if (!known) problem_ = "entity " + e;
    at_ = end + 1;
  }
  void tag() {
    ++at_;
    if (s_[at_] == '/') {
      ++at_;
      const std::string n = name();
      if (open_.empty() || open_.back() != n) problem_ = "</" + n + "> does not match";
      if (!open_.empty()) open_.pop_back();
      if (s_[at_++] != '>') problem_ = "</" + n;
      return;
    }
    const std::string n = name();
    if (n.empty()) problem_ = "bare <";
    ++tags_[n];
    while (problem_.empty() && s_[at_] == ' ') attribute(n);
    if (s_[at_] == '/') {
      ++at_;
    } else {
      open_.push_back(n);
    }
    if (s_[at_++] != '>') problem_ = "tag " + n;
    if (n == "style" && problem_.empty()) at_ = s_.find("</style>", at_);
  }
  void attribute(const std::string& tag) {
    ++at_;
    const std::string n = name();
    if (s_.compare(at_, 2, "=\"") != 0) {
      problem_ = "attribute " + n + " of " + tag;
      return;
    }
    const std::size_t end = s_.find('"', at_ + 2);
    const std::string value = s_.substr(at_ + 2, end - at_ - 2);
    if (value.find_first_of("<>") != std::string::npos) problem_ = "< in attribute " + n;
    if (n == "id" && !ids_.insert(value).second) problem_ = "id twice: " + value;
    if (n == "href" && value[0] != '#') problem_ = "leaves the page: " + value;
    if (n == "href") links_.push_back(value.substr(1));
    if (n == "src" || n.rfind("on", 0) == 0) problem_ = "attribute " + n;
    at_ = end + 1;
  }

  const std::string& s_;
  std::size_t at_ = 0;
  std::vector<std::string> open_, links_;
  std::set<std::string> ids_;
  std::map<std::string, int> tags_;
  std::string problem_;
};

TEST(Html, EscapesMarkupAndMendsBytes) {
  EXPECT_EQ(html_text("a<b>&\"'c"), "a&lt;b&gt;&amp;&quot;&#39;c");
  EXPECT_EQ(html_text("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"),
            "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
  const std::string r = "&#xFFFD;";
  EXPECT_EQ(html_text(std::string("a\0b\x1b\x7f", 5)), "a" + r + "b" + r + r);
  EXPECT_EQ(html_text("\xc3"), r);
  EXPECT_EQ(html_text("\xc0\xaf"), r + r);                  // overlong
  EXPECT_EQ(html_text("\xed\xa0\x80"), r + r + r);          // surrogate
  EXPECT_EQ(html_text("\xf4\x90\x80\x80"), r + r + r + r);  // beyond U+10FFFF
  EXPECT_EQ(html_text("\xef\xbf\xbf"), r + r + r);          // no character of XML
  EXPECT_EQ(html_token(" a\n\t"), "&#x2423;a&#x21B5;&#x21E5;");
}

TEST(Surface, CellsAreMaximaOfTheirTokensAndChannels) {
  const std::int64_t rows = 37, cols = 100;
  std::vector<float> x(static_cast<std::size_t>(rows * cols), 0.5f);
  x[static_cast<std::size_t>(36 * cols + 99)] = -7.0f;
  const Surface s = make_surface(x.data(), rows, cols);
  EXPECT_EQ(s.largest, 7.0f);
  EXPECT_EQ(s.median, 0.5f);
  EXPECT_EQ(s.cells[Surface::kRows - 1][Surface::kColumns - 1], 7.0f);
  EXPECT_EQ(s.cells[0][0], 0.5f);
  EXPECT_EQ(s.cells[Surface::kRows - 1][0], 0.5f);
  const Surface none = make_surface(nullptr, 0, 5);
  EXPECT_EQ(none.largest, 0.0f);
  EXPECT_NE(surface_svg(none, "none").find("</svg>"), std::string::npos);
}

struct Examined {
  TempFolder folder;
  TinyModel model = tiny_model(Architecture::kLlama, true);
  std::string path;
  std::unique_ptr<Session> session;
  DoctorReport report;

  // `spikes`: one token, in every window, has almost nothing but channel 5, whose gain is huge.
  explicit Examined(bool spikes = false, std::size_t context = 48) {
    for (TinyTensor& t : model.tensors) {
      if (t.name == "blk.0.ffn_norm") t.values[5] = 64.0f;
      if (spikes && t.name == "token_embd") t.values[7 * model.config.hidden + 5] = 100.0f;
    }
    std::vector<TokenId> tokens = random_tokens(model, 280, 4);
    for (std::size_t at = 7; spikes && at < tokens.size(); at += 30) tokens[at] = 7;
    path = write_tiny_gguf(model, folder);
    SessionOptions options;
    options.model = path;
    options.threads = 2;
    session = std::make_unique<Session>(options);
    session->set_calibration_tokens(tokens);
    DoctorOptions o;
    o.text_path = "a<b>&c.txt";
    o.windows = 2;
    o.context = context;
    std::size_t calls = 0;
    report = examine(session.get(), tokens, o, [&](const std::string&, double done, double all) {
      ++calls;
      EXPECT_LE(done, all);
    });
    EXPECT_GT(calls, 0u);
  }
};

// What the recipe measured on the text, in parts of uniform rrs.
void set_recipe(DoctorReport* report, double kld, double perplexity) {
  const MethodRecord& uniform = record_of(*report, "rrs");
  report->records.back().kld_mean = kld * uniform.kld_mean;
  report->records.back().perplexity = perplexity * uniform.perplexity;
}

// Score of every module.
void set_score(DoctorReport* report, double score) {
  for (ModuleReport& m : report->modules) {
    m.spikes.ratio_sum = score * static_cast<double>(m.spikes.sequences);
  }
}

// Every module: this part of its error is the weights'.
void set_weights_share(DoctorReport* report, double share) {
  for (ModuleReport& m : report->modules) m.activation_share = 1.0 - share;
}

std::size_t times_in(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
  return count;
}

TEST(Doctor, NumbersAreThoseOfTheModules) {
  const Examined e;
  ASSERT_EQ(e.report.modules.size(), 8u);
  EXPECT_EQ(e.report.windows, 2u);
  for (const ModuleReport& m : e.report.modules) {
    ASSERT_EQ(m.errors.size(), kDoctorMethods);
    EXPECT_EQ(m.spikes.sequences, 2);
    EXPECT_GT(m.raw.largest, 0.0f);
    EXPECT_LE(m.smoothed.largest, 8.001f) << m.module.name;
    EXPECT_GE(m.smoothed.largest, 6.9f);
    for (const OutputError& x : m.errors) {
      EXPECT_GT(x.noise, 0.0);
      EXPECT_GT(x.signal, 0.0);
      EXPECT_GT(x.cosine(), 0.5);
      EXPECT_LE(x.cosine(), 1.0 + 1e-12);
      EXPECT_NEAR(x.sqnr_db(), -20.0 * std::log10(x.relative()), 1e-9);
      EXPECT_EQ(x.signal, m.errors[0].signal);
    }
    EXPECT_LT(m.errors[kA8].noise, m.errors[kRotated].noise) << m.module.name;
    EXPECT_LE(m.activation_share, 1.0);
    EXPECT_FALSE(m.reason.empty());
  }
  ASSERT_EQ(e.report.records.size(), tokens_spike(e.report) ? 7u : 6u);
  EXPECT_LE(e.report.recipe.mean_cost, 5.0);
  const bool said = e.report.recipe.verdict.find("not better than uniform") != std::string::npos;
  EXPECT_EQ(said, !recipe_helps(e.report));
  EXPECT_EQ(recipe_text(parse_recipe(recipe_text(e.report.recipe), "R")),
            recipe_text(e.report.recipe));
}

TEST(Doctor, PageIsWellFormedCompleteAndSelfContained) {
  Examined e;
  SpikeToken nasty;
  nasty.module = "blk.0.attn_q";
  nasty.before = "<script>alert('x')</script>";
  nasty.token = "</td>\"&\xff\n";
  nasty.ratio = 99.0;
  e.report.spikes.insert(e.report.spikes.begin(), nasty);
  e.report.model_name = "<img src=x onerror=alert(1)>";
  set_recipe(&e.report, 0.5, 0.9);  // better, so that its file is on the page
  for (const std::string& recipe : {std::string(), std::string("it's <r>.json")}) {
    const std::string page = doctor_page(e.report, recipe);
    Checker checker(page);
    EXPECT_EQ(checker.check(), "");
    EXPECT_EQ(checker.count("details"), 8);
    EXPECT_EQ(checker.count("svg"), 3 + 8 * 3);
    for (const char* none : {"script", "img", "link", "iframe", "b></b"}) {
      EXPECT_EQ(checker.count(none), 0) << none;
    }
    EXPECT_EQ(page.find("http"), std::string::npos);
    expect_in(page, {".scroll svg{min-width:"});  // a map of 30 layers is legible on a phone
    EXPECT_EQ(page.find("<script"), std::string::npos);
    for (const PlanModule& m : plan_modules(e.model.config)) expect_in(page, {m.name + "</a>"});
    for (const DoctorMethod& m : doctor_methods()) expect_in(page, {m.method});
    expect_in(page, {"&lt;/td&gt;&quot;&amp;&#xFFFD;&#x21B5;", "rrs-llm plan", "a&lt;b&gt;&amp;c",
                     recipe.empty() ? "--method rrs" : "--recipe &#39;it&#39;\\&#39;&#39;s"});
  }
}

TEST(Doctor, ARecipeThatIsNotBetterThanUniformIsNotRecommended) {
  Examined e;
  ASSERT_EQ(e.report.records.back().method, "the recipe");
  ASSERT_EQ(record_of(e.report, "rrs").method, "rrs");
  set_score(&e.report, 1.0);
  e.report.recipe.settings = {{"blk.0.ffn_down", "activation-bits=8"}};
  set_weights_share(&e.report, 0.2);
  const std::string recommended = "--recipe r.json", bad = "not better</b>";
  const double nan = std::nan("");
  struct Case {
    double kld, perplexity;
    bool helps;
  };
  for (const Case& c :
       {Case{0.5, 0.9, true}, Case{0.99, 1.0, true}, Case{1.0, 0.9, false}, Case{1.2, 0.9, false},
        Case{0.9, 1.01, false}, Case{nan, 0.9, false}, Case{0.5, nan, false}}) {
    set_recipe(&e.report, c.kld, c.perplexity);
    EXPECT_EQ(recipe_helps(e.report), c.helps) << c.kld << " " << c.perplexity;
    const std::string page = doctor_page(e.report, "r.json");
    EXPECT_EQ(Checker(page).check(), "");
    EXPECT_EQ(times_in(page, recommended), c.helps ? 2u : 0u);
    EXPECT_EQ(times_in(page, "--method rrs"), c.helps ? 0u : 2u);
    EXPECT_EQ(times_in(page, bad), c.helps ? 0u : 1u);
    EXPECT_EQ(times_in(page, "<td>the recipe</td>"), 1u);  // the table shows it anyway
    EXPECT_EQ(times_in(doctor_page(e.report, ""), "--override blk.0.ffn_down=activation-bits=8"),
              c.helps ? 2u : 0u);
  }
  // Nothing to give more bits: the recipe is uniform.
  e.report.recipe.settings.clear();
  set_recipe(&e.report, 1.0, 1.0);
  const std::string page = doctor_page(e.report, "r.json");
  expect_in(page, {"No module stands out"});
  EXPECT_EQ(times_in(page, bad), 0u);
}

TEST(Doctor, GptqIsTheNextStepWhereTheWeightsDominate) {
  Examined e;
  e.report.recipe.settings = {{"blk.0.ffn_down", "activation-bits=8"}};
  const std::string next = "Recommended next step";
  for (const double share : {0.3, 0.49, 0.51, 0.9}) {
    set_weights_share(&e.report, share);
    EXPECT_NEAR(weights_share(e.report), share, 1e-12);
    for (const double kld : {0.5, 2.0}) {
      set_recipe(&e.report, kld, 1.0);
      const std::string file = doctor_page(e.report, "r.json"), page = doctor_page(e.report, "");
      EXPECT_EQ(Checker(file).check(), "");
      EXPECT_EQ(Checker(page).check(), "");
      const std::size_t steps = share > 0.5 ? 1 : 0;
      EXPECT_EQ(times_in(file, next), steps) << share;
      EXPECT_EQ(times_in(page, next), steps) << share;
      if (steps == 0) {
        EXPECT_EQ(times_in(file + page, "-gptq"), 0u);
      } else if (kld > 1.0) {
        expect_in(file, {"--method rrs,rrs-gptq\n", "--method rrs-gptq --out"});
        expect_in(page, {"--method rrs,rrs-gptq\n", "--method rrs-gptq --out"});
      } else {
        expect_in(file, {"--method rrs-plan,rrs-plan-gptq --recipe r.json\n",
                         "--method rrs-plan-gptq --recipe r.json --out"});
        expect_in(page, {"--method rrs,rrs-gptq --override blk.0.ffn_down=activation-bits=8\n",
                         "--method rrs-gptq --override blk.0.ffn_down=activation-bits=8 --out"});
      }
    }
  }
}

// Where tokens spike, the page names the remedies, and one is in the table of the whole model.
TEST(Doctor, SpikesHaveTheirRemedyMeasuredAndNamed) {
  Examined e(true);
  ASSERT_TRUE(tokens_spike(e.report));
  ASSERT_EQ(e.report.records.size(), 7u);
  EXPECT_EQ(e.report.records[5].method, kSpikeRemedy);
  EXPECT_EQ(e.report.records.back().method, "the recipe");
  EXPECT_GT(e.report.records[5].kld_mean, 0.0);
  const std::string page = doctor_page(e.report, "");
  EXPECT_EQ(Checker(page).check(), "");
  EXPECT_FALSE(e.report.prefix.empty());
  EXPECT_EQ(times_in(page, "<td>rrs+qfep</td>"), 1u);
  expect_in(page, {"<code>+qfep</code>", "<code>+qfem</code>", "prefix " + e.report.prefix,
                   "--method rrs,rrs+qfep,rrs+qfem\n", "--method rrs+qfep --out"});
  const MethodRecord& uniform = record_of(e.report, "rrs");
  for (const double kld : {0.5, 1.5, std::nan("")}) {
    e.report.records[5].kld_mean = kld * uniform.kld_mean;
    e.report.records[5].perplexity = uniform.perplexity;
    EXPECT_EQ(prefix_helps(e.report), kld < 1.0);
    EXPECT_EQ(times_in(doctor_page(e.report, ""), "no less error here"), kld < 1.0 ? 0u : 1u);
  }
  set_score(&e.report, 19.9);
  EXPECT_EQ(times_in(doctor_page(e.report, ""), "--method rrs+qfep"), 0u);
  // No room before the window: the page says so, and is complete.
  const Examined full(true, 128);
  ASSERT_TRUE(tokens_spike(full.report));
  EXPECT_EQ(full.report.records.size(), 6u);
  expect_in(doctor_page(full.report, ""),
            {"Not measured here", "exceed the model&#39;s context of 128"});
}

// The text that was measured is not what a command calibrates or searches on, unless it was given
// for that.
TEST(Doctor, CommandsNameTheCalibrationTextOnlyIfGiven) {
  Examined e;
  set_score(&e.report, 100.0);
  set_weights_share(&e.report, 0.9);
  EXPECT_EQ(times_in(doctor_page(e.report, ""), "--calibration "), 1u);  // of the explanation
  expect_in(doctor_page(e.report, ""), {"rrs-llm plan --model " + e.path + " --budget 4.5"});
  e.report.calibration_path = "my text";
  const std::string page = doctor_page(e.report, "");
  EXPECT_EQ(Checker(page).check(), "");
  // GPTQ, QFeP, each measured and stored, and the plan.
  EXPECT_EQ(times_in(page, " --calibration &#39;my text&#39;"), 5u);
  expect_in(page, {"--calibration &#39;my text&#39; --budget 4.5"});
}

TEST(Doctor, CommandWritesPageAndRecipeWholeOrNotAtAll) {
  TempFolder folder;
  const TinyModel model = tiny_model(Architecture::kQwen2, false);
  const std::string path = write_tiny_gguf(model, folder);
  const std::string text = folder.write("t.txt", "hello <b> the ab" + std::string(300, 'a'));
  const std::string out = folder.file("r.html"), recipe = folder.file("r.json");
  const auto run = [](std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "rrs-llm");
    return run_program(static_cast<int>(arguments.size()), arguments.data());
  };
  EXPECT_EQ(run({"doctor", "--model", path.c_str(), "--text", text.c_str(), "--windows", "1",
                 "--context", "32", "--out", out.c_str(), "--recipe-out", recipe.c_str(),
                 "--calibration", text.c_str()}),
            0);
  std::ifstream page(out);
  const std::string bytes{std::istreambuf_iterator<char>(page), {}};
  EXPECT_EQ(Checker(bytes).check(), "");
  EXPECT_NO_THROW(read_recipe(recipe));
  const std::string never = folder.file("never.html");
  EXPECT_EQ(run({"doctor", "--model", path.c_str(), "--text", text.c_str(), "--context", "4096",
                 "--out", never.c_str()}),
            1);
  EXPECT_FALSE(std::ifstream(never).good());
}

}  // namespace
