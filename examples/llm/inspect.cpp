#include "inspect.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <utility>

#include "quantized_file.hpp"
#include "rrs/pipeline/weight_view.hpp"

namespace rrs_llm {
namespace {

double megabytes(std::size_t bytes) { return static_cast<double>(bytes) / 1e6; }

// Element (n - 1) / 2 in ascending order.
double lower_median(std::vector<float> values) {
  if (values.empty()) return 0.0;
  const auto at = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), at, values.end());
  return static_cast<double>(*at);
}

// "blk.*.ffn_up": layers of one kind on one line.
std::string kind_of(const std::string& name) {
  if (name.rfind("blk.", 0) != 0) return name;
  return "blk.*" + name.substr(name.find('.', 4));
}

struct ModuleState {
  std::vector<float> channels;
  std::vector<float> tokens;  // of the current window
  double score_sum = 0.0;
  double token_max = 0.0;
  double token_median = 0.0;
};

void add_rows(const float* x, std::int64_t rows, std::int64_t cols, ModuleState* s) {
  s->channels.resize(static_cast<std::size_t>(cols), 0.0f);
  s->tokens.clear();
  for (std::int64_t t = 0; t < rows; ++t) {
    float most = 0.0f;
    for (std::int64_t k = 0; k < cols; ++k) {
      const float magnitude = std::fabs(x[t * cols + k]);
      float& channel = s->channels[static_cast<std::size_t>(k)];
      channel = (std::max)(channel, magnitude);
      most = (std::max)(most, magnitude);
    }
    s->tokens.push_back(most);
  }
  const double most = static_cast<double>(*std::max_element(s->tokens.begin(), s->tokens.end()));
  s->token_median = lower_median(s->tokens);
  s->token_max = (std::max)(s->token_max, most);
  s->score_sum += s->token_median > 0.0 ? most / s->token_median : 0.0;
}

// As LinearInfo::stored_bytes counts: without what aligns the sections.
std::int64_t bytes_of(const ModelSource& model, const std::string& name, const LinearPlan& plan) {
  if (plan.kind == LinearKind::kFloat) {
    const TensorInfo info = *model.info(name);
    return static_cast<std::int64_t>(info.rows * info.columns * sizeof(float));
  }
  const rrs::WeightLayout l = stored_layout(model, name, plan);
  const StoredChannels beside = stored_channels(plan);
  const std::int64_t arrays = (beside.divisor ? 1 : 0) + (beside.permutation ? 1 : 0);
  return l.panels_bytes + l.scales_bytes + l.offsets_bytes + l.down_bytes + l.up_bytes +
         l.rank_scales_bytes + arrays * 4 * static_cast<std::int64_t>(model.info(name)->columns);
}

// "ffn_down     N 576    K 1536   48 groups"
std::string fit_line(std::size_t linear, const TensorInfo& info, const LinearPlan& plan) {
  char line[200];
  std::snprintf(line, sizeof line, "%-12s N %-6zu K %-6zu ", kLinearNames[linear], info.rows,
                info.columns);
  if (plan.kind == LinearKind::kFloat) return std::string(line) + "float";
  const auto k = static_cast<std::int64_t>(info.columns);
  const int group = rrs::inner_group(plan.scheme.activation.group, plan.scheme.weight.group);
  const std::int64_t rest = group == rrs::kRowGroup ? 0 : k % group;
  return line + std::to_string(rrs::group_count(k, group)) + " groups" +
         (rest == 0 ? "" : ", the last of " + std::to_string(rest));
}

}  // namespace

std::string tensors_text(const ModelSource& model) {
  const ModelConfig& c = model.config();
  char line[300];
  std::snprintf(line, sizeof line,
                "%s: %s, %zu layers, hidden %zu, ffn %zu, %zu heads of %zu, %zu KV heads, "
                "vocabulary %zu, context %zu%s\n\n",
                model.path().c_str(), architecture_name(c.architecture), c.layers, c.hidden, c.ffn,
                c.heads, c.head_size, c.kv_heads, c.vocab, c.context,
                c.tied_head ? ", tied head" : "");
  std::string out = line;
  struct Row {
    std::size_t count = 0, bytes = 0;
  };
  std::vector<std::string> order;
  std::map<std::string, Row> rows;
  std::size_t bytes = 0;
  for (const ExpectedTensor& t : expected_tensors(c)) {
    const TensorInfo info = *model.info(t.name);
    char key[160];
    std::snprintf(key, sizeof key, "%-22s %6zu x %-6zu %-5s", kind_of(t.name).c_str(), info.rows,
                  info.columns, info.type.c_str());
    if (rows.find(key) == rows.end()) order.emplace_back(key);
    ++rows[key].count;
    rows[key].bytes += info.bytes;
    bytes += info.bytes;
  }
  for (const std::string& key : order) {
    std::snprintf(line, sizeof line, "%s %4zu x  %9.2f MB\n", key.c_str(), rows[key].count,
                  megabytes(rows[key].bytes));
    out += line;
  }
  std::snprintf(line, sizeof line, "%.1f MB in all\n", megabytes(bytes));
  return out + line;
}

std::string fit_text(const ModelSource& model, const Method& method) {
  std::string out = method.name + ": " + describe(method) + "\n";
  std::vector<std::string> order;  // of layers that are alike, one line
  std::map<std::string, std::size_t> lines;
  double bits = 0.0, weights = 0.0;
  bool unknown_ranks = false;
  for (std::size_t layer = 0; layer < model.config().layers; ++layer) {
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const LinearPlan plan = method.plan(layer, l);
      const TensorInfo info = *model.info(linear_name(layer, l));
      weights += static_cast<double>(info.rows) * static_cast<double>(info.columns);
      bits += 8.0 * static_cast<double>(bytes_of(model, linear_name(layer, l), plan));
      unknown_ranks = unknown_ranks || plan.weight.aser.alpha > 0.0;
      const std::string line = fit_line(l, info, plan);
      if (++lines[line] == 1) order.push_back(line);
    }
  }
  char line[120];
  for (const std::string& text : order) {
    std::snprintf(line, sizeof line, "  %4zu x  ", lines[text]);
    out += line + text + "\n";
  }
  std::snprintf(
      line, sizeof line, "  %.2f bits per weight%s\n", bits / weights,
      unknown_ranks ? ", and the branches of rank-share, whose ranks preparing finds" : "");
  return out + line;
}

std::vector<ModuleOutliers> measure_outliers(
    Engine* engine, const std::vector<TokenId>& tokens, std::size_t windows, std::size_t context,
    const std::function<void(double done, double all)>& progress) {
  std::map<std::pair<std::size_t, std::size_t>, ModuleState> states;
  engine->observe([&](std::size_t layer, std::size_t linear, const float* x, std::int64_t rows,
                      std::int64_t cols) {
    add_rows(x, rows, cols, &states[{layer, linear == kGate ? std::size_t{kUp} : linear}]);
  });
  double done = 0.0;
  const double all = static_cast<double>(windows * context * engine->config().layers);
  if (progress) {
    engine->watch([&](std::int64_t rows) { progress(done += static_cast<double>(rows), all); });
  }
  for (std::size_t w = 0; w < windows; ++w) {
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(w * context);
    Sequence sequence = engine->start();
    engine->forward(std::vector<TokenId>(first, first + static_cast<std::ptrdiff_t>(context)),
                    &sequence);
  }
  engine->observe(nullptr);
  engine->watch(nullptr);
  std::vector<ModuleOutliers> out;
  for (const auto& [place, s] : states) {
    ModuleOutliers m;
    m.module = linear_name(place.first, place.second);
    m.token_max = s.token_max;
    m.token_median = s.token_median;
    m.channel_max = static_cast<double>(*std::max_element(s.channels.begin(), s.channels.end()));
    m.channel_median = lower_median(s.channels);
    m.score = s.score_sum / static_cast<double>(windows);
    out.push_back(m);
  }
  return out;
}

std::string outliers_text(std::vector<ModuleOutliers> modules, std::size_t most) {
  std::stable_sort(modules.begin(), modules.end(),
                   [](const auto& a, const auto& b) { return a.score > b.score; });
  if (most != 0 && modules.size() > most) modules.resize(most);
  char line[200];
  std::snprintf(line, sizeof line, "%-20s %10s %11s %12s %13s %15s\n", "module (input)", "QFeM",
                "token max", "token median", "channel max", "channel median");
  std::string out = line;
  for (const ModuleOutliers& m : modules) {
    std::snprintf(line, sizeof line, "%-20s %10.2f %11.3f %12.3f %13.3f %15.3f\n", m.module.c_str(),
                  m.score, m.token_max, m.token_median, m.channel_max, m.channel_median);
    out += line;
  }
  return out;
}

}  // namespace rrs_llm
