#include "doctor_page.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "html.hpp"

namespace rrs_llm {
namespace {

constexpr const char* kStyle = R"css(
:root{color-scheme:light}
body{font:16px/1.5 system-ui,"DejaVu Sans",Verdana,sans-serif;color:#1f2933;background:#fff;
margin:0 auto;max-width:1120px;padding:16px}
h1{font-size:1.6em;line-height:1.25;margin:.4em 0}
h2{font-size:1.25em;margin:1.8em 0 .4em;border-bottom:2px solid #d9e2ec;padding-bottom:.2em}
h3{font-size:1.05em;margin:1em 0 .3em}
.verdict{background:#f0f5fa;border-left:5px solid #1f5d99;padding:.6em 1em;margin:1em 0}
.verdict p{margin:.4em 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.88em;margin:.5em 0}
th,td{padding:.25em .6em;border-bottom:1px solid #e4e9ee;text-align:right;white-space:nowrap}
th{background:#f6f8fa;vertical-align:bottom}
th:first-child,td:first-child,td.l,th.l{text-align:left}
td.w{white-space:normal;text-align:left;min-width:14em}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f8fa;border:1px solid #e4e9ee;
padding:.7em;font-size:.85em}
code{font-family:"DejaVu Sans Mono",Menlo,Consolas,monospace}
mark{background:#ffd9a8;padding:0 .15em}
svg{max-width:100%;height:auto}
.scroll svg{min-width:640px}
svg text{font:12px system-ui,"DejaVu Sans",sans-serif;fill:#3b4a59}
svg text.t{font-weight:bold;fill:#1f2933}
svg.surface{width:340px}
.three{display:flex;flex-wrap:wrap;gap:6px}
details{border-bottom:1px solid #e4e9ee;padding:.25em 0}
summary{cursor:pointer}
.a8{color:#b4480f;font-weight:bold}.a16{color:#8c141e;font-weight:bold}.aw{color:#6a3fa0;
font-weight:bold}.a4{color:#2e6b3e}
.note{color:#52606d;font-size:.9em}
dt{font-weight:bold;margin-top:.5em}
)css";

std::string format(const char* text, double a, double b = 0.0, double c = 0.0) {
  char out[256];
  std::snprintf(out, sizeof out, text, a, b, c);
  return out;
}

// Plain digits where a reader expects them.
std::string number(double v) {
  if (!std::isfinite(v)) return "not finite";
  return format(v >= 1000.0 ? "%.0f" : v >= 100.0 ? "%.1f" : "%.2f", v);
}

std::string percent(double share) {
  return std::isfinite(share) ? format(share >= 1.0 ? "%.0f %%" : "%.1f %%", 100.0 * share)
                              : "not finite";
}

std::string id_of(const std::string& module) {
  std::string id = "m";
  for (const char c : module) id += c == '.' || c == '_' ? '-' : c;
  return id;
}

std::string link_to(const std::string& module) {
  return "<a href=\"#" + id_of(module) + "\">" + html_text(module) + "</a>";
}

const char* action_text(Action a) {
  switch (a) {
    case Action::kFourBits: return "rotate, 4 bits";
    case Action::kEightBits: return "rotate, activations at 8 bits (A8)";
    case Action::kSixteenBits: return "leave activations in float (A16)";
    case Action::kBetterWeights: break;
  }
  return "rotate, better weights: GPTQ or a low-rank branch";
}

const char* action_class(Action a) {
  switch (a) {
    case Action::kFourBits: return "a4";
    case Action::kEightBits: return "a8";
    case Action::kSixteenBits: return "a16";
    case Action::kBetterWeights: break;
  }
  return "aw";
}

std::string action_cell(Action a) {
  return std::string("<span class=\"") + action_class(a) + "\">" + action_text(a) + "</span>";
}

double score(const ModuleReport& m) { return rrs::spike_score(m.spikes); }

// A word of the shell, whatever is in it.
std::string shell_word(const std::string& text) {
  const bool plain =
      !text.empty() &&
      text.find_first_not_of(
          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./_-+=,:@") ==
          std::string::npos;
  if (plain) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

class Page {
 public:
  Page(const DoctorReport& report, const std::string& recipe_path)
      : r_(report), recipe_path_(recipe_path) {
    for (const ModuleReport& m : r_.modules) by_score_.push_back(&m);
    std::stable_sort(by_score_.begin(), by_score_.end(),
                     [](const auto* a, const auto* b) { return score(*a) > score(*b); });
  }

  std::string text() {
    out_ =
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta "
        "name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><title>Outlier "
        "doctor: " +
        html_text(r_.model_name) + "</title><style>" + kStyle +
        "</style></head><body>\n<h1>Why does " + html_text(r_.model_name) +
        " break at 4 bits, and what helps?</h1>\n";
    verdict();
    commands();
    maps();
    spikes();
    modules();
    details();
    glossary();
    return out_ + "</body></html>\n";
  }

 private:
  std::size_t count(Action a) const {
    return static_cast<std::size_t>(
        std::count_if(r_.modules.begin(), r_.modules.end(),
                      [&](const ModuleReport& m) { return m.action == a; }));
  }

  void verdict() {
    // fp is first, the recipe last.
    const MethodRecord &fp = r_.records.front(), &plain = record_of(r_, "rtn"),
                       &rrs = record_of(r_, "rrs"), &recipe = r_.records.back();
    const ModuleReport& worst = *by_score_.front();
    out_ += "<div class=\"verdict\">\n<p><b>Plain 4-bit quantization " +
            std::string(plain.ratio > 2.0   ? "destroys"
                        : plain.ratio > 1.1 ? "hurts"
                                            : "suits") +
            " this model</b>: perplexity goes from " + number(fp.perplexity) + " to " +
            number(plain.perplexity) +
            " (lower is better; a good 4-bit model stays within some "
            "percent). With rotation and a step size per 32 channels it is " +
            number(rrs.perplexity) + ", with the recipe " + number(recipe.perplexity) +
            " (KL divergence " + format("%.3f to %.3f", rrs.kld_mean, recipe.kld_mean) + ").</p>\n";
    if (tokens_spike(r_)) {
      out_ +=
          "<p><b>Why:</b> a few tokens are far larger than all others. The worst place is the "
          "input of " +
          link_to(worst.module.name) + ": at position " +
          std::to_string(worst.spikes.peak_position) + " a token is " + number(score(worst)) +
          " times as large as a typical one. Sixteen steps must span "
          "that, so everything near it is rounded to zero.</p>\n" +
          against_spikes(rrs);
    } else {
      out_ += "<p><b>Why:</b> no token is more than " + number(score(worst)) +
              " times as large as a typical one here; what hurts is the spread between "
              "channels and the coarse weights.</p>\n";
    }
    out_ += what_to_do(rrs, recipe) +
            "</p>\n</div>\n<div class=\"scroll\"><table><tr><th>whole model</th><th>perplexity</th>"
            "<th>times float</th><th>KL divergence</th><th>same first choice</th></tr>\n";
    for (const MethodRecord& r : r_.records) {
      out_ += "<tr><td>" + html_text(r.method) + "</td><td>" + number(r.perplexity) + "</td><td>" +
              format("%.3f", r.ratio) + "</td><td>" + format("%.4f", r.kld_mean) + "</td><td>" +
              percent(r.top1) + "</td></tr>\n";
    }
    out_ += "</table></div>\n<p class=\"note\">" + std::to_string(r_.windows) +
            (r_.windows == 1 ? " window of " : " windows of ") + std::to_string(r_.context) +
            " tokens of " + html_text(r_.text_path) +
            ": enough to see what is wrong, too few to rank what lies within a few percent.</p>\n";
  }

  std::string against_spikes(const MethodRecord& rrs) const {
    std::string text =
        "<p><b>Against spikes:</b> three tokens before every sequence that take them (QFeP, "
        "<code>+qfep</code>), or the worst modules in 16 bits (QFeM, <code>+qfem</code>): <a "
        "href=\"#apply\">commands</a>. ";
    if (r_.prefix.empty()) {
      return text + "Not measured here: " + html_text(r_.prefix_problem) + ".</p>\n";
    }
    const MethodRecord& with = record_of(r_, kSpikeRemedy);
    return text + "With the prefix " + html_text(r_.prefix) + " uniform <code>rrs</code> has " +
           (prefix_helps(r_) ? "a KL divergence of " : "<b>no less error here</b>: ") +
           format("%.4f instead of %.4f", with.kld_mean, rrs.kld_mean) + ", perplexity " +
           number(with.perplexity) + " instead of " + number(rrs.perplexity) +
           (prefix_helps(r_) ? ".</p>\n"
                             : ". (Its step sizes are each token's own: a spike does not reach "
                               "other tokens.)</p>\n");
  }

  std::string what_to_do(const MethodRecord& rrs, const MethodRecord& recipe) const {
    const std::size_t eight = count(Action::kEightBits), sixteen = count(Action::kSixteenBits);
    const std::string more =
        std::to_string(eight) + " of " + std::to_string(r_.modules.size()) +
        " modules 8-bit activations" +
        (sixteen > 0 ? " and leave " + std::to_string(sixteen) + " in float" : "") + ": " +
        format("%.2f", r_.recipe.mean_cost) + " activation bits on average. ";
    if (recipe_helps(r_)) {
      return "<p><b>What to do:</b> rotate all modules; give " + more + weights_advice();
    }
    std::string text =
        "<p><b>What to do:</b> rotate all modules, all at 4 bits: uniform "
        "<code>rrs</code>. ";
    if (r_.recipe.settings.empty()) {
      text += "No module stands out enough to be worth more bits. ";
    } else {
      text += "By the rule on each module's own error the recipe would give " + more +
              "<b>On this text that is not better</b> than uniform <code>rrs</code>: KL "
              "divergence " +
              format("%.4f, uniform %.4f", recipe.kld_mean, rrs.kld_mean) + "; perplexity " +
              number(recipe.perplexity) + ", uniform " + number(rrs.perplexity) +
              ". It is not recommended. ";
    }
    return text + weights_advice();
  }

  bool weights_dominate() const { return weights_share(r_) > 0.5; }

  std::string weights_advice() const {
    return "After rotation " + percent(weights_share(r_)) +
           " of the squared error that is left comes from the weights" +
           (weights_dominate() ? ": better weights (GPTQ) help more than more activation bits; "
                                 "<a href=\"#apply\">that is the next step</a>."
                               : ", the rest from the activations.");
  }

  // Options of the advice: uniform or the recipe, by the solver of `suffix`; `first`: methods to
  // compare with.
  std::string advised(const std::string& first, const std::string& suffix) const {
    if (!recipe_helps(r_)) return " --method " + first + "rrs" + suffix;
    if (!recipe_path_.empty()) {
      const std::string recipe = " --recipe " + shell_word(recipe_path_);
      return first.empty() && suffix.empty() ? recipe
                                             : " --method " + first + "rrs-plan" + suffix + recipe;
    }
    std::string how = " --method " + first + "rrs" + suffix;
    for (const RecipeSetting& s : r_.recipe.settings) {
      how += " --override " + shell_word(s.pattern + "=" + s.set);
    }
    return how;
  }

  // What `perplexity` compares GPTQ with.
  std::string without_gptq() const {
    return recipe_helps(r_) && !recipe_path_.empty() ? "rrs-plan," : "rrs,";
  }

  // Of commands that read a calibration text.
  std::string calibration() const {
    return r_.calibration_path.empty() ? "" : " --calibration " + shell_word(r_.calibration_path);
  }

  void spike_commands(const std::string& apply, const std::string& store) {
    if (!tokens_spike(r_)) return;
    const std::string remedy = kSpikeRemedy;
    out_ +=
        "<p>Against tokens that spike (searched on the calibration text" +
        std::string(prefix_helps(r_) ? "; the prefix lowered the error here" : "") +
        "):</p>\n<pre><code>" +
        html_text(apply + " --method rrs," + remedy + ",rrs+qfem" + calibration() + "\n" + store +
                  " --method " + remedy + calibration() + " --out quantized.safetensors") +
        "</code></pre>\n";
  }

  void commands() {
    const std::string model = shell_word(r_.model_path), text = shell_word(r_.text_path);
    const std::string apply = "rrs-llm perplexity --model " + model + " --text " + text;
    const std::string store = "rrs-llm quantize --model " + model;
    const char* what = recipe_helps(r_) ? "the recommended recipe" : "uniform <code>rrs</code>";
    out_ += "<h2 id=\"apply\">Apply it</h2>\n";
    if (weights_dominate()) {
      out_ +=
          std::string("<p><b>Recommended next step:</b> better weights for ") + what +
          " by GPTQ, calibrated on " +
          (r_.calibration_path.empty() ? "the text that the program ships (<code>--calibration "
                                         "FILE</code> takes another; not the one measured on)"
                                       : "the text given for that") +
          ". Measure them on your text, "
          "beside the same without GPTQ, then store them:</p>\n<pre><code>" +
          html_text(apply + advised(without_gptq(), "-gptq") + calibration()) + "\n" +
          html_text(store + advised("", "-gptq") + calibration() + " --out quantized.safetensors") +
          "</code></pre>\n<p>Without a calibration:</p>\n";
    } else {
      out_ += std::string("<p>Measure ") + what + " on your text, then store the weights:</p>\n";
    }
    out_ += "<pre><code>" + html_text(apply + advised("", "")) + "\n" +
            html_text(store + advised("", "") + " --out quantized.safetensors") + "</code></pre>\n";
    spike_commands(apply, store);
    out_ +=
        "<p>The recipe follows a rule on each module's own error. To measure what each module "
        "does to the model's predictions, and spend a number of bits best (on the calibration "
        "text, "
        "not on the one measured here):</p>\n<pre><code>" +
        html_text("rrs-llm plan --model " + model + calibration() +
                  " --budget 4.5 --out plan.json") +
        "</code></pre>\n";
  }

  std::string map(const char* title, double low, double high, double (*value)(const ModuleReport&),
                  const char* unit) {
    const char* names[] = {"attn q, k, v", "attn output", "ffn gate, up", "ffn down"};
    std::vector<std::vector<MapCell>> rows(kInputsPerLayer);
    for (const ModuleReport& m : r_.modules) {
      const double v = value(m);
      rows[m.module.input].push_back(
          {m.module.name + ": " + number(v) + unit, "#" + id_of(m.module.name), v});
    }
    return std::string("<h3>") + title + "</h3>\n<div class=\"scroll\">" +
           map_svg(rows, {names, names + 4}, low, high) + "</div>\n";
  }

  void maps() {
    out_ +=
        "<h2 id=\"map\">Where it hurts</h2>\n<p>One square per layer (left to right) and "
        "module; darker is worse. Point at a square for its number, click for its "
        "pictures.</p>\n";
    out_ += map(
        "Spike score: largest token over typical token", 3.0, 3000.0,
        [](const ModuleReport& m) { return score(m); }, "");
    out_ += map(
        "Error of the output, plain 4 bits", 2.0, 100.0,
        [](const ModuleReport& m) { return 100.0 * m.errors[kPlain].relative(); }, " %");
    out_ += map(
        "Error of the output, 4 bits rotated", 2.0, 100.0,
        [](const ModuleReport& m) { return 100.0 * m.errors[kRotated].relative(); }, " %");
  }

  void spikes() {
    out_ += "<h2 id=\"spikes\">Tokens that spike</h2>\n";
    if (r_.spikes.empty()) {
      out_ += "<p>No token was 20 times as large as the typical token of its window.</p>\n";
      return;
    }
    out_ +=
        "<p>The largest tokens at the inputs of modules; spaces and line ends are shown as "
        "&#x2423; and &#x21B5;.</p>\n<div class=\"scroll\"><table><tr><th>module</th><th>times "
        "typical</th><th>largest |x|</th><th>window</th><th>position</th><th class=\"l\">"
        "text</th></tr>\n";
    for (const SpikeToken& s : r_.spikes) {
      out_ += "<tr><td>" + link_to(s.module) + "</td><td>" + number(s.ratio) + "</td><td>" +
              number(static_cast<double>(s.scale)) + "</td><td>" + std::to_string(s.window) +
              "</td><td>" + std::to_string(s.position) + "</td><td class=\"l\">" +
              html_token(s.before) + "<mark>" + html_token(s.token) + "</mark></td></tr>\n";
    }
    out_ += "</table></div>\n";
  }

  void modules() {
    out_ +=
        "<h2 id=\"modules\">Every module</h2>\n<p>Error of the module's output in percent of "
        "its size, through the integer kernels, on the inputs of the float model. A "
        "module is the matrices that read one input; <code>attn_q</code> stands for q, k and "
        "v, <code>ffn_up</code> for gate and up.</p>\n<div "
        "class=\"scroll\"><table><tr><th>module</th>"
        "<th>spike score</th>";
    for (const DoctorMethod& m : doctor_methods()) {
      out_ += "<th>" + html_text(m.method) + "</th>";
    }
    out_ += "<th>share of activations</th><th class=\"l\">do</th></tr>\n";
    for (const ModuleReport& m : r_.modules) {
      out_ += "<tr><td>" + link_to(m.module.name) + "</td><td>" + number(score(m)) + "</td>";
      for (const OutputError& e : m.errors) out_ += "<td>" + percent(e.relative()) + "</td>";
      out_ += "<td>" + percent((std::max)(m.activation_share, 0.0)) + "</td><td class=\"l\">" +
              action_cell(m.action) + "</td></tr>\n";
    }
    out_ += "</table></div>\n";
    if (!recipe_helps(r_)) {
      out_ +=
          "<p class=\"note\">The last column is the rule's; on this text, following it was not "
          "better than 4 bits everywhere.</p>\n";
    }
    out_ += "<ul class=\"note\">\n";
    for (const DoctorMethod& m : doctor_methods()) {
      out_ += "<li><code>" + html_text(m.method) + "</code>: " + html_text(m.meaning) + "</li>\n";
    }
    out_ += "</ul>\n";
  }

  void module_details(const ModuleReport& m) {
    out_ += "<details><summary><span id=\"" + id_of(m.module.name) + "\">" +
            html_text(m.module.name) + "</span>: score " + number(score(m)) + ", error " +
            percent(m.errors[kRotated].relative()) + "; " + action_cell(m.action) +
            "</summary>\n<p>" + html_text(m.reason) + ".</p>\n<div class=\"three\">" +
            surface_svg(m.raw, m.module.name + ": |x|") +
            surface_svg(m.rotated, "after rotation in blocks of 32") +
            surface_svg(m.smoothed, "after smoothing, in steps of the code") +
            "</div>\n<div class=\"scroll\"><table><tr><th>method</th><th>error</th><th>SQNR</th>"
            "<th>cosine</th><th>largest error</th></tr>\n";
    for (std::size_t i = 0; i < m.errors.size(); ++i) {
      const OutputError& e = m.errors[i];
      out_ += "<tr><td>" + html_text(doctor_methods()[i].method) + "</td><td>" +
              percent(e.relative()) + "</td><td>" + format("%.1f dB", e.sqnr_db()) + "</td><td>" +
              format("%.5f", e.cosine()) + "</td><td>" + number(e.largest) + "</td></tr>\n";
    }
    out_ += "</table></div>\n</details>\n";
  }

  void details() {
    out_ +=
        "<h2 id=\"details\">Pictures of every module</h2>\n<p>Click a line to open it. Height is "
        "|x|, "
        "scaled to the largest of each picture: on the left one spike makes everything else "
        "look flat, and that is also what a 4-bit step size sees. Rotation spreads the spike over "
        "its "
        "block of 32 channels; smoothing gives every token and block its own step size, so "
        "that all of them use the codes up to 8.</p>\n";
    for (const ModuleReport& m : r_.modules) module_details(m);
  }

  void glossary() {
    out_ += R"html(<h2 id="words">Words</h2>
<dl>
<dt>activation, weight</dt><dd>A module multiplies activations (they change with every token) by
weights (fixed). W4A8: weights in 4 bits, activations in 8.</dd>
<dt>spike</dt><dd>A token whose largest activation is many times that of a typical token, often
the first token or a delimiter.</dd>
<dt>spike score</dt><dd>Largest token over the middle one at a module's input, averaged over the
windows (QFeM's score).</dd>
<dt>rotation</dt><dd>Channels are mixed by a Hadamard matrix before rounding and unmixed in the
weights: the result is the same, outliers are spread.</dd>
<dt>smoothing</dt><dd>Each group of channels is divided by its own step size, which is multiplied
back after the integer sum.</dd>
<dt>SQNR</dt><dd>Size of the output over size of the error, in decibels: 20 dB is an error of 10
%, 6 dB more halve it.</dd>
<dt>share of activations</dt><dd>Part of the squared error of <code>rrs</code> that disappears
when activations are not rounded.</dd>
<dt>perplexity, KL divergence</dt><dd>How surprised the model is by the text; how far its
predictions are from those of the float model (0: the same).</dd>
</dl>
)html";
  }

  const DoctorReport& r_;
  const std::string& recipe_path_;
  std::vector<const ModuleReport*> by_score_;
  std::string out_;
};

}  // namespace

std::string doctor_page(const DoctorReport& report, const std::string& recipe_path) {
  return Page(report, recipe_path).text();
}

}  // namespace rrs_llm
