// rrs-llm generate: continue a prompt.
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "options.hpp"
#include "progress.hpp"

namespace rrs_llm {
namespace {

void run_generate(const Options& o) {
  Session session(o.session);
  Contestant c = o.weights.empty() ? session.prepare(make_method(only_method(o), all_settings(o)))
                                   : session.open(o.weights);
  EncodeOptions encode;
  encode.parse_special = true;
  // A prefix has the BOS already.
  encode.prepend_bos = session.model().config().add_bos && c.engine->prefix() == nullptr;
  const Tokenizer& tokenizer = session.model().tokenizer();
  const std::vector<TokenId> prompt = tokenizer.encode(o.prompt, encode);
  // The line of the prefill is erased before any text: both may share a terminal's row.
  std::optional<Progress> progress(std::in_place, "prefill", "tokens x layers");
  double done = 0.0;
  const double all = static_cast<double>(prompt.size() * session.model().config().layers);
  c.engine->watch([&](std::int64_t rows) {
    if (progress) progress->update(done += static_cast<double>(rows), all);
  });
  const auto show_prompt = [&] {
    if (!progress) return;
    progress.reset();
    c.engine->watch(nullptr);
    print(o.prompt);
  };
  const GenerateResult r = generate(c.engine.get(), prompt, o.generate, [&](TokenId token) {
    show_prompt();
    if (!tokenizer.is_special(token)) print(std::string(tokenizer.token_bytes(token)));
  });
  show_prompt();
  print("\n");
  std::fprintf(stderr,
               "%s: prefill %zu tokens, %.1f tokens/s (%.0f %% outside the linears); decode %zu "
               "tokens, %.1f tokens/s (%.0f %%); KV cache %.2f MB at %s bits; %s\n%s\n",
               c.method.c_str(), prompt.size(),
               static_cast<double>(prompt.size()) / r.prefill_seconds, 100.0 * r.prefill_outside,
               r.decoded, r.decoded == 0 ? 0.0 : static_cast<double>(r.decoded) / r.decode_seconds,
               100.0 * r.decode_outside, static_cast<double>(r.kv_bytes) / 1e6,
               kv_bits_text(c.kv_bits, c.kv_value_bits).c_str(), r.ended ? "end token" : "length",
               c.scheme.c_str());
}

}  // namespace

void define_generate(CLI::App* app, Options* o) {
  add_session_options(app, o);
  app->add_option("--prompt", o->prompt, "text to continue; special tokens are recognized")
      ->required();
  add_method_options(app, o, false);
  add_recipe_option(app, o);
  exclude_method_options(app, app->add_option("--weights", o->weights,
                                              "a file that quantize wrote: it has its method"));
  app->add_option("-n,--n", o->generate.tokens, "tokens at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  const auto* temperature =
      app->add_option("--temperature", o->generate.temperature,
                      "0: greedy, as without it; with --seed or --top-p alone it is 1");
  const auto* top_p =
      app->add_option("--top-p", o->generate.top_p, "sample from this share of the probability")
          ->capture_default_str();
  const auto* seed =
      app->add_option("--seed", o->generate.seed, "of the sampler")->capture_default_str();
  add_kv_option(app, o);
  app->footer(
      "Example: rrs-llm generate --model M.gguf --method rrs_w4a8 --prompt "
      "$'<|im_start|>user\\nWhy is the sky blue?<|im_end|>\\n<|im_start|>assistant\\n'");
  app->callback([=] {
    const bool sampled = top_p->count() + seed->count() > 0;
    if (sampled && temperature->count() == 0) o->generate.temperature = 1.0;
    if (sampled && o->generate.temperature == 0.0) {
      throw std::runtime_error("--temperature 0 is greedy: --seed and --top-p have no effect");
    }
    run_generate(*o);
  });
}

}  // namespace rrs_llm
