// Hugging Face folders: one file, an indexed set, loose shards, and each refusal.

#include "../../examples/llm/hf_folder.hpp"

#include "tiny_model.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

TEST(HfFolder, FindsTensorsInOneOrSeveralFiles) {
  const TinyModel m = tiny_model(Architecture::kLlama, false);
  for (const std::size_t shards : {1u, 2u, 3u}) {
    TempFolder folder;
    write_tiny_hf(m, folder, shards);
    const HfFolder hf(folder.path());
    EXPECT_EQ(hf.shards(), shards);
    for (const TinyTensor& t : m.tensors) {
      const auto* tensor = hf.find(hf_name(t.name));
      ASSERT_NE(tensor, nullptr) << t.name;
      EXPECT_EQ(to_f32(*tensor), t.values);
    }
    EXPECT_EQ(hf.find("no.such"), nullptr);
    EXPECT_EQ(hf.tokenizer_config(), nullptr);
    EXPECT_EQ(hf.generation_config(), nullptr);
    if (shards == 1) continue;
    std::filesystem::remove(folder.file("model.safetensors.index.json"));
    EXPECT_EQ(HfFolder(folder.path()).shards(), shards);  // every file of the folder
  }
}

TEST(HfFolder, RefusesBrokenFolders) {
  const TinyModel m = tiny_model(Architecture::kLlama, true);
  TempFolder folder;
  const auto refused = [&] { return refusal([&] { HfFolder(folder.path()); }); };
  expect_in(refused(), {folder.path(), "config.json"});
  folder.write("config.json", "{}");
  expect_in(refused(), {"tokenizer.json"});
  folder.write("tokenizer.json", "{}");
  expect_in(refused(), {"no safetensors"});
  write_tiny_shard(m, 0, 2, folder.file("a.safetensors"), rrs_examples::Dtype::kF32);
  write_tiny_shard(m, 1, 3, folder.file("b.safetensors"), rrs_examples::Dtype::kF32);
  expect_in(refused(), {"b.safetensors", hf_name(m.tensors[1].name), "another file"});
  const auto index = [&](const std::string& text) {
    folder.write("model.safetensors.index.json", text);
    return refused();
  };
  expect_in(index(""), {"index.json", "JSON"});
  expect_in(index("[]"), {"weight_map"});
  expect_in(index(R"({"weight_map":[]})"), {"weight_map"});
  expect_in(index(R"({"weight_map":{}})"), {"no safetensors"});
  expect_in(index(R"({"weight_map":{"x":1}})"), {"weight_map", "'x'"});
  expect_in(index(R"({"weight_map":{"x":"../a.safetensors"}})"), {"'../a.safetensors'"});
  expect_in(index(R"({"weight_map":{"x":".."}})"), {"'..'"});
  expect_in(index(R"({"weight_map":{"x":"none.safetensors"}})"), {"none.safetensors", "opened"});
  expect_in(index(R"({"weight_map":{"x":"a.safetensors"}})"), {"a.safetensors", "'x'", "missing"});
}

}  // namespace
