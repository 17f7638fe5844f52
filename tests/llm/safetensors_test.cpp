// safetensors: reading, each refusal, damage at every byte, and the atomic writer.

#include "../../examples/support/safetensors.hpp"

#include <cstdint>
#include <cstring>

#include "../../examples/support/half.hpp"
#include "test_files.hpp"

namespace {

using namespace rrs_examples;
using namespace rrs_llm_test;

std::string file_bytes(const std::string& header, const std::string& data) {
  return raw(std::uint64_t{header.size()}) + header + data;
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
         "],\"data_offsets\":[" + offsets + "]}";
}

class SafetensorsTest : public ::testing::Test {
 protected:
  Safetensors open(const std::string& bytes) { return Safetensors(folder.write("t", bytes)); }
  std::string refused(const std::string& header, std::size_t data_bytes) {
    return refusal([&] { open(file_bytes(header, std::string(data_bytes, '\0'))); });
  }
  TempFolder folder;
};

std::string small_file() {
  const std::string header =
      "{\"__metadata__\":{\"format\":\"pt\"}," + entry("a", "F32", "2,3", "0,24") + "," +
      entry("b", "F16", "2", "24,28") + "," + entry("c", "BF16", "", "28,30") + "," +
      entry("e", "I8", "0,5", "30,30") + "}  ";
  const std::vector<std::uint16_t> halves{0x3c00, 0xc000, 0x4040};
  return file_bytes(header, raw_all(std::vector<float>{1, 2, 3, 4, 5, -6}) + raw_all(halves));
}

TEST_F(SafetensorsTest, ReadsEveryFloatType) {
  const Safetensors file = open(small_file());
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const Tensor& a = file.require("a");
  EXPECT_EQ(a.shape, (std::vector<std::size_t>{2, 3}));
  EXPECT_EQ(a.size, 24u);
  EXPECT_EQ(to_f32(a), (std::vector<float>{1, 2, 3, 4, 5, -6}));
  EXPECT_EQ(to_f32(file.require("b")), (std::vector<float>{1, -2}));
  EXPECT_EQ(to_f32(file.require("c")), (std::vector<float>{3}));
  EXPECT_TRUE(file.require("c").shape.empty());
  EXPECT_EQ(file.require("e").count(), 0u);
  EXPECT_EQ(file.find("d"), nullptr);
  float two[2];
  to_f32(a, 4, 2, two);
  EXPECT_EQ(two[1], -6.0f);
  expect_in(refusal([&] { to_f32(a, 5, 2, two); }), {"'a'", "5", "6"});
  expect_in(refusal([&] { to_f32(a, 7, 0, two); }), {"'a'"});
  expect_in(refusal([&] { to_f32(file.require("e")); }), {"'e'", "I8"});
  expect_in(refusal([&] { file.require("zz"); }), {"'zz'", "missing"});
}

TEST_F(SafetensorsTest, AcceptsAnEmptyList) {
  EXPECT_TRUE(open(file_bytes("{}", "")).tensors().empty());
}

TEST_F(SafetensorsTest, RefusesBadLengths) {
  expect_in(refusal([&] { open(""); }), {folder.path(), "header length"});
  expect_in(refusal([&] { open("1234567"); }), {"7 bytes"});
  expect_in(refusal([&] { open(raw(std::uint64_t{3}) + "{}"); }), {"header length 3", "2 bytes"});
  expect_in(refusal([&] { open(raw(~std::uint64_t{0}) + "{}"); }), {"18446744073709551615"});
  expect_in(refusal([&] { Safetensors("/nonexistent/x"); }), {"/nonexistent/x", "opened"});
  expect_in(refusal([&] { Safetensors(folder.path()); }), {"regular file"});
}

TEST_F(SafetensorsTest, RefusesBadHeaders) {
  expect_in(refused("[]", 0), {"not a JSON object"});
  expect_in(refused("7", 0), {"not a JSON object"});
  expect_in(refused("{\"a\":", 0), {"not valid JSON"});
  expect_in(refused("{\"a\":1}", 0), {"'a'", "not an object"});
  expect_in(refused("{\"\xff\":1}", 0), {"not valid JSON"});
  const std::string a = entry("a", "U8", "4", "0,4");
  expect_in(refused("{" + a + "," + a + "}", 4), {"'a'", "twice"});
  expect_in(refused("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\"}}", 0), {"'dtype'", "twice"});
  expect_in(refused("{\"__metadata__\":{\"k\":1}}", 0), {"__metadata__", "'k'"});
  expect_in(refused("{\"__metadata__\":[]}", 0), {"__metadata__"});
  expect_in(refused(std::string(1000, '[') + std::string(1000, ']'), 0), {"deeper"});
}

TEST_F(SafetensorsTest, RefusesBadFields) {
  const auto one = [&](const std::string& dtype, const std::string& shape,
                       const std::string& offsets) {
    return refused("{" + entry("t.w", dtype, shape, offsets) + "}", 8);
  };
  expect_in(one("F33", "2", "0,8"), {"'t.w'", "'dtype'", "F33"});
  expect_in(one("F32", "-2", "0,8"), {"'t.w'", "'shape'", "-2"});
  expect_in(one("F32", "2.0", "0,8"), {"'shape'", "2.0"});
  expect_in(one("F32", "1e400", "0,8"), {"JSON"});
  expect_in(one("F32", "99999999999999999999", "0,8"), {"'shape'"});
  expect_in(one("F32", "4294967296,4294967296", "0,8"), {"'shape'", "64 bits"});
  expect_in(one("F32", "4611686018427387905", "0,8"), {"'shape'", "64 bits"});
  expect_in(one("F32", "3", "0,8"), {"'data_offsets'", "8 bytes", "need 12"});
  expect_in(one("F32", "3", "0,12"), {"'data_offsets'", "12", "8 data bytes"});
  expect_in(one("F32", "2", "8,0"), {"'data_offsets'"});
  expect_in(one("F32", "2", "0"), {"'data_offsets'", "1 values"});
  expect_in(one("F32", "2", "0,-8"), {"'data_offsets'", "-8"});
  expect_in(one("F32", "1", "0,4"), {"cover 4 of 8"});
  expect_in(one("F32", "1", "4,8"), {"gap"});
  const std::string overlap =
      "{" + entry("a", "U8", "5", "0,5") + "," + entry("b", "U8", "4", "4,8") + "}";
  expect_in(refused(overlap, 8), {"'b'", "overlapping"});
  expect_in(refused("{\"a\":{\"shape\":[],\"data_offsets\":[0,4]}}", 4), {"'dtype'", "missing"});
  expect_in(refused("{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}}", 4),
            {"'shape'", "array"});
}

void read_everything(const Safetensors& file) {
  for (const Tensor& tensor : file.tensors()) {
    if (tensor.dtype == Dtype::kF32 || tensor.dtype == Dtype::kF16) to_f32(tensor);
  }
}

TEST_F(SafetensorsTest, SurvivesDamageAtEveryByte) {
  const std::string bytes = small_file();
  const auto read = [&](const std::string& damaged) { read_everything(open(damaged)); };
  EXPECT_EQ(truncation_sweep(bytes, read), bytes.size());
  const SweepCounts counts = corruption_sweep(bytes, 0, bytes.size(), 1, read);
  EXPECT_EQ(counts.accepted + counts.refused, 6 * bytes.size());
  EXPECT_GT(counts.refused, bytes.size());  // most of the header matters
  EXPECT_FALSE(accepts([&] { read(bytes + "x"); }));
}

TEST_F(SafetensorsTest, WriterRoundTripsAndAligns) {
  const std::vector<float> a{1, 2, 3};
  const std::vector<std::int8_t> b{-1, 5};
  const std::string path = folder.file("out.safetensors");
  {
    SafetensorsWriter writer(
        AtomicFile(path),
        {{"a", Dtype::kF32, {3}}, {"none", Dtype::kF32, {0, 2}}, {"b", Dtype::kI8, {1, 2}}},
        {{"version", "1"}});
    writer.write("a", a.data(), 8);  // in pieces
    writer.write("a", a.data() + 2, 4);
    writer.write("b", b.data(), 2);
    writer.commit();
  }
  const Safetensors file(path);
  EXPECT_EQ(file.metadata().at("version"), "1");
  EXPECT_EQ(to_f32(file.require("a")), a);
  EXPECT_EQ(std::memcmp(file.require("b").data, b.data(), 2), 0);
  for (const char* name : {"a", "b"}) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.require(name).data) % kTensorAlignment, 0u);
  }
  EXPECT_EQ(file.require("none").size, 0u);
  write_safetensors(folder.file("copy"), {file.require("a"), file.require("b")}, file.metadata());
  EXPECT_EQ(to_f32(Safetensors(folder.file("copy")).require("a")), a);
}

TEST_F(SafetensorsTest, WriterIsAtomic) {
  const std::string path = folder.write("model", "old content");
  const std::vector<TensorSpec> specs{{"a", Dtype::kU8, {4}}, {"b", Dtype::kU8, {2}}};
  {
    SafetensorsWriter writer(AtomicFile(path), specs);
    writer.write("a", "1234", 4);
    expect_in(refusal([&] { writer.commit(); }), {path, "'b'", "incomplete"});
  }
  EXPECT_EQ(read_all(path), "old content");
  EXPECT_EQ(folder.list(), std::vector<std::string>{"model"});  // no temporary remains
  {
    SafetensorsWriter writer(AtomicFile(path), specs);
    expect_in(refusal([&] { writer.write("b", "12", 2); }), {"'b'", "order", "'a'"});
    expect_in(refusal([&] { writer.write("a", "12345", 5); }), {"'a'", "5 bytes"});
    writer.write("a", "1234", 4);
    writer.write("b", "12", 2);
    expect_in(refusal([&] { writer.write("b", "1", 1); }), {"the end"});
    writer.commit();
  }
  EXPECT_EQ(Safetensors(path).require("b").size, 2u);  // the old file was replaced
  EXPECT_EQ(folder.list(), std::vector<std::string>{"model"});
  const auto write_to = [](const std::string& to, const std::vector<TensorSpec>& list) {
    SafetensorsWriter writer(AtomicFile(to), list);
  };
  expect_in(refusal([&] { write_to(path, {specs[0], specs[0]}); }), {"'a'", "twice"});
  expect_in(refusal([&] { write_to("/nonexistent/x", specs); }), {"/nonexistent/x", "created"});
  EXPECT_EQ(folder.list(), std::vector<std::string>{"model"});
}

}  // namespace
