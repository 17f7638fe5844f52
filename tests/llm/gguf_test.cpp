// GGUF reader: every metadata type, tensors, each refusal by name, damage at every byte.

#include "../../examples/llm/gguf.hpp"

#include <cmath>

#include "test_files.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

class GgufTest : public ::testing::Test {
 protected:
  Gguf open(const std::string& bytes) { return Gguf(folder.write("t.gguf", bytes)); }
  Gguf open(const GgufBuilder& builder) { return open(builder.bytes()); }
  std::string refused(const GgufBuilder& builder) {
    return refusal([&] { open(builder); });
  }
  TempFolder folder;
};

GgufBuilder small_file() {
  GgufBuilder b;
  b.string("general.architecture", "llama");
  b.u32("general.alignment", 32);
  b.strings("list", {"one", "", "three"});
  b.ints("ints", {1, -2, 3});
  b.boolean("yes", true);
  b.f32_tensor("norm.weight", {4}, {1, 2, 3, 4});
  b.tensor("matrix.weight", {32, 2}, 8, std::string(2 * 34, '\1'));
  return b;
}

TEST_F(GgufTest, ReadsEveryScalarType) {
  GgufBuilder b;
  b.value("u8", 0, raw(std::uint8_t{200}));
  b.value("i8", 1, raw(std::int8_t{-3}));
  b.value("u16", 2, raw(std::uint16_t{60000}));
  b.value("i16", 3, raw(std::int16_t{77}));
  b.value("u32", 4, raw(std::uint32_t{4000000000u}));
  b.value("i32", 5, raw(std::int32_t{-5}));
  b.value("f32", 6, raw(1.5f));
  b.boolean("bool", true);
  b.string("string", "text");
  b.value("u64", 10, raw(~std::uint64_t{0}));
  b.value("i64", 11, raw(std::int64_t{9}));
  b.value("f64", 12, raw(0.1));
  for (const std::uint32_t version : {2u, 3u}) {
    b.version = version;
    const Gguf file = open(b);
    EXPECT_EQ(file.version(), version);
    EXPECT_EQ(file.metadata().size(), 12u);
    EXPECT_EQ(file.require_uint("u8", 255), 200u);
    EXPECT_EQ(file.require_uint("u16", 65535), 60000u);
    EXPECT_EQ(file.require_uint("i16", 100), 77u);
    EXPECT_EQ(file.require_uint("u32", ~0u), 4000000000u);
    EXPECT_EQ(file.require_uint("i64", 9), 9u);
    EXPECT_EQ(file.require_uint("u64", ~std::uint64_t{0}), ~std::uint64_t{0});
    EXPECT_EQ(file.uint_or("absent", 9, 4), 4u);
    EXPECT_EQ(file.require_float("f32"), 1.5);
    EXPECT_EQ(file.require_float("f64"), 0.1);
    EXPECT_EQ(file.float_or("absent", 2.0), 2.0);
    EXPECT_TRUE(file.bool_or("bool", false));
    EXPECT_TRUE(file.bool_or("absent", true));
    EXPECT_EQ(file.require_string("string"), "text");
    EXPECT_EQ(file.string_or("absent", "x"), "x");
    expect_in(refusal([&] { file.require_uint("i8", 9); }), {"t.gguf", "'i8'", "-3", "negative"});
    expect_in(refusal([&] { file.require_uint("i32", 9); }), {"-5", "negative"});
    expect_in(refusal([&] { file.require_uint("u8", 9); }), {"'u8'", "200", "9"});
    expect_in(refusal([&] { file.require_uint("f32", 9); }), {"'f32'", "not integer"});
    expect_in(refusal([&] { file.require_uint("string", 9); }), {"string", "not integer"});
    expect_in(refusal([&] { file.require_uint("absent", 9); }), {"'absent'", "missing"});
    expect_in(refusal([&] { file.require_float("u8"); }), {"'u8'"});
    expect_in(refusal([&] { file.bool_or("u8", true); }), {"'u8'", "not bool"});
    expect_in(refusal([&] { file.require_string("u8"); }), {"'u8'", "not string"});
  }
}

TEST_F(GgufTest, ReadsArrays) {
  GgufBuilder b = small_file();
  b.array("halves", 6, 2, raw_all(std::vector<float>{1, 2}));
  b.array("big", 10, 1, raw(~std::uint64_t{0}));
  b.array("flags", 7, 2, std::string("\0\1", 2));
  b.array("nested", 9, 2,
          raw(std::uint32_t{0}) + raw(std::uint64_t{3}) + "abc" + raw(std::uint32_t{8}) +
              raw(std::uint64_t{1}) + GgufBuilder::text("in"));
  b.array("empty", 4, 0, "");
  const Gguf file = open(b);
  EXPECT_EQ(file.require_strings("list"), (std::vector<std::string_view>{"one", "", "three"}));
  EXPECT_EQ(file.require_ints("ints"), (std::vector<std::int64_t>{1, -2, 3}));
  EXPECT_TRUE(file.require_ints("empty").empty());
  const MetadataValue& nested = file.metadata().find("nested")->second;
  ASSERT_EQ(nested.arrays.size(), 2u);
  EXPECT_EQ(nested.arrays[0].count, 3u);
  EXPECT_EQ(nested.arrays[1].strings.front(), "in");
  for (const char* key : {"halves", "big", "flags", "list", "nested", "yes"}) {
    expect_in(refusal([&] { file.require_ints(key); }), {key, "not an array"});
  }
  expect_in(refusal([&] { file.require_strings("ints"); }), {"'ints'"});
  expect_in(refusal([&] { file.require_uint("ints", 9); }), {"'ints'", "array"});
}

TEST_F(GgufTest, ReadsTensorsAndRows) {
  const Gguf file = open(small_file());
  ASSERT_EQ(file.tensors().size(), 2u);
  const GgufTensor* norm = file.find("norm.weight");
  ASSERT_NE(norm, nullptr);
  EXPECT_EQ(norm->rows, 1u);
  EXPECT_EQ(norm->columns, 4u);
  float values[4];
  dequantize_rows(*norm, 0, 1, values);
  EXPECT_EQ(values[3], 4.0f);
  const GgufTensor* matrix = file.find("matrix.weight");
  ASSERT_NE(matrix, nullptr);
  EXPECT_EQ(matrix->row_bytes, 34u);
  EXPECT_EQ(matrix->size, 68u);
  std::vector<float> row(32);
  dequantize_rows(*matrix, 1, 1, row.data());
  EXPECT_EQ(row[31], static_cast<float>(std::ldexp(0x101, -24)));  // subnormal scale times 1
  expect_in(refusal([&] { dequantize_rows(*matrix, 2, 1, row.data()); }), {"matrix.weight", "2"});
  const std::size_t huge = ~std::size_t{0};
  expect_in(refusal([&] { dequantize_rows(*matrix, 1, huge, row.data()); }), {"outside"});
  EXPECT_EQ(file.find("other"), nullptr);
}

TEST_F(GgufTest, RefusesBadHeads) {
  GgufBuilder b = small_file();
  expect_in(refusal([&] { open(std::string("GGUX") + b.bytes().substr(4)); }), {"magic"});
  for (const std::uint32_t version : {0u, 1u, 4u, 0x03000000u}) {
    b.version = version;
    expect_in(refused(b), {"version", std::to_string(version)});
  }
  b.version = 3;
  b.tensor_count = std::uint64_t{1} << 60;
  expect_in(refused(b), {"tensor count", "exceeds"});
  b.tensor_count = 2;
  b.metadata_count = ~std::uint64_t{0};
  expect_in(refused(b), {"metadata count", "exceeds"});
}

TEST_F(GgufTest, RefusesBadMetadata) {
  const auto with = [&](const std::string& key, std::uint32_t type, const std::string& bytes) {
    GgufBuilder b;
    b.value(key, type, bytes);
    return refused(b);
  };
  const auto array = [](std::uint32_t type, std::uint64_t count) { return raw(type) + raw(count); };
  expect_in(with("k", 13, "12345678"), {"'k'", "type", "13"});
  expect_in(with("k", 7, std::string(1, '\2')), {"'k'", "bool", "2"});
  expect_in(with("k", 8, raw(std::uint64_t{1000}) + "abc"), {"'k'", "1000"});
  expect_in(with("k", 9, array(4, std::uint64_t{1} << 62)), {"'k'", "array length"});
  expect_in(with("k", 9, array(8, 100)), {"'k'", "array length", "100"});
  expect_in(with("k", 9, array(7, 1) + "\3"), {"'k'", "bool", "3"});
  std::string deep;
  for (int i = 0; i < 6; ++i) deep += array(9, 1);
  expect_in(with("k", 9, deep + array(0, 0)), {"'k'", "deeper"});
  GgufBuilder twice;
  twice.u32("same", 1);
  twice.u32("same", 1);
  expect_in(refused(twice), {"'same'", "twice"});
  for (const std::uint32_t alignment : {0u, 4u, 24u, 33u}) {
    GgufBuilder b;
    b.u32("general.alignment", alignment);
    expect_in(refused(b), {"general.alignment", std::to_string(alignment)});
  }
}

TEST_F(GgufTest, RefusesBadTensors) {
  const auto with = [&](const std::vector<std::uint64_t>& dims, std::uint32_t type,
                        std::uint64_t offset) {
    GgufBuilder b;
    b.record("t.weight", dims, type, offset);
    b.data.resize(256);
    return refused(b);
  };
  const std::uint64_t huge = std::uint64_t{1} << 40;
  expect_in(with({}, 0, 0), {"'t.weight'", "dimension count", "0"});
  expect_in(with({1, 1, 1, 1, 1}, 0, 0), {"dimension count", "5"});
  expect_in(with({4, 0}, 0, 0), {"'t.weight'", "dims", "dimension 1 is 0"});
  expect_in(with({huge, huge}, 0, 0), {"dims", "64 bits"});
  expect_in(with({1, huge, huge}, 0, 0), {"dims", "64 bits"});
  expect_in(with({std::uint64_t{1} << 62}, 0, 0), {"dims", "64 bits"});
  expect_in(with({4}, 3, 0), {"'t.weight'", "row length 4", "32", "Q4_1"});
  expect_in(with({4}, 16, 0), {"type", "16", "not supported"});
  expect_in(with({4}, 0, 8), {"offset", "8", "multiple of 32"});
  expect_in(with({65}, 0, 0), {"offset", "260 bytes", "256"});
  expect_in(with({4}, 0, 512), {"offset", "512", "256"});
  expect_in(with({4}, 0, ~std::uint64_t{31}), {"offset"});
  GgufBuilder twice;
  twice.f32_tensor("same", {8}, std::vector<float>(8));
  twice.f32_tensor("same", {8}, std::vector<float>(8));
  expect_in(refused(twice), {"name", "twice"});
  GgufBuilder overlap;
  overlap.f32_tensor("a", {16}, std::vector<float>(16));
  overlap.record("b", {4}, 0, 32);
  expect_in(refused(overlap), {"'b'", "overlaps", "'a'"});
}

TEST_F(GgufTest, SurvivesDamageAtEveryByte) {
  const std::string bytes = small_file().bytes();
  const auto read = [&](const std::string& damaged) {
    const Gguf file = open(damaged);
    for (const GgufTensor& tensor : file.tensors()) {
      std::vector<float> values(tensor.rows * tensor.columns);
      dequantize_rows(tensor, 0, tensor.rows, values.data());
    }
  };
  EXPECT_EQ(truncation_sweep(bytes, read), bytes.size());
  const SweepCounts counts = corruption_sweep(bytes, 0, bytes.size(), 1, read);
  EXPECT_EQ(counts.accepted + counts.refused, 6 * bytes.size());
  EXPECT_GT(counts.refused, bytes.size());
}

TEST_F(GgufTest, AcceptsAFileWithoutTensors) {
  GgufBuilder b;
  b.u32("k", 1);
  EXPECT_TRUE(open(b.head()).tensors().empty());  // no padding at the end
  EXPECT_TRUE(open(b).tensors().empty());
}

}  // namespace
