// The engine's 16-bit store against the library's cache at 16 bits: two codes, one written order.

#include "../../examples/llm/attention.hpp"

#include <cmath>
#include <memory>
#include <vector>

#include "engine_support.hpp"
#include "support/each_isa.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

AttentionShape shape_of(std::size_t heads, std::size_t kv_heads, std::size_t head_size) {
  ModelConfig config;
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_size = head_size;
  return AttentionShape(config);
}

rrs::KvScheme sixteen_bits() {
  rrs::KvScheme scheme;
  scheme.bits = 16;
  return scheme;
}

std::vector<float> random_values(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& x : values) x = 4.0f * random.real() - 2.0f;
  return values;
}

// A prompt of 300 tokens (more than a page of either store), then 3 of one token each.
std::vector<float> outputs(const AttentionShape& shape, KvStore* store) {
  const std::int64_t tokens = 303, width = shape.kv_heads * shape.head_size;
  const std::int64_t row = shape.heads * shape.head_size;
  const auto k = random_values(static_cast<std::size_t>(tokens * width), 1);
  const auto v = random_values(static_cast<std::size_t>(tokens * width), 2);
  const auto q = random_values(static_cast<std::size_t>(tokens * row), 3);
  std::vector<float> out(q.size());
  const ThreadPool pool(1);
  for (std::int64_t at = 0; at < tokens;) {
    const std::int64_t count = at == 0 ? 300 : 1;
    store->append(k.data() + at * width, v.data() + at * width, count);
    store->attend(q.data() + at * row, count, out.data() + at * row, pool);
    at += count;
  }
  EXPECT_EQ(store->length(), tokens);
  return out;
}

TEST(Attention, SixteenBitStoreIsTheLibrarysCacheBitForBit) {
  // 1 / sqrt(head size) is a power of two, so that scaling the query or the score is the same.
  const AttentionShape shapes[] = {shape_of(9, 3, 64), shape_of(4, 4, 16), shape_of(2, 1, 256)};
  int cases = 0;
  for (const AttentionShape& shape : shapes) {
    rrs_test::each_isa([&](const rrs::KernelTable& table) {
      const auto own = make_f16_store(shape);
      const auto library = make_quantized_store(shape, sixteen_bits());
      const std::vector<float> expected = outputs(shape, library.get());
      EXPECT_EQ(outputs(shape, own.get()), expected) << table.name << " size " << shape.head_size;
      EXPECT_NE(expected.front(), 0.0f);
      ++cases;
    });
  }
  EXPECT_GE(cases, 3);
}

TEST(Attention, OtherHeadSizesAgreeToRounding) {
  // The query is scaled before the product here, the score after it there: an output is a mean of
  // values below 2, whose weights move by a few roundings of a score below 2 sqrt(96).
  const AttentionShape shape = shape_of(4, 2, 96);
  int cases = 0;
  rrs_test::each_isa([&](const rrs::KernelTable& table) {
    const auto own = make_f16_store(shape);
    const auto library = make_quantized_store(shape, sixteen_bits());
    const std::vector<float> a = outputs(shape, own.get()), b = outputs(shape, library.get());
    double most = 0.0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
      if (!(d <= most)) most = d;
    }
    EXPECT_LT(most, 2e-5) << table.name;
    EXPECT_GT(most, 0.0) << table.name;
    ++cases;
  });
  EXPECT_GE(cases, 1);
}

}  // namespace
