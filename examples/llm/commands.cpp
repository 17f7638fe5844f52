#include "commands.hpp"

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "../support/atomic_file.hpp"
#include "generate.hpp"
#include "inspect.hpp"
#include "progress.hpp"
#include "quantized_file.hpp"
#include "session.hpp"

namespace rrs_llm {
namespace {

// Everything any command takes; each uses its part.
struct Options {
  SessionOptions session;
  std::vector<std::string> methods;
  std::vector<Setting> settings;
  std::vector<std::string> overrides;
  std::string weights;
  std::string text;
  std::string json;
  std::string out;
  std::string prompt;
  std::size_t windows = 0;
  std::size_t context = 2048;
  std::size_t sample_windows = 4;  // inspect's
  std::size_t sample_context = 512;
  std::size_t modules = 20;
  GenerateOptions generate;
};

constexpr const char* kMethodHelp =
    "fp, q4_0-native, or a preset: rtn, smoothquant_w8a8, smoothquant_w4a4, quarot, quarot_g32, "
    "rs, "
    "rs_g32, rrs_published, rrs, rrs_w4a8, rrs_w4a16, rrs_g64, rrs_g128, rrs_whole, rrs_rows16. "
    "Settings of one method follow it: rrs@sign-seed=1@clip=0.95";

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void add_setting(CLI::App* app, Options* o, const char* key, const char* help) {
  app->add_option_function<std::string>(
         std::string("--") + key,
         [o, key](const std::string& value) {
           o->settings.push_back(Setting{"", key, value});
         },
         help)
      ->group("Scheme");
}

void add_scheme_options(CLI::App* app, Options* o) {
  add_setting(app, o, "activation-bits", "2 to 8, or 16 (not quantized)");
  add_setting(app, o, "activation-group", "16, 32, 64, 128, 256 or row");
  add_setting(app, o, "window", "one, whole or rows:N: tokens that share smoothing scales");
  add_setting(app, o, "rotation", "none, full or block:N");
  add_setting(app, o, "range", "symmetric or full: how a scale is found, activations");
  add_setting(app, o, "clip", "above 0, at most 1: of the activations' range");
  add_setting(app, o, "weight-bits", "4 or 8");
  add_setting(app, o, "weight-group", "16, 32, 64, 128, 256 or row (per output channel)");
  add_setting(app, o, "weight-range", "symmetric or full");
  add_setting(app, o, "weight-scale", "absmax or search");
  add_setting(app, o, "sign-seed", "random signs before the rotation, from this seed");
  app->add_option("--override", o->overrides,
                  "PATTERN=SETTING[,SETTING...] for some linears: 'ffn_down=a8', 'blk.0=fp', "
                  "'blk.2?.ffn_*=a8,clip=0.95'")
      ->group("Scheme");
}

void add_session_options(CLI::App* app, Options* o) {
  app->add_option("--model", o->session.model, "a GGUF file or a Hugging Face folder")->required();
  app->add_option("--threads", o->session.threads, "0: as many as the machine has")
      ->check(CLI::Range(0, 1024));
}

void add_method_options(CLI::App* app, Options* o, bool several) {
  auto* method = app->add_option("--method", o->methods, kMethodHelp);
  if (several) {
    method->delimiter(',');
  } else {
    method->expected(1);
  }
  app->add_option(
      "--calibration", o->session.calibration,
      "text for SmoothQuant's scales (perplexity: by default the end of the text, beyond "
      "the windows)");
  add_scheme_options(app, o);
}

void add_kv_option(CLI::App* app, Options* o) {
  app->add_option("--kv", o->session.kv_bits, "bits of the KV cache: 16, 8 or 4")
      ->check(CLI::IsMember({16, 8, 4}));
}

std::vector<Setting> all_settings(const Options& o) {
  std::vector<Setting> settings = o.settings;
  for (const std::string& text : o.overrides) {
    for (const Setting& s : parse_override(text)) settings.push_back(s);
  }
  return settings;
}

std::string only_method(const Options& o) { return o.methods.empty() ? "rrs" : o.methods.front(); }

void write_file(const std::string& path, const std::string& content) {
  rrs_examples::AtomicFile file(path);
  file.write(content.data(), content.size());
  file.commit();
}

// The end of the stream, where no window is: text that SmoothQuant may calibrate on.
std::vector<TokenId> beyond(const std::vector<TokenId>& tokens, std::size_t used) {
  constexpr std::size_t kMost = 8192;
  const std::size_t first = (std::max)(used, tokens.size() > kMost ? tokens.size() - kMost : 0);
  return {tokens.begin() + static_cast<std::ptrdiff_t>(first), tokens.end()};
}

void run_perplexity(const Options& o) {
  Session session(o.session);
  const std::vector<Setting> settings = all_settings(o);
  std::vector<Method> methods;
  for (const std::string& name : o.methods) {
    const Method method = make_method(name, settings);
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) method.plan(0, l);  // refuse early
    // Plain fp with a 16-bit cache runs anyway, first.
    const bool reference = method.kind == LinearKind::kFloat && o.session.kv_bits == 16;
    if (!reference) methods.push_back(method);
  }
  if (o.context > session.model().config().context) {
    throw std::runtime_error("context: " + std::to_string(o.context) + " exceeds the model's " +
                             std::to_string(session.model().config().context));
  }
  const std::vector<TokenId> tokens = session.tokens_of_file(o.text);
  const std::size_t windows = window_count(tokens.size(), o.context, o.windows);
  session.set_calibration_tokens(beyond(tokens, windows * o.context));
  std::vector<Contestant> contestants;
  contestants.push_back(session.prepare(make_method("fp", {}), 16));  // what all compare with
  for (const Method& method : methods) contestants.push_back(session.prepare(method));
  if (!o.weights.empty()) contestants.push_back(session.open(o.weights));
  char line[200];
  std::snprintf(line, sizeof line, "%zu tokens, %zu windows of %zu, %d threads; fp runs on %.80s\n",
                tokens.size(), windows, o.context, session.pool().threads(),
                float_linear_library().c_str());
  print(line);
  for (const Contestant& c : contestants) print("  " + c.method + ": " + c.scheme + "\n");
  std::vector<MethodRecord> records;
  {
    Progress progress("perplexity", "tokens");
    records = measure_perplexity(contestants, tokens, windows, o.context, session.pool(),
                                 [&](const std::string& what, double done, double all) {
                                   progress.label("perplexity, " + what);
                                   progress.update(done, all);
                                 });
  }
  print("\n" + records_table(records));
  for (const MethodRecord& r : records) {
    if (r.simulated) print(r.method + " is simulated in float: it has no integer product\n");
  }
  if (!o.json.empty()) write_file(o.json, records_json(records));
}

void run_generate(const Options& o) {
  Session session(o.session);
  Contestant c = o.weights.empty() ? session.prepare(make_method(only_method(o), all_settings(o)))
                                   : session.open(o.weights);
  EncodeOptions encode;
  encode.parse_special = true;
  encode.prepend_bos = session.model().config().add_bos;
  const Tokenizer& tokenizer = session.model().tokenizer();
  const std::vector<TokenId> prompt = tokenizer.encode(o.prompt, encode);
  print(o.prompt);
  const GenerateResult r = generate(c.engine.get(), prompt, o.generate, [&](TokenId token) {
    if (!tokenizer.is_special(token)) print(std::string(tokenizer.token_bytes(token)));
  });
  print("\n");
  std::fprintf(stderr,
               "%s: prefill %zu tokens, %.1f tokens/s (%.0f %% outside the linears); decode %zu "
               "tokens, %.1f tokens/s (%.0f %%); KV cache %.2f MB at %d bits; %s\n",
               c.method.c_str(), prompt.size(),
               static_cast<double>(prompt.size()) / r.prefill_seconds, 100.0 * r.prefill_outside,
               r.decoded, r.decoded == 0 ? 0.0 : static_cast<double>(r.decoded) / r.decode_seconds,
               100.0 * r.decode_outside, static_cast<double>(r.kv_bytes) / 1e6, c.kv_bits,
               r.ended ? "end token" : "length");
}

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

void run_inspect(const Options& o) {
  Session session(o.session);
  print(tensors_text(session.model()) + "\n");
  print(fit_text(session.model(), make_method(only_method(o), all_settings(o))));
  if (o.text.empty()) return;
  const std::vector<TokenId> tokens = session.tokens_of_file(o.text);
  const std::size_t windows = window_count(tokens.size(), o.sample_context, o.sample_windows);
  Contestant fp = session.prepare(make_method("fp", {}), 16);
  print("\nOutliers over " + std::to_string(windows) + " windows of " +
        std::to_string(o.sample_context) + " tokens, highest QFeM score first:\n");
  print(outliers_text(measure_outliers(fp.engine.get(), tokens, windows, o.sample_context),
                      o.modules));
}

void define_perplexity(CLI::App* app, Options* o) {
  add_session_options(app, o);
  app->add_option("--text", o->text, "a text file")->required();
  add_method_options(app, o, true);
  app->add_option("--weights", o->weights, "a file that quantize wrote; one more row");
  app->add_option("--windows", o->windows, "how many windows; 0: all");
  app->add_option("--context", o->context, "tokens of a window")->capture_default_str();
  add_kv_option(app, o);
  app->add_option("--json", o->json, "also write the records to this file");
  app->footer(
      "One token stream, cut into windows that do not overlap; tokens 2.. of each are scored.\n"
      "fp with a 16-bit cache always runs: ratio, KLD and top1 compare with its logits.\n"
      "Example: rrs-llm perplexity --model M.gguf --text wiki.test.raw --windows 3 "
      "--method rrs,rrs_w4a8,quarot");
  app->callback([o] { run_perplexity(*o); });
}

void define_generate(CLI::App* app, Options* o) {
  add_session_options(app, o);
  app->add_option("--prompt", o->prompt, "text to continue; special tokens are recognized")
      ->required();
  add_method_options(app, o, false);
  app->add_option("--weights", o->weights, "a file that quantize wrote, instead of --method");
  app->add_option("-n,--n", o->generate.tokens, "tokens at most")->capture_default_str();
  app->add_option("--temperature", o->generate.temperature, "0: greedy")->capture_default_str();
  app->add_option("--top-p", o->generate.top_p, "sample from this share of the probability")
      ->capture_default_str();
  app->add_option("--seed", o->generate.seed, "of the sampler")->capture_default_str();
  add_kv_option(app, o);
  app->footer(
      "Example: rrs-llm generate --model M.gguf --method rrs_w4a8 --prompt "
      "$'<|im_start|>user\\nWhy is the sky blue?<|im_end|>\\n<|im_start|>assistant\\n'");
  app->callback([o] { run_generate(*o); });
}

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

void define_inspect(CLI::App* app, Options* o) {
  add_session_options(app, o);
  add_method_options(app, o, false);
  app->add_option("--text", o->text, "also run the float model over it and show outliers");
  app->add_option("--windows", o->sample_windows, "how many windows; 0: all")
      ->capture_default_str();
  app->add_option("--context", o->sample_context, "tokens of a window")->capture_default_str();
  app->add_option("--modules", o->modules, "modules to show; 0: all")->capture_default_str();
  app->callback([o] { run_inspect(*o); });
}

}  // namespace

int run_program(int argc, const char* const* argv) {
  CLI::App app{"A small LLM engine on the rrs library: what each quantization method costs."};
  app.require_subcommand(1);
  app.footer(
      "Models: llama, qwen2 and qwen3, as GGUF files or Hugging Face folders. "
      "examples/llm/fetch_smollm2.sh brings a small one.\nRRS_ISA=avx2 (or scalar, avx512, "
      "avx512vnni) in the environment forces a level.");
  Options options;
  define_perplexity(app.add_subcommand("perplexity", "compare methods on a text"), &options);
  define_generate(app.add_subcommand("generate", "continue a prompt"), &options);
  define_quantize(app.add_subcommand("quantize", "prepare the weights once, into a file"),
                  &options);
  define_inspect(app.add_subcommand("inspect", "tensors, scheme fit, outliers"), &options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "rrs-llm: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace rrs_llm
