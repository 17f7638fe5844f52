// Tokenizer: merges, pre-tokenizers, special tokens, round trips of any bytes, refusals; the same
// vocabulary from GGUF metadata and from a tokenizer.json gives the same ids.

#include "../../examples/llm/tokenizer.hpp"

#include <cstdint>
#include <string>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "tiny_model.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

using Strings = std::vector<std::string>;

const TempFolder& folder() {
  static const TempFolder kFolder;
  return kFolder;
}

Tokenizer from_gguf(const GgufBuilder& builder) {
  return tokenizer_from_gguf(Gguf(folder().write("tokenizer.gguf", builder.bytes())));
}

Tokenizer tiny(const std::string& pre = "smollm") {
  GgufBuilder b;
  put_vocabulary(tiny_vocabulary(), pre, &b);
  return from_gguf(b);
}

Tokenizer from_json(const std::string& text, const std::string& config = "") {
  return tokenizer_from_json(text, "tokenizer.json", config, "tokenizer_config.json");
}

Strings pieces(const Tokenizer& t, const std::string& text, bool special = false) {
  Strings result;
  EncodeOptions options;
  options.parse_special = special;
  for (const TokenId id : t.encode(text, options)) result.emplace_back(t.token_bytes(id));
  return result;
}

Strings split(const std::string& pre, const std::string& text) {
  Strings result;
  const PreTokenizer p = named_pre_tokenizer(pre, "test");
  for (const auto piece : p.split(text)) result.emplace_back(piece);
  return result;
}

TEST(ByteLevel, HasTheKnownCharacters) {
  const auto& characters = byte_characters();
  EXPECT_EQ(characters['A'], "A");
  EXPECT_EQ(characters[0x00], "\xc4\x80");  // U+0100
  EXPECT_EQ(characters['\n'], "\xc4\x8a");  // U+010A
  EXPECT_EQ(characters[' '], "\xc4\xa0");   // U+0120
  EXPECT_EQ(characters[0xad], "\xc5\x83");  // U+0143
  EXPECT_EQ(characters[0xff], "\xc3\xbf");
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(spelled_bytes(spell(all)), all);
  EXPECT_EQ(spelled_bytes("a b"), "a b");  // space is not in the alphabet
  EXPECT_EQ(spelled_bytes("\xe6\x97\xa5"), "\xe6\x97\xa5");
  EXPECT_EQ(spelled_bytes("\xc4"), "\xc4");
}

// PCRE2's own check decides what it calls valid; ours must not accept more, nor less.
TEST(Utf8, AgreesWithPcre2OnShortStrings) {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>("x"), 1, PCRE2_UTF, &error, &at, nullptr);
  ASSERT_NE(code, nullptr);
  pcre2_match_data* match = pcre2_match_data_create_from_pattern(code, nullptr);
  const auto check = [&](const std::string& text) {
    const int result = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                                   0, match, nullptr);
    const bool valid = result == PCRE2_ERROR_NOMATCH || result >= 0;
    const std::size_t prefix = valid_utf8_prefix(text);
    ASSERT_EQ(prefix == text.size(), valid) << ::testing::PrintToString(text);
    if (valid) return;
    ASSERT_EQ(prefix, pcre2_get_startchar(match)) << ::testing::PrintToString(text);
  };
  std::size_t checked = 0;
  const auto byte = [](unsigned b) { return static_cast<char>(b); };
  for (unsigned a = 0; a < 256; ++a) {
    for (unsigned b = 0; b < 256; ++b) {
      check({byte(a), byte(b)});
      for (const unsigned c : {0x41u, 0x7fu, 0x80u, 0xbfu, 0xc0u}) {
        check({byte(a), byte(b), byte(c)});
        for (const unsigned d : {0x41u, 0x80u, 0xbfu, 0xc0u, 0xffu}) {
          check({byte(a), byte(b), byte(c), byte(d)});
          ++checked;
        }
      }
    }
  }
  EXPECT_EQ(checked, 256u * 256 * 25);
  pcre2_match_data_free(match);
  pcre2_code_free(code);
}

TEST(PreTokenizer, Smollm) {
  EXPECT_EQ(split("smollm", "It's 42."), (Strings{"It", "'s", " ", "4", "2", "."}));
  EXPECT_EQ(split("smollm", "a   b"), (Strings{"a", "  ", " b"}));
  EXPECT_EQ(split("smollm", "a\n\n b \n"), (Strings{"a", "\n\n", " b", " \n"}));
  EXPECT_EQ(split("smollm", "x\n\ny"), (Strings{"x", "\n", "\n", "y"}));
  EXPECT_EQ(split("smollm", "\xd9\xa1\xc2\xbd"), (Strings{"\xd9\xa1", "\xc2\xbd"}));  // digit, 1/2
  EXPECT_EQ(split("smollm", "na\xc3\xafve \xe6\x97\xa5!?"),
            (Strings{"na\xc3\xafve", " \xe6\x97\xa5", "!?"}));
  EXPECT_EQ(split("smollm",
                  "a\xc2\xa0\xc2\xa0"
                  "b"),
            (Strings{"a", "\xc2\xa0", "\xc2\xa0", "b"}));
  EXPECT_EQ(split("smollm", ""), Strings{});
}

TEST(PreTokenizer, OthersDifferWhereTheyShould) {
  const std::string text = "I'LL 12345!\r\n  x";
  EXPECT_EQ(split("gpt-2", text), (Strings{"I", "'", "LL", " 12345", "!", "\r\n ", " x"}));
  EXPECT_EQ(split("llama-bpe", text), (Strings{"I", "'LL", " ", "123", "45", "!\r\n", " ", " x"}));
  EXPECT_EQ(split("qwen2", text),
            (Strings{"I", "'LL", " ", "1", "2", "3", "4", "5", "!\r\n", " ", " x"}));
  EXPECT_EQ(split("default", text),
            (Strings{"I", "'", "LL", " ", "123", "45", "!", "\r\n ", " x"}));
  expect_in(refusal([] { named_pre_tokenizer("falcon", "file"); }), {"file", "falcon"});
  PreTokenizer p;
  expect_in(refusal([&] { p.add_stage("(", "file.json: field 'x'"); }), {"file.json", "pattern"});
  expect_in(refusal([&] { p.add_stage("\\C", "file"); }), {"pattern"});
}

TEST(PreTokenizer, SetsInvalidBytesAside) {
  EXPECT_EQ(split("smollm",
                  "ab\xff\xfe"
                  "cd \xe6\x97"),
            (Strings{"ab", "\xff\xfe", "cd", " ", "\xe6\x97"}));
}

TEST(Tokenizer, MergesByRankThenPosition) {
  const Tokenizer t = tiny();
  EXPECT_EQ(pieces(t, "hello the"), (Strings{"hello", " the"}));
  EXPECT_EQ(pieces(t, "abc"), (Strings{"ab", "c"}));
  EXPECT_EQ(pieces(t, "xbcab"), (Strings{"x", "bc", "ab"}));
  EXPECT_EQ(pieces(t, "llll"), (Strings{"ll", "ll"}));
  EXPECT_EQ(pieces(t, "lll"), (Strings{"ll", "l"}));
  EXPECT_EQ(pieces(t, "123"), (Strings{"1", "2", "3"}));  // split before the merge applies
  EXPECT_EQ(pieces(tiny("gpt-2"), "123"), (Strings{"123"}));
  EXPECT_EQ(pieces(t, "     "), (Strings{"  ", "  ", " "}));
  EXPECT_TRUE(t.encode("").empty());
  EXPECT_EQ(t.decode({}), "");
}

TEST(Tokenizer, SpecialTokensOnlyWhenAsked) {
  const Tokenizer t = tiny();
  const std::string text = "a<s>b<end><end";
  EXPECT_EQ(pieces(t, text, true), (Strings{"a", "<s>", "b", "<end>", "<", "e", "n", "d"}));
  for (const std::string& piece : pieces(t, text)) EXPECT_NE(piece, "<s>");
  EXPECT_EQ(t.decode(t.encode(text)), text);
  EXPECT_EQ(pieces(t, "x<tool>y"), (Strings{"x", "<tool>", "y"}));  // user-defined: always
  const TokenId bos = static_cast<TokenId>(tiny_vocabulary().bos);
  EncodeOptions options;
  options.prepend_bos = true;
  EXPECT_EQ(t.encode("a", options), (std::vector<TokenId>{bos, 'a'}));
  EXPECT_EQ(t.bos(), bos);
  EXPECT_EQ(t.ends(), std::vector<TokenId>{bos + 1});
  EXPECT_TRUE(t.is_special(bos));
  EXPECT_FALSE(t.is_special('a'));
  EXPECT_FALSE(t.add_bos());
  EXPECT_TRUE(tiny("llama-bpe").add_bos());  // that name implies it
}

TEST(Tokenizer, RoundTripsAnyBytes) {
  for (const char* pre : {"smollm", "gpt-2", "llama-bpe", "qwen2", "default"}) {
    const Tokenizer t = tiny(pre);
    Random random(3);
    for (int trial = 0; trial < 300; ++trial) {
      std::string text;
      const std::uint32_t length = random.below(60);
      for (std::uint32_t i = 0; i < length; ++i) {
        // Mostly text, with spaces, digits, pieces of UTF-8 and stray bytes.
        const std::string stray(1, static_cast<char>(random.below(256)));
        const std::string parts[] = {
            " ", "\n", "he", "7", "\xe6\x97\xa5", "\xf0\x9f\x98\x80", "\xcc\x81", stray};
        text += parts[random.below(8)];
      }
      ASSERT_EQ(t.decode(t.encode(text)), text) << pre << " " << ::testing::PrintToString(text);
    }
  }
}

TEST(Tokenizer, LongRunsStayFast) {
  const Tokenizer t = tiny();
  for (const char* unit : {"l", " ", "\n", "\xff", "\xe6\x97\xa5", "'", "7"}) {
    std::string text;
    while (text.size() < 200000) text += unit;
    EXPECT_EQ(t.decode(t.encode(text)), text);
  }
}

TEST(Tokenizer, MissingBytesAreRefusedOrReplaced) {
  TinyVocabulary v = tiny_vocabulary();
  v.tokens[0xff] = "unused-spelling";
  GgufBuilder b;
  put_vocabulary(v, "smollm", &b);
  const std::string text = "ab\xff";
  EncodeOptions replace;
  replace.missing_byte = MissingByte::kUnknownToken;
  const Tokenizer none = from_gguf(b);
  EXPECT_FALSE(none.has_byte(0xff));
  expect_in(refusal([&] { none.encode(text); }), {"tokenizer.gguf", "255", "offset 2"});
  expect_in(refusal([&] { none.encode(text, replace); }), {"unknown token"});
  b.u32("tokenizer.ggml.unknown_token_id", 7);
  EXPECT_EQ(from_gguf(b).encode(text, replace).back(), 7);
}

TEST(Tokenizer, RefusesBadIds) {
  const Tokenizer t = tiny();
  expect_in(refusal([&] { t.decode({-1}); }), {"-1"});
  expect_in(refusal([&] { t.decode({static_cast<TokenId>(t.size())}); }), {"not in [0"});
}

TEST(TokenizerGguf, RefusesBadMetadata) {
  const auto with = [](auto&& change) {
    TinyVocabulary v = tiny_vocabulary();
    GgufBuilder b;
    change(&v);
    put_vocabulary(v, "smollm", &b);
    return refusal([&] { from_gguf(b); });
  };
  expect_in(with([](TinyVocabulary* v) { v->types.pop_back(); }), {"token types"});
  expect_in(with([](TinyVocabulary* v) { v->types[5] = 9; }), {"token_type", "9", "5"});
  expect_in(with([](TinyVocabulary* v) { v->merges[3].first = "zz"; }), {"merge 3", "'zz'"});
  expect_in(with([](TinyVocabulary* v) { v->merges[3] = {"x", ""}; }), {"merges", "entry 3"});
  expect_in(with([](TinyVocabulary* v) { v->bos = 100000; }), {"bos_token_id", "100000"});
  GgufBuilder wrong;
  wrong.string("tokenizer.ggml.model", "llama");
  expect_in(refusal([&] { from_gguf(wrong); }), {"tokenizer.ggml.model", "'llama'", "gpt2"});
  GgufBuilder pre;
  put_vocabulary(tiny_vocabulary(), "falcon", &pre);
  expect_in(refusal([&] { from_gguf(pre); }), {"tokenizer.ggml.pre", "falcon"});
}

const char* const kSplitJson =
    R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":)"
    R"("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+)"
    R"([\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},)"
    R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})";

TEST(TokenizerJson, GivesTheIdsOfTheGguf) {
  const TinyVocabulary v = tiny_vocabulary();
  const std::string text = "hello the 123's  \n\n abc<tool> I'LL <s>\xff\xe6\x97\xa5";
  EncodeOptions special;
  special.parse_special = true;
  for (const bool pairs : {false, true}) {
    const Tokenizer smollm = from_json(tiny_tokenizer_json(v, kSmollmPreJson, pairs));
    const Tokenizer qwen = from_json(tiny_tokenizer_json(v, kSplitJson, pairs));
    EXPECT_EQ(smollm.encode(text), tiny("smollm").encode(text));
    EXPECT_EQ(smollm.encode(text, special), tiny("smollm").encode(text, special));
    EXPECT_EQ(qwen.encode(text), tiny("qwen2").encode(text));
    EXPECT_EQ(pieces(qwen, "(he"), Strings{"(he"});  // its words may begin with one other sign
    EXPECT_EQ(pieces(smollm, "(he"), (Strings{"(", "he"}));
  }
}

TEST(TokenizerJson, ReadsBosAndEndTokens) {
  const TinyVocabulary v = tiny_vocabulary();
  const TokenId bos = static_cast<TokenId>(v.bos);
  EXPECT_FALSE(from_json(tiny_tokenizer_json(v, kSmollmPreJson)).bos().has_value());
  const std::string post =
      R"(,"post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel"},)"
      R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},)"
      R"({"Sequence":{"id":"A","type_id":0}}]}]})";
  const Tokenizer t = from_json(tiny_tokenizer_json(v, kSmollmPreJson, false, post));
  EXPECT_TRUE(t.add_bos());
  EXPECT_EQ(t.bos(), bos);
  const Tokenizer configured =
      from_json(tiny_tokenizer_json(v, kSmollmPreJson, false, post),
                R"({"add_bos_token":false,"bos_token":{"content":"<s>"},"eos_token":"<end>"})");
  EXPECT_FALSE(configured.add_bos());
  EXPECT_EQ(configured.ends(), std::vector<TokenId>{bos + 1});
}

TEST(TokenizerJson, IgnoreMergesTakesWholePieces) {
  std::string json = tiny_tokenizer_json(tiny_vocabulary(), kSmollmPreJson);
  json.insert(json.find("\"vocab\":"), "\"ignore_merges\":true,");
  json.insert(json.find("\"vocab\":{") + 9, "\"zzz\":272,");
  EXPECT_EQ(pieces(from_json(json), "zzz zzz"), (Strings{"zzz", " ", "z", "z", "z"}));
}

TEST(TokenizerJson, RefusesWhatItDoesNotDo) {
  const TinyVocabulary v = tiny_vocabulary();
  const auto pre = [&](const std::string& json) {
    return refusal([&] { from_json(tiny_tokenizer_json(v, json)); });
  };
  const auto with = [&](const std::string& extra) {
    return refusal([&] { from_json(tiny_tokenizer_json(v, kSmollmPreJson, false, extra)); });
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string json = tiny_tokenizer_json(v, kSmollmPreJson);
    json.replace(json.find(from), from.size(), to);
    return refusal([&] { from_json(json); });
  };
  expect_in(pre("null"), {"pre_tokenizer", "missing"});
  expect_in(pre(R"({"type":"Metaspace"})"), {"tokenizer.json", "'Metaspace'", "not supported"});
  expect_in(pre(R"({"type":"Digits"})"), {"ByteLevel"});
  expect_in(pre(R"({"type":"ByteLevel"})"), {"add_prefix_space"});
  expect_in(pre(R"({"type":"Split","behavior":"MergedWithNext"})"), {"MergedWithNext"});
  expect_in(pre(R"({"type":"Split","behavior":"Isolated","pattern":{"Regex":"("}})"), {"pattern"});
  expect_in(with(R"(,"post_processor":{"type":"TemplateProcessing","single":)"
                 R"([{"SpecialToken":{"id":"<no>"}}]})"),
            {"post_processor"});
  expect_in(replaced("\"normalizer\":null", R"("normalizer":{"type":"Lowercase"})"), {"Lowercase"});
  expect_in(replaced("\"BPE\"", "\"Unigram\""), {"model.type", "Unigram"});
  expect_in(replaced("\"type\":\"BPE\"", "\"byte_fallback\":true"), {"byte_fallback"});
  expect_in(replaced("\"merges\":[", "\"merges\":[7,"), {"merges", "7"});
  expect_in(replaced("\"merges\":[", "\"merges\":[\"q\","), {"merges", "'q'"});
  expect_in(replaced("\"vocab\":{", "\"vocab\":{\"q q\":-1,"), {"vocab", "-1"});
  expect_in(replaced("\"vocab\":{", "\"vocab\":{\"q q\":5,"), {"id 5"});
  expect_in(replaced("\"vocab\":{", "\"vocab\":{\"q q\":16000000,"), {"16000000"});
  expect_in(replaced("\"lstrip\":false", "\"lstrip\":true"), {"added_tokens", "lstrip"});
  expect_in(refusal([&] {
              from_json(tiny_tokenizer_json(v, kSmollmPreJson), R"({"bos_token":"<no>"})");
            }),
            {"tokenizer_config.json", "bos_token", "<no>"});
  expect_in(refusal([&] { from_json("[]"); }), {"not a JSON object"});
  EXPECT_TRUE(accepts([&] {
    from_json(tiny_tokenizer_json(v, R"({"type":"Sequence","pretokenizers":[{"type":"Split",)"
                                     R"("behavior":"Isolated","pattern":{"String":"a.b"}},)"
                                     R"({"type":"ByteLevel","add_prefix_space":false}]})"));
  }));
}

}  // namespace
