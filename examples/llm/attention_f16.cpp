// The 16-bit store. K pages are [kv head][16 keys][size][16], so that scores are a panel product of
// the query rows; V pages [kv head][16 outputs][key][16], so that p * V is one that continues from
// page to page. Values are rounded to f16 and kept expanded: the kernel reads f32, and bytes() says
// so. A fork shares the pages; whoever appends to a shared last page first copies that page. Forks
// of one store are appended to by one thread at a time.
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention.hpp"
#include "float_kernels.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"

namespace rrs_llm {
namespace {

constexpr std::int64_t kPageTokens = 256;
constexpr std::int64_t kTileRows = 48;  // query rows that share a pass over K and V

float rounded(float x) noexcept { return rrs::to_f32(rrs::to_f16(x)); }

// In the words of rrs::KvCache, which refuses the same values. Below 65520 rounds to 65504 at most.
void check_range(const float* k, const float* v, std::int64_t tokens, std::int64_t width) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    bool fits = true;
    for (std::int64_t d = t * width; d < (t + 1) * width; ++d) {
      fits &= std::fabs(k[d]) < 65520.0f && std::fabs(v[d]) < 65520.0f;
    }
    if (fits) continue;
    const rrs::Status bad{rrs::StatusCode::kNonFinite, "k or v",
                          "must be finite and within range (found: token)", t, 0};
    throw std::runtime_error("KV cache: " + bad.message());
  }
}

class F16Store final : public KvStore {
 public:
  explicit F16Store(const AttentionShape& shape)
      : shape_(shape),
        k_floats_(kPageTokens * shape.head_size),
        v_floats_(kPageTokens * padded16(shape.head_size)) {}

  void append(const float* k, const float* v, std::int64_t tokens) override {
    const std::int64_t width = shape_.kv_heads * shape_.head_size;
    check_range(k, v, tokens, width);
    if (tokens > 0 && length_ % kPageTokens != 0 && pages_.back().use_count() > 1) {
      pages_.back() = std::make_shared<Page>(*pages_.back());
    }
    for (std::int64_t t = 0; t < tokens; ++t, ++length_) {
      if (length_ % kPageTokens == 0) {
        pages_.push_back(std::make_shared<Page>(static_cast<std::size_t>(page_floats()), 0.0f));
      }
      for (std::int64_t h = 0; h < shape_.kv_heads; ++h) {
        const std::int64_t at = t * width + h * shape_.head_size;
        put(h, length_ % kPageTokens, k + at, v + at);
      }
    }
  }

  void append_exact(const float* k, const float* v, std::int64_t tokens) override {
    append(k, v, tokens);
  }
  std::unique_ptr<KvStore> fork() const override { return std::make_unique<F16Store>(*this); }

  void attend(const float* q, std::int64_t tokens, float* out,
              const ThreadPool& pool) const override {
    const std::int64_t tile = (std::max)(std::int64_t{1}, kTileRows / shape_.group());
    const std::int64_t tiles = (tokens + tile - 1) / tile;
    // Long tiles first: the last tile of a prompt sees the most keys.
    pool(tiles * shape_.kv_heads, [&](std::int64_t task) noexcept {
      const std::int64_t i = tiles - 1 - task / shape_.kv_heads;
      const std::int64_t first = i * tile;
      const std::int64_t last = (std::min)(first + tile, tokens);
      attend_tile(q, tokens, first, last, task % shape_.kv_heads, out);
    });
  }

  std::int64_t length() const noexcept override { return length_; }
  std::int64_t bytes() const noexcept override {
    return static_cast<std::int64_t>(pages_.size()) * page_floats() *
           static_cast<std::int64_t>(sizeof(float));
  }

 private:
  using Page = std::vector<float>;

  std::int64_t page_floats() const noexcept { return shape_.kv_heads * (k_floats_ + v_floats_); }

  void put(std::int64_t h, std::int64_t at, const float* k, const float* v) {
    float* page = pages_.back()->data() + h * (k_floats_ + v_floats_);
    float* keys = page + at / kLanes * kLanes * shape_.head_size + at % kLanes;
    float* values = page + k_floats_ + at * kLanes;
    for (std::int64_t d = 0; d < shape_.head_size; ++d) {
      keys[d * kLanes] = rounded(k[d]);
      values[d / kLanes * kPageTokens * kLanes + d % kLanes] = rounded(v[d]);
    }
  }

  // Queries of tokens [first, last) of the call, all heads of one KV head.
  void attend_tile(const float* q, std::int64_t tokens, std::int64_t first, std::int64_t last,
                   std::int64_t kv_head, float* out) const {
    const std::int64_t size = shape_.head_size, group = shape_.group();
    const std::int64_t rows = (last - first) * group;
    const std::int64_t keys = length_ - tokens + last;  // of the last token of the tile
    const std::int64_t key_stride = padded16(keys);
    const std::int64_t width = padded16(size);
    thread_local std::vector<float> scratch;
    scratch.resize(static_cast<std::size_t>(rows * (size + key_stride + width)));
    float* queries = scratch.data();
    float* scores = queries + rows * size;
    float* sums = scores + rows * key_stride;
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* row = q + query_at(first + r / group, kv_head, r % group);
      for (std::int64_t d = 0; d < size; ++d) queries[r * size + d] = row[d] * scale;
    }
    score_pages(kv_head, queries, rows, keys, scores, key_stride);
    std::vector<float>& inverse = inverses(rows);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t limit = length_ - tokens + first + r / group + 1;
      inverse[static_cast<std::size_t>(r)] = softmax(scores + r * key_stride, limit, key_stride);
    }
    mix_pages(kv_head, scores, key_stride, rows, keys, sums, width);
    for (std::int64_t r = 0; r < rows; ++r) {
      float* row = out + query_at(first + r / group, kv_head, r % group);
      const float factor = inverse[static_cast<std::size_t>(r)];
      for (std::int64_t d = 0; d < size; ++d) row[d] = sums[r * width + d] * factor;
    }
  }

  static std::vector<float>& inverses(std::int64_t rows) {
    thread_local std::vector<float> values;
    values.resize(static_cast<std::size_t>(rows));
    return values;
  }

  std::int64_t query_at(std::int64_t token, std::int64_t kv_head, std::int64_t member) const {
    return (token * shape_.heads + kv_head * shape_.group() + member) * shape_.head_size;
  }

  // Keys beyond the limit get probability 0, which leaves every sum as it is. Returns 1 / sum.
  float softmax(float* row, std::int64_t limit, std::int64_t stride) const noexcept {
    const float most = kernels_.max_row(row, limit);
    for (std::int64_t j = limit; j < stride; ++j) row[j] = -std::numeric_limits<float>::infinity();
    return 1.0f / kernels_.exp_row(row, stride, most);
  }

  void score_pages(std::int64_t kv_head, const float* queries, std::int64_t rows, std::int64_t keys,
                   float* scores, std::int64_t stride) const noexcept {
    for (std::int64_t at = 0; at < keys; at += kPageTokens) {
      PanelCall call;
      call.x = queries;
      call.x_stride = shape_.head_size;
      call.rows = rows;
      call.panels = page(at, kv_head);
      call.panel_stride = kLanes * shape_.head_size;
      call.panel_count = padded16((std::min)(keys - at, kPageTokens)) / kLanes;
      call.k = shape_.head_size;
      call.y = scores + at;
      call.y_stride = stride;
      kernels_.panel_product(call);
    }
  }

  void mix_pages(std::int64_t kv_head, const float* p, std::int64_t stride, std::int64_t rows,
                 std::int64_t keys, float* sums, std::int64_t width) const noexcept {
    for (std::int64_t at = 0; at < keys; at += kPageTokens) {
      PanelCall call;
      call.x = p + at;
      call.x_stride = stride;
      call.rows = rows;
      call.panels = page(at, kv_head) + k_floats_;
      call.panel_stride = kPageTokens * kLanes;
      call.panel_count = width / kLanes;
      call.k = (std::min)(keys - at, kPageTokens);
      call.y = sums;
      call.y_stride = width;
      call.accumulate = at > 0;
      kernels_.panel_product(call);
    }
  }

  const float* page(std::int64_t token, std::int64_t kv_head) const noexcept {
    return pages_[static_cast<std::size_t>(token / kPageTokens)]->data() +
           kv_head * (k_floats_ + v_floats_);
  }

  AttentionShape shape_;
  std::int64_t k_floats_;
  std::int64_t v_floats_;
  std::int64_t length_ = 0;
  std::vector<std::shared_ptr<Page>> pages_;  // shared with forks
  const FloatKernels& kernels_ = float_kernels();
};

}  // namespace

std::unique_ptr<KvStore> make_f16_store(const AttentionShape& shape) {
  return std::make_unique<F16Store>(shape);
}

}  // namespace rrs_llm
