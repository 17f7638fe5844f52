// The engine's 16-bit store against the library's cache at 16 bits: two codes, one written order.
// Forks, what they allocate, and values beyond 16 bits, of both.

#include "../../examples/llm/attention.hpp"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "engine_support.hpp"
#include "support/each_isa.hpp"

namespace {
std::size_t allocated = 0;  // bytes asked of the plain operator new, which vectors of floats use

void* counted(std::size_t bytes) {
  allocated += bytes;
  return std::malloc(bytes == 0 ? 1 : bytes);  // NOLINT: what operator new is made of
}
}  // namespace

// Not inlined: one of a pair without the other looks mismatched to g++ -O1.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  void* memory = counted(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }  // NOLINT
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);  // NOLINT
}

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

std::vector<float> random_values(std::size_t count, std::uint32_t seed) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& x : values) x = 2.0f * random.real();
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
      ASSERT_TRUE(std::isfinite(d)) << i;
      most = (std::max)(most, d);
    }
    EXPECT_LT(most, 2e-5) << table.name;
    EXPECT_GT(most, 0.0) << table.name;
    ++cases;
  });
  EXPECT_GE(cases, 1);
}

struct Rows {
  Rows(const AttentionShape& shape, std::int64_t tokens, std::uint32_t seed)
      : width(shape.kv_heads * shape.head_size),
        k(random_values(static_cast<std::size_t>(tokens * width), seed)),
        v(random_values(static_cast<std::size_t>(tokens * width), seed + 1)) {}
  void append(std::int64_t first, std::int64_t tokens, KvStore* store) const {
    store->append(k.data() + first * width, v.data() + first * width, tokens);
  }
  std::int64_t width;
  std::vector<float> k, v;
};

// What the last token of the store sees.
std::vector<float> last_output(const AttentionShape& shape, const KvStore& store) {
  const auto row = static_cast<std::size_t>(shape.heads * shape.head_size);
  const auto q = random_values(row, 9);
  std::vector<float> out(row);
  store.attend(q.data(), 1, out.data(), ThreadPool(1));
  return out;
}

TEST(Attention, ForksShareTheirPagesAndGoTheirOwnWays) {
  const AttentionShape shape = shape_of(4, 2, 32);
  const Rows past(shape, 600, 1), a(shape, 300, 3), b(shape, 300, 5);
  // 300: inside a page. 512: at the end of one, and nothing is copied then. 0: no page yet.
  int cases = 0;
  for (const std::int64_t tokens : {0, 300, 512, 600}) {
    for (const bool own : {true, false}) {
      const auto make = [&] {
        return own ? make_f16_store(shape) : make_quantized_store(shape, sixteen_bits());
      };
      const auto expect = [&](const Rows& later) {
        const auto alone = make();
        past.append(0, tokens, alone.get());
        later.append(0, 300, alone.get());
        return last_output(shape, *alone);
      };
      auto first = make();
      past.append(0, tokens, first.get());
      const std::size_t before = allocated;
      const auto second = first->fork();
      if (own) {
        EXPECT_LT(allocated - before, 1000u);  // pointers; a page is 128 KB
      }
      EXPECT_EQ(second->bytes(), first->bytes());
      a.append(0, 1, first.get());
      b.append(0, 300, second.get());
      const auto third = second->fork();
      a.append(1, 299, first.get());
      b.append(0, 1, third.get());
      EXPECT_EQ(last_output(shape, *first), expect(a)) << tokens << " own " << own;
      EXPECT_EQ(last_output(shape, *second), expect(b)) << tokens << " own " << own;
      EXPECT_EQ(third->length(), tokens + 301);
      EXPECT_EQ(second->length(), tokens + 300);
      first.reset();  // the forks live on
      EXPECT_EQ(last_output(shape, *second), expect(b)) << tokens << " own " << own;
      EXPECT_NE(expect(a), expect(b));
      ++cases;
    }
  }
  EXPECT_EQ(cases, 8);
}

TEST(Attention, BytesAreThoseHeld) {
  const AttentionShape shape = shape_of(4, 2, 32);
  const Rows rows(shape, 300, 1);
  const auto store = make_f16_store(shape);
  EXPECT_EQ(store->bytes(), 0);
  const std::size_t before = allocated;
  rows.append(0, 300, store.get());
  const std::int64_t pages = 2 * 256 * 2 * 32 * 2 * 4;  // 2 pages of 256 tokens, K and V in f32
  EXPECT_EQ(store->bytes(), pages);
  EXPECT_GE(allocated - before, static_cast<std::size_t>(pages));
  EXPECT_LT(allocated - before, static_cast<std::size_t>(pages) + 1000u);
}

TEST(Attention, ValuesBeyondSixteenBitsAreAnErrorNotInfinity) {
  const AttentionShape shape = shape_of(4, 2, 32);
  const float infinity = std::numeric_limits<float>::infinity();
  const float bad_values[] = {65520.0f, -65520.0f, 1e30f, infinity, -infinity, std::nanf("")};
  int refused = 0;
  for (const float bad : bad_values) {
    for (const bool in_v : {false, true}) {
      Rows rows(shape, 10, 1);
      (in_v ? rows.v : rows.k)[static_cast<std::size_t>(7 * rows.width + 5)] = bad;
      const auto own = make_f16_store(shape);
      const auto library = make_quantized_store(shape, sixteen_bits());
      const std::string message = refusal([&] { rows.append(0, 10, own.get()); });
      expect_in(message, {"KV cache", "k or v must be finite and within range", "token) (found 7"});
      EXPECT_EQ(refusal([&] { rows.append(0, 10, library.get()); }), message);
      EXPECT_EQ(own->length(), 0);
      EXPECT_NO_THROW(rows.append(0, 7, own.get()));
      ++refused;
    }
  }
  EXPECT_EQ(refused, 12);
  const AttentionShape exact = shape_of(4, 2, 64);
  Rows rows(exact, 3, 1);
  rows.v[5] = 65519.9f;  // rounds to 65504
  const auto own = make_f16_store(exact);
  const auto library = make_quantized_store(exact, sixteen_bits());
  rows.append(0, 3, own.get());
  rows.append(0, 3, library.get());
  EXPECT_EQ(last_output(exact, *own), last_output(exact, *library));
  EXPECT_GT(std::abs(last_output(exact, *own)[5]), 100.0f);
}

}  // namespace
