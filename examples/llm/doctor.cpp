#include "doctor.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "calibration.hpp"
#include "quantized_file.hpp"
#include "rrs/quantize/quantize.hpp"
#include "rrs/rotate/rotate.hpp"

namespace rrs_llm {
namespace {

constexpr std::size_t kSpikesListed = 24;    // in the table of tokens
constexpr std::size_t kSpikesPerModule = 3;  // of one window
constexpr std::size_t kContextTokens = 6;    // shown before a spike

void check(const rrs::Status& status, const std::string& what) {
  if (!status) throw std::runtime_error(what + ": " + status.message());
}

std::vector<float> rotated_rows(const float* x, std::int64_t rows, std::int64_t cols,
                                const rrs::Rotation& rotation, const ThreadPool& pool) {
  std::vector<float> out(static_cast<std::size_t>(rows * cols));
  std::vector<std::byte> workspace(rrs::rotate_workspace_bytes(rows, cols, rotation));
  check(rrs::rotate(rrs::MatrixView<const float>(x, rows, cols), rotation,
                    rrs::MatrixView<float>(out.data(), rows, cols), workspace.data(),
                    workspace.size(), pool),
        "rotation");
  return out;
}

// x~ / s of window one: every value in steps of the code.
void smooth_rows(const rrs::ActivationScheme& a, std::int64_t cols, std::vector<float>* x) {
  const std::int64_t step = a.group == rrs::kRowGroup ? cols : a.group;
  const auto rows = static_cast<std::int64_t>(x->size()) / cols;
  for (std::int64_t t = 0; t < rows; ++t) {
    float* row = x->data() + t * cols;
    for (std::int64_t first = 0; first < cols; first += step) {
      const std::int64_t last = (std::min)(first + step, cols);
      float positive = 0.0f, negative = 0.0f;
      for (std::int64_t k = first; k < last; ++k) {
        positive = (std::max)(positive, row[k]);
        negative = (std::max)(negative, -row[k]);
      }
      const float s = rrs::group_scale(a.range, a.clip, rrs::max_code(a.bits), positive, negative);
      for (std::int64_t k = first; k < last; ++k) row[k] = s == 0.0f ? 0.0f : row[k] / s;
    }
  }
}

void add_error(const std::vector<float>& expected, const std::vector<float>& got, OutputError* e) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double y = static_cast<double>(expected[i]), z = static_cast<double>(got[i]);
    e->signal += y * y;
    e->noise += (z - y) * (z - y);
    e->dot += y * z;
    e->other += z * z;
    const double d = std::fabs(z - y);
    if (!(d <= e->largest)) e->largest = d;  // NaN stays
  }
}

class Examination {
 public:
  Examination(Session* session, const std::vector<TokenId>& tokens, const DoctorOptions& options,
              const DoctorProgress& progress)
      : session_(*session), tokens_(tokens), o_(options), progress_(progress) {}

  DoctorReport run() {
    const ModelConfig& c = session_.model().config();
    r_.model_path = session_.model().path();
    r_.model_name = r_.model_path.substr(r_.model_path.find_last_of('/') + 1);
    r_.text_path = o_.text_path;
    r_.calibration_path = o_.calibration_path;
    r_.architecture = architecture_name(c.architecture);
    r_.windows = window_count(tokens_.size(), o_.context, o_.windows);
    r_.context = o_.context;
    refuse_repetition();
    for (PlanModule& m : plan_modules(c)) {
      ModuleReport report;
      report.module = std::move(m);
      report.errors.resize(kDoctorMethods);
      r_.modules.push_back(std::move(report));
    }
    contestants_.push_back(session_.prepare(make_method("fp", {}), 16));
    for (const DoctorMethod& m : doctor_methods()) {
      contestants_.push_back(session_.prepare(make_method(m.method, {}), 16));
    }
    for (std::size_t w = 0; w < r_.windows; ++w) examine_window(w);
    std::stable_sort(r_.spikes.begin(), r_.spikes.end(),
                     [](const auto& a, const auto& b) { return a.ratio > b.ratio; });
    if (r_.spikes.size() > kSpikesListed) r_.spikes.resize(kSpikesListed);
    r_.recipe.model = model_fingerprint(session_.model());
    r_.recipe.model_name = r_.model_name;
    advise(&r_);
    measure_whole();
    return std::move(r_);
  }

 private:
  // One token over and over has no spike score (every token is the median) and no error that says
  // anything of text; the page would call any model free of spikes.
  void refuse_repetition() const {
    std::vector<std::size_t> starts;
    for (std::size_t w = 0; w < r_.windows; ++w) starts.push_back(w * o_.context);
    refuse_one_token("text", tokens_, starts, o_.context);
  }

  std::vector<TokenId> window(std::size_t w) const {
    const auto first = tokens_.begin() + static_cast<std::ptrdiff_t>(w * o_.context);
    return {first, first + static_cast<std::ptrdiff_t>(o_.context)};
  }

  void examine_window(std::size_t w) {
    Engine& fp = *contestants_[0].engine;
    const std::vector<TokenId> text = window(w);
    fp.observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                   std::int64_t cols) {
      const std::size_t index = layer * kInputsPerLayer + input_of(linear);
      ModuleReport& m = r_.modules[index];
      find_spikes(w, text, x, rows, cols, &m);
      if (w == 0) draw_surfaces(x, rows, cols, &m);
      measure_module(x, rows, cols, &m);
      if (progress_) {
        progress_("modules", static_cast<double>(w * r_.modules.size() + index + 1),
                  static_cast<double>(r_.windows * r_.modules.size()));
      }
    });
    Sequence sequence = fp.start();
    fp.forward(text, &sequence);
    fp.observe(nullptr);
  }

  void find_spikes(std::size_t w, const std::vector<TokenId>& text, const float* x,
                   std::int64_t rows, std::int64_t cols, ModuleReport* m) {
    std::vector<float> scales;
    check(rrs::token_scales(rrs::MatrixView<const float>(x, rows, cols), &scales), m->module.name);
    check(rrs::add_sequence(scales, &m->spikes), m->module.name);
    const float median = rrs::lower_median(scales);
    std::vector<std::size_t> order(scales.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return scales[a] > scales[b]; });
    const Tokenizer& tokenizer = session_.model().tokenizer();
    for (std::size_t i = 0; i < (std::min)(order.size(), kSpikesPerModule); ++i) {
      const std::size_t at = order[i];
      const double ratio = median > 0.0f ? static_cast<double>(scales[at] / median) : 0.0;
      if (!(ratio >= kSpikeRatio)) break;
      SpikeToken s;
      s.module = m->module.name;
      s.window = w;
      s.position = at;
      s.scale = scales[at];
      s.ratio = ratio;
      const auto here = text.begin() + static_cast<std::ptrdiff_t>(at);
      const auto from =
          at < kContextTokens ? text.begin() : here - static_cast<std::ptrdiff_t>(kContextTokens);
      for (auto t = from; t != here; ++t) s.before += tokenizer.token_bytes(*t);
      s.token = tokenizer.token_bytes(*here);
      r_.spikes.push_back(std::move(s));
    }
  }

  void draw_surfaces(const float* x, std::int64_t rows, std::int64_t cols, ModuleReport* m) {
    const rrs::Scheme scheme = rrs::presets::rrs();
    m->raw = make_surface(x, rows, cols);
    std::vector<float> next = rotated_rows(x, rows, cols, scheme.rotation, session_.pool());
    m->rotated = make_surface(next.data(), rows, cols);
    smooth_rows(scheme.activation, cols, &next);
    m->smoothed = make_surface(next.data(), rows, cols);
  }

  std::vector<float> output(const Linear& linear, InputCache* input, std::int64_t outputs) {
    std::vector<float> y(static_cast<std::size_t>(input->rows() * outputs));
    linear.apply(*input, LinearOutput{y.data(), outputs, nullptr, false}, session_.pool());
    return y;
  }

  void measure_module(const float* x, std::int64_t rows, std::int64_t cols, ModuleReport* m) {
    const std::size_t layer = m->module.layer;
    InputCache float_input;
    float_input.set(x, rows, cols);
    std::vector<std::vector<float>> expected;
    for (const std::size_t l : m->module.linears) {
      const Linear& linear = *contestants_[0].engine->linears()[layer][l];
      expected.push_back(output(linear, &float_input, linear.info().weights / cols));
    }
    for (std::size_t i = 0; i < kDoctorMethods; ++i) {
      InputCache input;  // q, k and v prepare it once
      input.set(x, rows, cols);
      for (std::size_t j = 0; j < m->module.linears.size(); ++j) {
        const Linear& linear = *contestants_[i + 1].engine->linears()[layer][m->module.linears[j]];
        add_error(expected[j], output(linear, &input, linear.info().weights / cols), &m->errors[i]);
      }
    }
  }

  // A model or text without a prefix still has a page, which says why.
  void add_spike_remedy(std::vector<Contestant>* whole) {
    try {
      const Method method = make_method(kSpikeRemedy, {});
      const std::vector<TokenId> tokens = session_.prefix(method)->tokens;
      const std::size_t context = session_.model().config().context;
      if (tokens.size() + r_.context > context) {
        throw std::runtime_error(std::to_string(tokens.size()) + " tokens before a window of " +
                                 std::to_string(r_.context) + " exceed the model's context of " +
                                 std::to_string(context));
      }
      whole->push_back(session_.prepare(method, 16));
      r_.prefix = tokens_text(tokens);
    } catch (const std::runtime_error& error) {
      r_.prefix_problem = error.what();
    }
  }

  // Perplexity and KL divergence of the whole model, the recipe last.
  void measure_whole() {
    std::vector<Contestant> whole;
    whole.push_back(std::move(contestants_[0]));
    for (const std::size_t i : {kPlain, kQuarot, kRotated, kA8}) {
      whole.push_back(std::move(contestants_[i + 1]));
    }
    contestants_.clear();
    if (tokens_spike(r_)) add_spike_remedy(&whole);
    whole.push_back(session_.prepare(recipe_method(r_.recipe, "", {}), 16));
    whole.back().method = "the recipe";
    r_.records = measure_perplexity(whole, tokens_, r_.windows, r_.context, session_.pool(),
                                    [&](const std::string& what, double done, double all) {
                                      if (progress_) progress_("whole model, " + what, done, all);
                                    });
    if (!recipe_helps(r_)) {
      r_.recipe.verdict += "; on the text measured it is not better than uniform rrs";
    }
  }

  Session& session_;
  const std::vector<TokenId>& tokens_;
  const DoctorOptions& o_;
  const DoctorProgress& progress_;
  std::vector<Contestant> contestants_;  // fp, then doctor_methods()
  DoctorReport r_;
};

}  // namespace

double OutputError::relative() const { return std::sqrt(noise / signal); }
double OutputError::sqnr_db() const { return 10.0 * std::log10(signal / noise); }
double OutputError::cosine() const { return dot / std::sqrt(signal * other); }

const std::array<DoctorMethod, kDoctorMethods>& doctor_methods() {
  static const std::array<DoctorMethod, kDoctorMethods> methods{
      {{"rtn", "plain 4 bits: one step size per token, no rotation"},
       {"rrs@rotation=none", "4 bits, a step size for every 32 channels, no rotation"},
       {"quarot", "4 bits, all channels rotated together (QuaRot)"},
       {"rrs", "4 bits, rotated in blocks of 32, a step size for every block and token"},
       {"rrs_w4a8", "the same with 8-bit activations"},
       {"rrs_w4a16", "the same with float activations: what is left is the weights' error"}}};
  return methods;
}

Surface make_surface(const float* x, std::int64_t rows, std::int64_t cols) {
  Surface s;
  std::vector<float> all;
  all.reserve(static_cast<std::size_t>(rows * cols));
  for (std::int64_t t = 0; t < rows; ++t) {
    auto& cells =
        s.cells[static_cast<std::size_t>(t) * Surface::kRows / static_cast<std::size_t>(rows)];
    for (std::int64_t k = 0; k < cols; ++k) {
      const float magnitude = std::fabs(x[t * cols + k]);
      float& cell =
          cells[static_cast<std::size_t>(k) * Surface::kColumns / static_cast<std::size_t>(cols)];
      cell = (std::max)(cell, magnitude);
      all.push_back(magnitude);
    }
  }
  if (all.empty()) return s;
  s.largest = *std::max_element(all.begin(), all.end());
  s.median = rrs::lower_median(std::move(all));
  return s;
}

DoctorReport examine(Session* session, const std::vector<TokenId>& tokens,
                     const DoctorOptions& options, const DoctorProgress& progress) {
  return Examination(session, tokens, options, progress).run();
}

}  // namespace rrs_llm
