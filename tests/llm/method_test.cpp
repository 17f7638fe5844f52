// Names, settings and overrides of methods, and what they mean for one linear.

#include <optional>

#include "../../examples/llm/engine.hpp"
#include "../../examples/llm/method.hpp"
#include "engine_support.hpp"
#include "rrs/core/presets.hpp"
#include "run_llm.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

TEST(Method, EveryNameWithUnderscoresAndDashes) {
  const std::vector<std::string> names = method_names();
  EXPECT_EQ(names.size(), rrs::presets::kCount + 2);
  for (std::string name : names) {
    const Method a = make_method(name, {});
    for (char& c : name) c = c == '_' ? '-' : c;
    const Method b = make_method(name, {});
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(describe(a), describe(b));
    EXPECT_FALSE(describe(a).empty());
    EXPECT_EQ(describe(a.kv(16)), "KV cache 16 bits");
    for (const int bits : {16, 8, 4}) EXPECT_GE(a.kv(bits).bits, bits == 16 ? 16 : 4) << name;
  }
  expect_in(refusal([] { make_method("rrz", {}); }), {"'rrz'", "rrs_w4a8", "q4_0-native", "fp"});
  expect_in(refusal([] { make_method("fp@a8", {}); }), {"fp", "no settings"});
}

TEST(Method, ASimulationRefusesWhatItDoesNotCompute) {
  for (const char* text :
       {"rs@rotation=full", "rs-zigzag@rotation=block:32", "rs@activation-bits=8", "rs@clip=0.5",
        "rs@range=full", "rs@activation-group=32"}) {
    const Method method = make_method(text, {});
    expect_in(refusal([&] { method.plan(0, kO); }), {"rs", "blk.0.attn_output", "simulated"});
  }
  EXPECT_NO_THROW(make_method("rs-gptq@weight-bits=8", {}).plan(0, kO));
  EXPECT_NO_THROW(make_method("rs", parse_override("attn_q=a8")).plan(0, kQ));
}

TEST(Method, GlobsOfManyStarsAreQuick) {
  const std::string name = "blk.12.attn_output";
  const std::string stars(200, '*');
  EXPECT_TRUE(matches("*", name) && matches(stars, name) && matches("blk.1?.*_out*t", name));
  EXPECT_TRUE(matches("*t", name) && matches("b*t*t*t*t", name) && matches("?*" + stars, name));
  EXPECT_FALSE(matches("*T", name) || matches("blk.?.attn_*", name) || matches("*?x", name));
  EXPECT_FALSE(matches(name + "?", name) || matches("b*t*t*t*t*t", name));
  std::string many;
  for (int i = 0; i < 60; ++i) many += "*?";
  EXPECT_FALSE(matches(many, name));
  EXPECT_FALSE(matches("blk" + stars + "saved" + stars + "_", name));
}

TEST(Method, AnOverrideThatNamesNoLinearIsRefused) {
  for (const char* text : {"fnn_down=a8", "blk.2.ffn_down=a8", "blk.?.ffn=fp"}) {
    expect_in(refusal([&] { check_patterns(make_method("rrs", parse_override(text)), 2); }),
              {"override", "names no linear", "blk.1.ffn_down"});
  }
  for (const char* text : {"ffn_down=a8", "blk.1=fp", "blk.?.attn_*=a8"}) {
    EXPECT_NO_THROW(check_patterns(make_method("rrs", parse_override(text)), 2)) << text;
  }
}

TEST(Method, SuffixesReachTheirFields) {
  struct Case {
    const char* text;
    const char* name;
    const char* preset;
    Solver solver;
  };
  const Case cases[] = {
      {"rrs-gptq", "rrs-gptq", "rrs", Solver::kGptq},
      {"rrs_gptq", "rrs-gptq", "rrs", Solver::kGptq},
      {"quarot-gptq", "quarot-gptq", "quarot", Solver::kGptq},
      {"rs-gptq", "rs-gptq", "rs", Solver::kGptq},
      {"rrs-published-gptq", "rrs_published-gptq", "rrs_published", Solver::kGptq},
      {"rrs-gptaq", "rrs-gptaq", "rrs", Solver::kGptaq},
      {"rrs_w4a8-gptq", "rrs_w4a8-gptq", "rrs_w4a8", Solver::kGptq},
      {"gptq-w4a16", "gptq_w4a16", "rrs_w4a16", Solver::kGptq},
      {"aser-w4a8", "aser_w4a8", "rtn", Solver::kRtn},
      {"rrs", "rrs", "rrs", Solver::kRtn}};
  for (const Case& c : cases) {
    const Method m = parse_method(c.text, {});
    EXPECT_EQ(m.name, c.name);
    EXPECT_EQ(m.preset, c.preset) << c.text;
    EXPECT_EQ(m.weight.solver, c.solver) << c.text;
    EXPECT_EQ(parse_method(m.text, {}).name, m.name);  // what a file's metadata holds
  }
  const Method all =
      parse_method("rrs-gptq-zigzag-actorder+aser+qfem+qfep@rank=16@damping=0.1", {});
  EXPECT_EQ(all.text, "rrs-gptq-zigzag-actorder+aser+qfem+qfep");
  EXPECT_EQ(all.name, all.text + "@rank=16@damping=0.1");
  EXPECT_TRUE(all.weight.zigzag && all.weight.act_order && all.qfem && all.qfep);
  expect_in(describe(all), {"gptq, act-order, damping 0.1", "zigzag", "rank 16", "QFeM", "QFeP"});
  EXPECT_TRUE(parse_method("aser-w4a6+qfep", {}).qfep);
  EXPECT_EQ(parse_method("aser-w4a6", {}).scheme.activation.bits, 6);
  EXPECT_EQ(parse_method("aser-w4a6", {}).weight.aser.rank, 64);
  EXPECT_EQ(parse_method("aser-w4a6", {}).weight.aser.smoothed(), 32);
  EXPECT_EQ(make_method("aser-w4a6@rank=8", {}).plan(0, 0).weight.aser.smoothed(), 4);
  const Method narrow = make_method("aser-w4a8@rank=16@rank-bits=8", {});
  EXPECT_EQ(narrow.plan(0, 0).weight.aser.bits, 8);
  EXPECT_EQ(narrow.plan(0, 0).weight.aser.smoothed(), 8);
  expect_in(describe(narrow), {"rank 16 in 8 bits, 8 outliers smoothed"});
  EXPECT_EQ(make_method("aser-w4a8@rank-bits=16", {}).plan(0, 0).weight.aser.bits, 16);
  EXPECT_FALSE(make_method("rrs@rank-bits=8", {}).needs_hessians());  // no rank: no branch
  EXPECT_TRUE(make_method("rrs@rank-bits=8@rank=4", {}).needs_hessians());
  EXPECT_TRUE(parse_method("rrs-plan", {}).recipe);
  for (const char* text : {"fp-gptq", "fp+aser", "q4_0-native-gptq", "rrs+", "rrs-gptq+nonsense",
                           "gptq", "+aser", "rrs@rank=-1", "rrs@damping=0", "rrs@solver=best",
                           "rrs@rank-bits=4", "rrs@rank-bits=", "q4_0-native@rank-bits=8"}) {
    EXPECT_FALSE(accepts([&] { parse_method(text, {}); })) << text;
  }
  expect_in(refusal([] { make_method("rrs+zigzag", {}); }), {"'rrs+zigzag'", "-gptq", "+qfep"});
  expect_in(refusal([] { make_method("rrs-gptaq-zigzag-gptq", {}); }),
            {"'rrs-gptaq-zigzag-gptq'", "-gptaq and -gptq do not go together"});
  expect_in(refusal([] { make_method("fp+qfep+qfep", {}); }), {"+qfep and +qfep"});
}

TEST(Method, HelpAndErrorsNameEveryMethod) {
  std::vector<std::string> names = method_names();
  for (const char* name : {"gptq_w4a16", "aser_w4a8", "aser_w4a6", "smoothquant_w8a8_tensor"}) {
    EXPECT_TRUE(accepts([&] { make_method(name, {}); })) << name;
    names.emplace_back(name);
  }
  for (const char* name :
       {"rrs-plan", "-gptq", "-gptaq", "-actorder", "-zigzag", "+aser", "+qfem", "+qfep"}) {
    names.emplace_back(name);
  }
  const std::string help = name_help();
  for (const std::string& name : names) {
    expect_in(help, {name});
    expect_in(refusal([] { make_method("rrz", {}); }), {name});
  }
  Said said;
  EXPECT_EQ(run({"perplexity", "--help"}, &said), 0);
  expect_in(said.out, {"smoothquant_w8a8_tensor", "rrs-plan", "aser_w4a6", "gptq_w4a16"});
}

TEST(Method, OrderOfColumnsNeedsASolver) {
  for (const char* text : {"rrs-actorder", "rrs_actorder", "rrs-actorder-zigzag",
                           "aser-w4a8-actorder", "rrs-actorder@solver=rtn"}) {
    expect_in(refusal([&] { make_method(text, {}); }), {"-actorder", "add -gptq or -gptaq"});
  }
  for (const char* text : {"rrs-gptq-actorder", "rrs-actorder-gptaq", "gptq-w4a16-actorder",
                           "rrs-actorder@solver=gptq"}) {
    EXPECT_TRUE(accepts([&] { make_method(text, {}); })) << text;
  }
  EXPECT_TRUE(accepts([] { make_method("rrs-actorder", parse_override("ffn_down=solver=gptq")); }));
  for (const char* key : {"act-order=1", "damping=0.1"}) {
    expect_in(refusal([&] { make_method(std::string("q4_0-native@") + key, {}); }),
              {"as the file holds them"});
  }
}

// Settings that no linear takes up are refused by every command, not ignored.
TEST(Method, SettingsThatNothingTakesUpAreRefused) {
  const TempFolder folder;
  const std::string model = write_tiny_gguf(tiny_model(Architecture::kLlama, true), folder);
  const std::string text = folder.write("t.txt", "the hello ab the a b hello ");
  const std::string out = folder.file("out");
  const auto error = [&](std::vector<const char*> arguments, const std::vector<const char*>& more) {
    arguments.insert(arguments.end(), {"--model", model.c_str(), "--threads", "1"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    Said said;
    EXPECT_EQ(run(arguments, &said), 1);
    return said.err;
  };
  const std::vector<std::vector<const char*>> commands{
      {"quantize", "--out", out.c_str()},
      {"generate", "--prompt", "the"},
      {"plan", "--budget", "5", "--out", out.c_str()},
      {"perplexity", "--text", text.c_str()}};
  const std::string solver = "needs -gptq or -gptaq", branch = "needs +aser or rank",
                    either = "needs -gptq, -gptaq or +aser";
  for (const std::vector<const char*>& c : commands) {
    expect_in(error(c, {"--method", "rrs@act-order=1"}), {"'act-order'", "method rrs", solver});
    expect_in(error(c, {"--method", "rrs@damping=0.1"}), {"'damping'", "method rrs", either});
    expect_in(error(c, {"--method", "rrs-gptq@rank-bits=8"}), {"'rank-bits'", "rrs-gptq", branch});
    expect_in(error(c, {"--method", "rrs-gptq@outliers=4"}), {"'outliers'", "rrs-gptq", branch});
    expect_in(error(c, {"--method", "rrs+aser@act-order=1"}), {"'act-order'", "+aser", solver});
    expect_in(error(c, {"--method", "rrs", "--damping", "0.1"}),
              {"'damping'", "no method", either});
    expect_in(error(c, {"--method", "rrs", "--act-order", "1"}), {"'act-order'", solver});
    expect_in(error(c, {"--method", "rrs", "--rank-bits", "8"}), {"'rank-bits'", branch});
    expect_in(error(c, {"--method", "rrs", "--override", "ffn_down=outliers=4"}),
              {"'outliers'", branch});
  }
  // One of several takes it; or a part of one; the text is too short for anything else.
  for (const std::vector<const char*>& taken :
       {std::vector<const char*>{"rrs,rrs-gptq", "--damping", "0.1"},
        {"rrs", "--override", "ffn_down=solver=gptq", "--damping", "0.1"},
        {"rrs", "--override", "ffn_down=rank=8", "--rank-bits", "8", "--damping", "0.1"},
        {"rrs+aser@damping=0.1@rank-bits=8@outliers=4"}}) {
    std::vector<const char*> more{"--method"};
    more.insert(more.end(), taken.begin(), taken.end());
    expect_in(error({"perplexity", "--text", text.c_str(), "--context", "128"}, more), {"window"});
  }
  // A plan's exceptions have branches.
  expect_in(error({"plan", "--budget", "5", "--out", out.c_str(), "--calibration", text.c_str(),
                   "--ranks", "8", "--rank-bits", "8"},
                  {"--method", "rrs@damping=0.1"}),
            {"held out", "128"});
}

TEST(Method, EverySettingReachesItsField) {
  const std::vector<Setting> settings{
      {"", "activation-bits", "6"},   {"", "activation-group", "64"}, {"", "window", "rows:7"},
      {"", "rotation", "block:128"},  {"", "range", "symmetric"},     {"", "clip", "0.5"},
      {"", "weight-bits", "8"},       {"", "weight-group", "row"},    {"", "weight-range", "full"},
      {"", "weight-scale", "absmax"}, {"", "sign-seed", "42"}};
  const LinearPlan p = make_method("rrs", settings).plan(3, kUp);
  EXPECT_EQ(p.kind, LinearKind::kRrs);
  EXPECT_EQ(p.scheme.activation.bits, 6);
  EXPECT_EQ(p.scheme.activation.group, 64);
  EXPECT_EQ(p.scheme.activation.window.kind, rrs::WindowKind::kRows);
  EXPECT_EQ(p.scheme.activation.window.rows, 7);
  EXPECT_EQ(p.scheme.rotation.block, 128);
  EXPECT_EQ(p.scheme.activation.range, rrs::Range::kSymmetric);
  EXPECT_EQ(p.scheme.activation.clip, 0.5f);
  EXPECT_EQ(p.scheme.weight.bits, 8);
  EXPECT_EQ(p.scheme.weight.group, rrs::kRowGroup);
  EXPECT_EQ(p.scheme.weight.range, rrs::Range::kFull);
  EXPECT_EQ(p.scheme.weight.scale, rrs::WeightScale::kAbsmax);
  EXPECT_TRUE(p.scheme.rotation.random_signs);
  EXPECT_EQ(p.scheme.rotation.sign_seed, 42u);
}

TEST(Method, BadSettingsAreRefusedByName) {
  const std::pair<const char*, const char*> bad[] = {
      {"activation-bits", "9"},  {"activation-bits", ""},
      {"activation-bits", "4x"}, {"activation-group", "48"},
      {"window", "rows:0"},      {"window", "two"},
      {"rotation", "block"},     {"rotation", "block:512"},
      {"range", "half"},         {"clip", "0"},
      {"clip", "1.1"},           {"clip", "nan"},
      {"weight-bits", "5"},      {"weight-scale", "best"},
      {"sign-seed", "-1"},       {"nonsense", "1"}};
  for (const auto& [key, value] : bad) {
    rrs::Scheme scheme;
    expect_in(refusal([&, k = key, v = value] { apply_setting({"", k, v}, &scheme); }), {key});
  }
  for (const char* text : {"", "ffn_down", "ffn_down=", "=a8", "ffn_down=b8", "ffn_down=a9",
                           "ffn_down=a8,", "ffn_down=fp=1"}) {
    EXPECT_FALSE(accepts([&] { parse_override(text); })) << text;
  }
  // Values that are valid alone and not together.
  const Method m = make_method("rrs_published", {{"", "weight-group", "32"}});
  expect_in(refusal([&] { m.plan(0, kO); }), {"rrs_published", "attn_output", "weight.group"});
  expect_in(refusal([] {
              make_method("q4_0-native", {{"", "rotation", "full"}});
            }),
            {"rotation", "as the file holds them"});
}

TEST(Method, PatternsNameLinears) {
  EXPECT_TRUE(matches("", "blk.3.ffn_down"));
  EXPECT_TRUE(matches("ffn_down", "blk.3.ffn_down"));
  EXPECT_TRUE(matches("blk.3", "blk.3.ffn_down"));
  EXPECT_FALSE(matches("blk.3", "blk.30.ffn_down"));
  EXPECT_FALSE(matches("down", "blk.3.ffn_down"));
  EXPECT_TRUE(matches("blk.2?.ffn_*", "blk.21.ffn_up"));
  EXPECT_FALSE(matches("blk.2?.ffn_*", "blk.2.ffn_up"));
  EXPECT_FALSE(matches("*up", "blk.1.ffn_down"));
}

TEST(Method, OverridesApplyInOrderToTheirLinears) {
  std::vector<Setting> settings{{"", "activation-bits", "5"}};
  for (const char* text : {"ffn_down=a8,clip=0.9", "blk.0=fp", "blk.1.attn_q=w8"}) {
    for (const Setting& s : parse_override(text)) settings.push_back(s);
  }
  const Method m = make_method("rrs@sign-seed=3", settings);
  EXPECT_EQ(m.name, "rrs@sign-seed=3");
  EXPECT_EQ(m.plan(0, kQ).kind, LinearKind::kFloat);
  EXPECT_EQ(m.plan(1, kQ).scheme.weight.bits, 8);
  EXPECT_EQ(m.plan(1, kQ).scheme.activation.bits, 5);
  EXPECT_EQ(m.plan(1, kDown).scheme.activation.bits, 8);
  EXPECT_EQ(m.plan(1, kDown).scheme.activation.clip, 0.9f);
  EXPECT_EQ(m.plan(1, kUp).scheme.rotation.sign_seed, 3u);
  expect_in(describe(m), {"activations 5 bits", "ffn_down: activation-bits=8", "blk.0: fp"});
}

TEST(Method, PublishedRuntimeSmoothingLeavesQkvPerToken) {
  for (const char* name : {"rs", "rrs_published"}) {
    const Method m = make_method(name, {});
    for (std::size_t l = 0; l < kLinearsPerLayer; ++l) {
      const LinearPlan p = m.plan(0, l);
      const bool token = l <= kV;
      EXPECT_EQ(p.scheme.activation.window.kind,
                token ? rrs::WindowKind::kOne : rrs::WindowKind::kWhole);
      EXPECT_EQ(p.scheme.activation.exact_reference, !token && m.name == "rrs_published");
      EXPECT_EQ(p.kind == LinearKind::kSimulatedRs, !token && m.name == "rs");
    }
  }
}

TEST(Method, DescribesItsKvCache) {
  const auto text = [](const char* name, int bits) {
    return describe(make_method(name, {}).kv(bits));
  };
  EXPECT_EQ(text("rrs", 4), "KV cache 4 bits, group 32, asymmetric, clip 1, K and V rotated");
  EXPECT_EQ(text("rtn", 8), "KV cache 8 bits, group head, symmetric, clip 1, not rotated");
  EXPECT_EQ(text("rs", 4), "KV cache 4 bits, group head (V: token), symmetric, clip 1, K rotated");
  EXPECT_EQ(text("quarot", 4), "KV cache 4 bits, group head, asymmetric, clip 0.95, K rotated");
  rrs::KvScheme mixed;
  mixed.bits = 8;
  mixed.v_bits = 4;
  mixed.range = rrs::KvRange::kFull;
  mixed.rotate_k = false;
  EXPECT_EQ(describe(mixed), "KV cache 8 bits, V 4, group 32, full, clip 1, V rotated");
}

TEST(Method, ACacheTakesAGroupAndBitsOfItsValues) {
  const auto text = [](const char* name, int bits, int value_bits, std::optional<int> group) {
    KvChoice choice;
    choice.bits = bits;
    choice.value_bits = value_bits;
    choice.group = group;
    return describe(make_method(name, {}).kv(choice));
  };
  for (const std::string& name : method_names()) {  // what is not asked for is the preset's
    for (const int bits : {16, 8, 4}) {
      EXPECT_EQ(text(name.c_str(), bits, 0, std::nullopt),
                describe(make_method(name, {}).kv(bits)));
    }
  }
  const std::string rrs4 = describe(make_method("rrs", {}).kv(4));
  EXPECT_EQ(text("rrs", 4, 4, 32), rrs4);  // named, but no other cache
  EXPECT_EQ(text("rrs", 4, 0, 16),
            "KV cache 4 bits, group 16, asymmetric, clip 1, K and V rotated");
  EXPECT_EQ(text("fp", 4, 8, std::nullopt),
            "KV cache 4 bits, V 8, group 32, asymmetric, clip 1, K and V rotated");
  EXPECT_EQ(text("rs", 4, 0, 64), "KV cache 4 bits, group 64, symmetric, clip 1, K rotated");
  EXPECT_EQ(text("rrs", 8, 4, rrs::kKvTokenGroup),
            "KV cache 8 bits, V 4, group token, asymmetric, clip 1, K and V rotated");
  // 16 bits are not rotated.
  EXPECT_EQ(text("rrs", 16, 4, rrs::kKvHeadGroup),
            "KV cache 16 bits, V 4, group head, asymmetric, clip 1, V rotated");
  EXPECT_EQ(text("rrs", 4, 16, 32),
            "KV cache 4 bits, V 16, group 32, asymmetric, clip 1, K rotated");
  EXPECT_EQ(text("rrs", 16, 16, std::nullopt), "KV cache 16 bits");
}

TEST(Method, FloorAndExactReferenceAreSettings) {
  const auto scheme = [](const char* text) { return make_method(text, {}).plan(0, kO).scheme; };
  EXPECT_EQ(scheme("rrs_whole@floor=0.25").activation.floor, 0.25f);
  EXPECT_EQ(scheme("rrs_published@floor=0").activation.floor, 0.0f);
  EXPECT_NE(scheme("rrs_published").activation.floor, 0.0f);
  EXPECT_FALSE(scheme("rrs_published@exact-reference=0").activation.exact_reference);
  EXPECT_TRUE(
      scheme("rrs_published@exact-reference=0@exact-reference=1").activation.exact_reference);
  expect_in(refusal([&] { scheme("rrs@floor=2"); }), {"floor", "'2'"});
  expect_in(refusal([&] { scheme("rrs@exact-reference=2"); }), {"exact-reference", "0 or 1"});
  expect_in(refusal([&] { scheme("rrs@exact-reference=1"); }), {"exact_reference", "window whole"});
}

}  // namespace
