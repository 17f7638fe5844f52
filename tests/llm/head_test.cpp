// The head: a matrix kept as Q8_0 gives the bits of the same matrix in f32, at every level, for few
// rows and for many; both follow the written order of panel_product.

#include "../../examples/llm/head.hpp"

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "engine_support.hpp"
#include "support/each_isa.hpp"

namespace {

using namespace rrs_llm;
using namespace rrs_llm_test;

constexpr std::size_t kBlock = 34;  // bytes of 32 inputs

// One matrix in Q8_0, offered as blocks or only as floats.
class OneMatrix final : public ModelSource {
 public:
  OneMatrix(std::size_t rows, std::size_t columns, bool as_blocks)
      : rows_(rows),
        columns_(columns),
        as_blocks_(as_blocks),
        bytes_(rows * columns / 32 * kBlock) {
    Random random(7);
    for (std::byte& b : bytes_) b = static_cast<std::byte>(random.below(256));
    for (std::size_t at = 0; at < bytes_.size();
         at += kBlock) {  // scales: 2^-9 to 2^-2, or subnormal
      const std::uint32_t exponent = random.below(9) == 0 ? 0 : 6 + random.below(8);
      const std::uint32_t half = exponent << 10 | random.below(1024);
      bytes_[at] = static_cast<std::byte>(half & 255);
      bytes_[at + 1] = static_cast<std::byte>(half >> 8);
    }
  }

  const std::string& path() const override { return path_; }
  void release_pages() const noexcept override {}
  const ModelConfig& config() const override { throw std::logic_error("config: not used"); }
  const Tokenizer& tokenizer() const override { throw std::logic_error("tokenizer: not used"); }
  std::optional<TensorInfo> info(std::string_view) const override {
    return TensorInfo{"matrix", "Q8_0", rows_, columns_, bytes_.size()};
  }
  void read_rows(std::string_view, std::size_t first, std::size_t count,
                 float* out) const override {
    dequantize(GgufType::kQ8_0, bytes_.data() + first * columns_ / 32 * kBlock, count * columns_,
               out);
  }
  std::optional<RawBlocks> raw_blocks(std::string_view) const override {
    if (!as_blocks_) return std::nullopt;
    return RawBlocks{GgufType::kQ8_0, rows_, columns_, columns_ / 32 * kBlock, bytes_.data()};
  }

 private:
  std::string path_ = "matrix";
  std::size_t rows_, columns_;
  bool as_blocks_;
  std::vector<std::byte> bytes_;
};

std::vector<float> values(std::size_t count) {
  Random random(3);
  std::vector<float> x(count);
  for (float& value : x) value = 2.0f * random.real();
  return x;
}

// In two calls, as two tasks of a team would.
std::vector<float> logits(const Head& head, const std::vector<float>& x, std::int64_t rows) {
  std::vector<float> y(static_cast<std::size_t>(rows * head.panels() * kLanes), NAN);
  const std::int64_t middle = head.panels() / 2;
  head.product(x.data(), rows, 0, middle, y.data(), head.panels() * kLanes);
  head.product(x.data(), rows, middle, head.panels(), y.data(), head.panels() * kLanes);
  return y;
}

TEST(Head, EightBitsAreTheFloatMatrixBitForBit) {
  int cases = 0;
  for (const std::size_t vocabulary : {16u, 151u, 256u}) {
    constexpr std::size_t kWidth = 96;
    const OneMatrix floats(vocabulary, kWidth, false), blocks(vocabulary, kWidth, true);
    const Head f32(floats, "matrix"), q8(blocks, "matrix");
    ASSERT_EQ(f32.panels(), q8.panels());
    for (const std::int64_t rows : {1, 2, 3, 4, 13, 96, 97, 200}) {
      const std::vector<float> x = values(static_cast<std::size_t>(rows) * kWidth);
      std::vector<float> first;
      rrs_test::each_isa([&](const rrs::KernelTable& table) {
        const std::vector<float> expected = logits(f32, x, rows);
        EXPECT_EQ(logits(q8, x, rows), expected) << table.name << ' ' << vocabulary << ' ' << rows;
        if (first.empty()) first = expected;
        EXPECT_EQ(expected, first) << table.name;
        ++cases;
      });
    }
  }
  EXPECT_GE(cases, 24);
}

TEST(Head, FollowsTheWrittenOrder) {
  constexpr std::size_t kVocabulary = 37, kWidth = 64;
  const OneMatrix source(kVocabulary, kWidth, true);
  const Head head(source, "matrix");
  std::vector<float> w(kVocabulary * kWidth);
  source.read_rows("matrix", 0, kVocabulary, w.data());
  const std::vector<float> x = values(kWidth), y = logits(head, x, 1);
  for (std::size_t o = 0; o < y.size(); ++o) {
    float sum = 0.0f;
    for (std::size_t k = 0; o < kVocabulary && k < kWidth; ++k) {
      sum = std::fma(x[k], w[o * kWidth + k], sum);
    }
    EXPECT_EQ(y[o], sum) << o;  // beyond the vocabulary: 0
  }
}

TEST(Head, EightBitsTakeLessThanAThirdOfTheBytes) {
  const OneMatrix floats(256, 96, false), blocks(256, 96, true);
  const Head f32(floats, "matrix"), q8(blocks, "matrix");
  EXPECT_EQ(f32.bytes(), 256 * 96 * 4);
  EXPECT_EQ(q8.bytes(), 256 * 96 * 9 / 8);
  EXPECT_TRUE(Head().empty());
  EXPECT_FALSE(q8.empty());
}

}  // namespace
