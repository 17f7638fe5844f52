// The life of a cache: append in pieces, split ranges, fork, truncate, exact prefix, non-finite
// rows, failed allocations, refused arguments, presets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "rrs/kv_cache/kv_cache.hpp"
#include "kv_cache/kv_cases.hpp"
#include "support/compare.hpp"
#include "support/each_isa.hpp"

namespace {
// Allocations of the library to let through; negative: all of them.
int allocations_left = -1;
}  // namespace

// What the library allocates with. Everything else, and freeing, stays the standard library's.
void* operator new(std::size_t bytes, std::align_val_t align, const std::nothrow_t&) noexcept {
  if (allocations_left == 0) return nullptr;
  if (allocations_left > 0) --allocations_left;
  try {
    return ::operator new(bytes, align);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

namespace {

using rrs::KvCache;
using rrs::KvQuery;
using rrs::KvScheme;
using rrs::StatusCode;
using rrs_test::bits_equal;
using rrs_test::kv_create;
using rrs_test::kv_everything;
using rrs_test::KvRows;

// On the bits, so that -ffast-math cannot remove it.
bool is_nan(float x) { return (rrs::float_bits(x) & 0x7fffffffu) > 0x7f800000u; }

KvCache filled(const KvScheme& s, const KvRows& rows, std::int64_t piece) {
  KvCache cache = kv_create(s, rows.heads, rows.size);
  for (std::int64_t t = 0; t < rows.tokens; t += piece) {
    const std::int64_t n = (std::min)(piece, rows.tokens - t);
    EXPECT_TRUE(cache.append(rows.k_row(t), rows.v_row(t), n).ok());
  }
  return cache;
}

TEST(KvCacheLife, PiecesAndSplitsAreBitEqual) {
  int compared = 0;
  for (const KvScheme& s : rrs_test::kv_schemes()) {
    for (const std::int64_t size : {17, 64, 160}) {
      const KvRows rows(141, 2, size, 3);
      const std::vector<float> bulk = kv_everything(filled(s, rows, rows.tokens), 8);
      for (const std::int64_t piece : {1, 37, 64}) {
        const KvCache cache = filled(s, rows, piece);
        EXPECT_EQ(cache.tokens(), rows.tokens);
        for (const std::int64_t step : {1, 13, 64}) {
          ASSERT_TRUE(bits_equal(kv_everything(cache, 8, step), bulk)) << piece << " " << step;
          ++compared;
        }
      }
    }
  }
  EXPECT_EQ(compared, 45 * 3 * 9);
}

// K and V as slices of one buffer [token][q | k | v | rest], and with a stride each.
TEST(KvCacheLife, RowsWithAStrideAreThePackedRows) {
  const KvRows rows(141, 2, 80, 12);
  const std::int64_t width = 2 * 80, queries = 3 * width, fused = queries + 2 * width + 7;
  // NaN between the rows, so that a read beside them shows.
  std::vector<float> qkv(static_cast<std::size_t>(141 * fused), std::nanf(""));
  for (std::int64_t t = 0; t < 141; ++t) {
    std::copy_n(rows.k_row(t), width, qkv.begin() + t * fused + queries);
    std::copy_n(rows.v_row(t), width, qkv.begin() + t * fused + queries + width);
  }
  const auto view = [&](std::int64_t from, std::int64_t tokens, std::int64_t column) {
    return rrs::MatrixView<const float>(qkv.data() + from * fused + column, tokens, width, fused);
  };
  int compared = 0;
  for (const KvScheme& s : rrs_test::kv_schemes()) {
    const bool exact_first = s.bits != 16;
    rrs_test::each_isa([&](const rrs::KernelTable& table) {
      KvCache expected = kv_create(s, 2, 80), strided = kv_create(s, 2, 80);
      if (exact_first) {
        ASSERT_TRUE(expected.append_exact(rows.k.data(), rows.v.data(), 5).ok());
        ASSERT_TRUE(strided.append_exact(view(0, 5, queries), view(0, 5, queries + width)).ok());
        ASSERT_EQ(strided.exact_tokens(), 5);
      }
      const std::int64_t from = exact_first ? 5 : 0, tokens = 141 - from;
      ASSERT_TRUE(expected.append(rows.k_row(from), rows.v_row(from), tokens).ok());
      // Half of them with a packed V: the strides are independent.
      ASSERT_TRUE(strided.append(view(from, 60, queries), {rows.v_row(from), 60, width}).ok());
      ASSERT_TRUE(strided
                      .append(view(from + 60, tokens - 60, queries),
                              view(from + 60, tokens - 60, queries + width))
                      .ok());
      ASSERT_TRUE(bits_equal(kv_everything(strided, 8), kv_everything(expected, 8))) << table.name;
      ++compared;
    });
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(compared, 45 * static_cast<int>(rrs_test::supported_isas().size()));
}

TEST(KvCacheLife, ForksShareFullPagesAndCopyTheLast) {
  const KvRows rows(300, 2, 64, 4), other(300, 2, 64, 5);
  for (const int bits : {4, 8, 16}) {
    KvScheme s;
    s.bits = bits;
    KvCache first = kv_create(s, 2, 64);
    ASSERT_TRUE(first.append(rows.k.data(), rows.v.data(), 100).ok());
    const std::vector<float> before = kv_everything(first, 1);
    rrs::Result<KvCache> second = first.fork();
    ASSERT_TRUE(second.ok());
    EXPECT_TRUE(bits_equal(kv_everything(*second, 1), before));
    allocations_left = 1;  // the copy of the last page, and nothing else: there is room in it
    ASSERT_TRUE(second->append(other.k_row(100), other.v_row(100), 20).ok());
    EXPECT_EQ(allocations_left, 0);
    ASSERT_TRUE(first.append(rows.k_row(100), rows.v_row(100), 20).ok());  // alone again: no copy
    allocations_left = -1;
    ASSERT_TRUE(first.append(rows.k_row(120), rows.v_row(120), 180).ok());
    EXPECT_TRUE(bits_equal(kv_everything(first, 1), kv_everything(filled(s, rows, 300), 1)));
    KvCache expected = kv_create(s, 2, 64);
    ASSERT_TRUE(expected.append(rows.k.data(), rows.v.data(), 100).ok());
    ASSERT_TRUE(expected.append(other.k_row(100), other.v_row(100), 20).ok());
    EXPECT_TRUE(bits_equal(kv_everything(*second, 1), kv_everything(expected, 1)));
    first = KvCache();  // the fork lives on
    EXPECT_TRUE(bits_equal(kv_everything(*second, 1), kv_everything(expected, 1)));
  }
}

TEST(KvCacheLife, TruncateForgetsAndFrees) {
  const KvRows rows(200, 1, 80, 6);
  for (const std::int64_t keep : {0, 1, 63, 64, 65, 128, 200}) {
    KvCache cache = filled(KvScheme{}, rows, 200);
    rrs::Result<KvCache> fork = cache.fork();
    ASSERT_TRUE(fork.ok());
    const std::vector<float> before = kv_everything(*fork, 2);
    const std::int64_t page = cache.bytes() / 4;
    ASSERT_TRUE(cache.truncate(keep).ok());
    EXPECT_EQ(cache.tokens(), keep);
    EXPECT_EQ(cache.bytes(), (keep + 63) / 64 * page);
    ASSERT_TRUE(cache.append(rows.k_row(keep), rows.v_row(keep), 200 - keep).ok());
    EXPECT_TRUE(bits_equal(kv_everything(cache, 2), before));
    EXPECT_TRUE(bits_equal(kv_everything(*fork, 2), before));
    EXPECT_FALSE(cache.truncate(201).ok());
    EXPECT_FALSE(cache.truncate(-1).ok());
  }
}

TEST(KvCacheLife, ExactPrefixKeepsSixteenBits) {
  const KvRows rows(90, 2, 64, 7);
  KvScheme half;
  half.bits = 16;
  KvScheme plain;
  plain.rotate_k = plain.rotate_v = false;
  KvCache cache = kv_create(plain, 2, 64);
  ASSERT_TRUE(cache.append_exact(rows.k.data(), rows.v.data(), 70).ok());
  ASSERT_TRUE(cache.append(rows.k_row(70), rows.v_row(70), 20).ok());
  EXPECT_EQ(cache.exact_tokens(), 70);
  const KvCache exact = filled(half, rows, 90), quantized = filled(plain, rows, 90);
  const std::vector<float> q = rrs_test::normal_vector(64, 1);
  std::vector<float> mixed(90), expected(90), codes(90);
  KvQuery query, exact_query;
  ASSERT_TRUE(cache.prepare_query(q.data(), &query).ok());
  ASSERT_TRUE(exact.prepare_query(q.data(), &exact_query).ok());
  ASSERT_TRUE(cache.scores(query, 1, 0, 90, mixed.data()).ok());
  ASSERT_TRUE(exact.scores(exact_query, 1, 0, 90, expected.data()).ok());
  ASSERT_TRUE(quantized.scores(query, 1, 0, 90, codes.data()).ok());
  EXPECT_TRUE(bits_equal(mixed.data(), expected.data(), 70));
  EXPECT_TRUE(bits_equal(mixed.data() + 70, codes.data() + 70, 20));
  EXPECT_FALSE(bits_equal(codes.data(), expected.data(), 70));
  EXPECT_FALSE(exact.scores(query, 1, 0, 90, mixed.data()).ok()) << "another group";
  const rrs::Status late = cache.append_exact(rows.k.data(), rows.v.data(), 1);
  EXPECT_EQ(late.code, StatusCode::kInvalidArgument);
  ASSERT_TRUE(cache.truncate(65).ok());
  EXPECT_EQ(cache.exact_tokens(), 65);
  EXPECT_EQ(cache.tokens(), 65);
  ASSERT_TRUE(cache.append_exact(rows.k_row(65), rows.v_row(65), 5).ok());
  ASSERT_TRUE(cache.append(rows.k_row(70), rows.v_row(70), 20).ok());
  ASSERT_TRUE(cache.scores(query, 1, 0, 90, codes.data()).ok());
  EXPECT_TRUE(bits_equal(codes.data(), mixed.data(), 90));
}

// A bad value makes its own token and head NaN, and nothing else.
TEST(KvCacheLife, NonFiniteRowsStayAlone) {
  const float bad_values[] = {std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(), 3e38f};
  int checked = 0;
  for (const KvScheme& s : rrs_test::kv_schemes()) {
    for (const float bad : bad_values) {
      KvRows rows(20, 2, 64, 8);
      const KvCache good = filled(s, rows, 20);
      rows.k[7 * 128 + 64 + 5] = bad;  // token 7, head 1
      rows.v[9 * 128 + 64 + 6] = bad;
      rrs_test::each_isa([&](const rrs::KernelTable&) {
        KvCache cache = kv_create(s, 2, 64);
        const rrs::Status status = cache.append(rows.k.data(), rows.v.data(), 20);
        ASSERT_EQ(status.code, StatusCode::kNonFinite);
        ASSERT_EQ(status.value, 7);
        ASSERT_EQ(cache.tokens(), 20);
        const std::vector<float> q = rrs_test::normal_vector(64, 1), p(20, 0.1f);
        KvQuery query;
        ASSERT_TRUE(cache.prepare_query(q.data(), &query).ok());
        std::vector<float> scores(20), expected(20), out(64, 0.0f), clean(64, 0.0f);
        ASSERT_TRUE(cache.scores(query, 1, 0, 20, scores.data()).ok());
        ASSERT_TRUE(good.scores(query, 1, 0, 20, expected.data()).ok());
        for (std::size_t t = 0; t < 20; ++t) {
          ASSERT_EQ(is_nan(scores[t]), t == 7) << t;
          if (t == 7) continue;
          ASSERT_EQ(scores[t], expected[t]) << t;
        }
        ASSERT_TRUE(cache.accumulate(p.data(), 1, 9, 10, out.data()).ok());
        for (const float x : out) ASSERT_TRUE(is_nan(x));
        out = clean;
        ASSERT_TRUE(cache.accumulate(p.data(), 1, 0, 9, out.data()).ok());
        ASSERT_TRUE(good.accumulate(p.data(), 1, 0, 9, clean.data()).ok());
        ASSERT_TRUE(bits_equal(out, clean));
        ++checked;
      });
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_EQ(checked, 45 * 4 * static_cast<int>(rrs_test::supported_isas().size()));
  std::vector<float> q(64, 1.0f);
  q[3] = bad_values[0];
  const KvRows rows(20, 2, 64, 8);
  for (const int bits : {4, 16}) {
    KvScheme s;
    s.bits = bits;
    const KvCache cache = filled(s, rows, 20);
    KvQuery query;
    std::vector<float> scores(20, 0.0f);
    EXPECT_EQ(cache.prepare_query(q.data(), &query).code, StatusCode::kNonFinite);
    ASSERT_TRUE(cache.scores(query, 0, 0, 20, scores.data()).ok());
    for (const float x : scores) EXPECT_TRUE(is_nan(x));
  }
}

// Rows of zeros, of one value, of one sign, and tiny ones.
TEST(KvCacheLife, DegenerateRowsAreFinite) {
  for (const KvScheme& s : rrs_test::kv_schemes()) {
    for (const float value : {0.0f, -0.0f, 1.0f, -3.0f, 1e-30f, 1e-45f, 6e4f}) {
      KvCache cache = kv_create(s, 1, 32);
      const std::vector<float> row(32, value);
      ASSERT_TRUE(cache.append(row.data(), row.data(), 1).ok()) << value;
      for (const float x : kv_everything(cache, 1)) ASSERT_TRUE(std::isfinite(x)) << value;
    }
  }
}

TEST(KvCacheLife, FailedAllocationsLeaveTheCacheUnchanged) {
  const KvRows rows(300, 2, 64, 9);
  int failures = 0;
  for (int allowed = 0; allowed < 8; ++allowed) {
    KvCache cache = kv_create(KvScheme{}, 2, 64);
    ASSERT_TRUE(cache.append(rows.k.data(), rows.v.data(), 100).ok());
    rrs::Result<KvCache> fork = cache.fork();
    ASSERT_TRUE(fork.ok());
    const std::vector<float> before = kv_everything(cache, 1);
    const std::int64_t bytes = cache.bytes();
    allocations_left = allowed;  // the copy of the shared page, then three new ones
    const rrs::Status status = cache.append(rows.k_row(100), rows.v_row(100), 200);
    allocations_left = -1;
    ASSERT_EQ(status.ok(), allowed >= 4) << allowed;
    if (status.ok()) continue;
    EXPECT_EQ(status.code, StatusCode::kOutOfMemory);
    EXPECT_EQ(cache.tokens(), 100);
    EXPECT_EQ(cache.bytes(), bytes);
    EXPECT_TRUE(bits_equal(kv_everything(cache, 1), before));
    ASSERT_TRUE(cache.append(rows.k_row(100), rows.v_row(100), 200).ok());
    EXPECT_TRUE(
        bits_equal(kv_everything(cache, 1), kv_everything(filled(KvScheme{}, rows, 300), 1)));
    ++failures;
  }
  EXPECT_EQ(failures, 4);
  int refused = 0;
  for (int allowed = 0; allowed < 4; ++allowed) {
    const KvCache cache = filled(KvScheme{}, rows, 300);
    KvQuery query;
    const std::vector<float> q(64, 1.0f);
    allocations_left = allowed;
    refused += rrs::KvCache::create(KvScheme{}, 2, 80).status().code == StatusCode::kOutOfMemory;
    allocations_left = allowed;
    refused += cache.fork().status().code == StatusCode::kOutOfMemory;
    allocations_left = allowed;
    refused += cache.prepare_query(q.data(), &query).code == StatusCode::kOutOfMemory;
    allocations_left = -1;
  }
  EXPECT_EQ(refused, 2 + 2 + 1);  // tables and scratch; scratch and page table; the query
}

// Each message names the view and the field.
void refuse_views(KvCache* cache, const KvRows& rows) {
  using View = rrs::MatrixView<const float>;
  const float *k = rows.k.data(), *v = rows.v.data();
  const View good(k, 4, 128, 256);
  const std::int64_t held = cache->tokens();
  const std::pair<std::pair<View, View>, std::string> cases[] = {
      {{View(k, 4, 128, 127), good}, "k.row_stride"},
      {{good, View(v, 4, 128, -128)}, "v.row_stride"},
      {{View(k, 4, 127, 256), good}, "k.cols"},
      {{good, View(v, 4, 129, 256)}, "v.cols"},
      {{good, View(v, 3, 128)}, "v.rows"},
      {{View(k, -1, 128), View(v, -1, 128)}, "tokens"},
      {{View(k, std::int64_t{1} << 40, 128), good}, "tokens"},
      {{View(k, 4, 128, INT64_MAX), good}, "k.row_stride"},
      {{View(nullptr, 4, 128), good}, "k.data"},
      {{good, View(nullptr, 4, 128)}, "v.data"}};
  for (const auto& [views, name] : cases) {
    for (const bool exact : {false, true}) {
      const rrs::Status status = exact ? cache->append_exact(views.first, views.second)
                                       : cache->append(views.first, views.second);
      EXPECT_EQ(status.code, StatusCode::kInvalidArgument) << name;
      EXPECT_EQ(status.argument, name);
      EXPECT_EQ(cache->tokens(), held) << name;
    }
  }
}

TEST(KvCacheLife, ArgumentsAreChecked) {
  const KvRows rows(10, 2, 64, 1);
  EXPECT_FALSE(KvCache::create(KvScheme{}, 0, 64).ok());
  EXPECT_FALSE(KvCache::create(KvScheme{}, 65537, 64).ok());
  EXPECT_FALSE(KvCache::create(KvScheme{}, 1, 0).ok());
  EXPECT_FALSE(KvCache::create(KvScheme{}, 1, 1025).ok());
  EXPECT_TRUE(KvCache::create(KvScheme{}, 1, 1024).ok());
  for (const int bits : {0, 2, 5, 32}) {
    KvScheme s;
    s.bits = bits;
    EXPECT_EQ(KvCache::create(s, 1, 64).status().code, StatusCode::kInvalidScheme);
    s.bits = 4;
    s.v_bits = bits;
    EXPECT_EQ(KvCache::create(s, 1, 64).ok(), bits == 0);
  }
  for (const int group : {-2, 1, 8, 48, 512}) {
    KvScheme s;
    s.group = group;
    EXPECT_FALSE(KvCache::create(s, 1, 64).ok()) << group;
  }
  for (const float clip : {0.0f, -1.0f, 1.5f, std::nanf("")}) {
    KvScheme s;
    s.clip = clip;
    EXPECT_FALSE(KvCache::create(s, 1, 64).ok()) << clip;
  }
  KvCache cache = filled(KvScheme{}, rows, 10);
  std::vector<float> x(64, 1.0f), out(10);
  KvQuery query;
  EXPECT_FALSE(cache.scores(query, 0, 0, 10, out.data()).ok()) << "not prepared";
  ASSERT_TRUE(cache.prepare_query(x.data(), &query).ok());
  EXPECT_TRUE(cache.scores(query, 0, 10, 10, nullptr).ok()) << "empty";
  EXPECT_FALSE(cache.scores(query, 2, 0, 10, out.data()).ok());
  EXPECT_FALSE(cache.scores(query, -1, 0, 10, out.data()).ok());
  EXPECT_FALSE(cache.scores(query, 0, 0, 11, out.data()).ok());
  EXPECT_FALSE(cache.scores(query, 0, -1, 10, out.data()).ok());
  EXPECT_FALSE(cache.scores(query, 0, 6, 5, out.data()).ok());
  EXPECT_FALSE(cache.scores(query, 0, 0, 10, nullptr).ok());
  EXPECT_FALSE(cache.accumulate(nullptr, 0, 0, 10, x.data()).ok());
  EXPECT_FALSE(cache.accumulate(x.data(), 0, 0, 10, nullptr).ok());
  EXPECT_FALSE(cache.finish_output(nullptr).ok());
  EXPECT_FALSE(cache.prepare_query(nullptr, &query).ok());
  EXPECT_FALSE(cache.prepare_query(x.data(), nullptr).ok());
  EXPECT_FALSE(cache.append(nullptr, rows.v.data(), 1).ok());
  EXPECT_FALSE(cache.append(rows.k.data(), nullptr, 1).ok());
  EXPECT_FALSE(cache.append(rows.k.data(), rows.v.data(), -1).ok());
  EXPECT_FALSE(cache.append(rows.k.data(), rows.v.data(), INT64_MAX).ok());
  EXPECT_TRUE(cache.append(nullptr, nullptr, 0).ok());
  refuse_views(&cache, rows);
  EXPECT_FALSE(cache.stored(10, 0, x.data(), nullptr).ok());
  EXPECT_EQ(cache.tokens(), 10);
  KvCache moved(std::move(cache));
  EXPECT_EQ(moved.tokens(), 10);
  for (KvCache* empty : {&cache, new KvCache()}) {  // NOLINT: use after move is the point
    EXPECT_FALSE(empty->append(rows.k.data(), rows.v.data(), 1).ok());
    EXPECT_FALSE(empty->fork().ok());
    EXPECT_FALSE(empty->truncate(0).ok());
    EXPECT_FALSE(empty->prepare_query(x.data(), &query).ok());
    EXPECT_FALSE(empty->scores(query, 0, 0, 0, out.data()).ok());
    EXPECT_FALSE(empty->finish_output(x.data()).ok());
    if (empty != &cache) delete empty;
  }
}

TEST(KvCacheLife, BitsPerValue) {
  KvScheme s;
  EXPECT_NEAR(kv_create(s, 8, 128).bits_per_value(), 4.75, 0.01);
  s.range = rrs::KvRange::kSymmetric;
  EXPECT_NEAR(kv_create(s, 8, 128).bits_per_value(), 4.5, 0.01);
  s.bits = 8;
  s.group = 0;
  EXPECT_NEAR(kv_create(s, 8, 128).bits_per_value(), 8.125, 0.01);
  s.bits = 16;
  EXPECT_NEAR(kv_create(s, 8, 128).bits_per_value(), 16.0, 0.01);
}

TEST(KvCacheLife, PresetsFollowTheTable) {
  int found = 0;
  rrs::presets::for_each([&](const rrs::NamedPreset& preset) {
    for (const int bits : {4, 8, 16}) {
      const rrs::Result<KvScheme> s = rrs::presets::kv(preset.name, bits);
      ASSERT_TRUE(s.ok());
      EXPECT_TRUE(rrs::validate(*s).ok());
      const bool w8a8 = std::string(preset.name) == "smoothquant_w8a8";
      EXPECT_EQ(s->bits, w8a8 && bits == 4 ? 8 : bits);
      ++found;
    }
  });
  EXPECT_EQ(found, 45);
  const auto kv4 = [](const char* name) { return *rrs::presets::kv(name, 4); };
  EXPECT_EQ(kv4("rrs").group, 32);
  EXPECT_TRUE(kv4("rrs-w4a8").rotate_v);
  EXPECT_EQ(kv4("rrs_whole").range, rrs::KvRange::kAsymmetric);
  EXPECT_EQ(kv4("rtn").group, rrs::kKvHeadGroup);
  EXPECT_FALSE(kv4("rtn").rotate_k);
  EXPECT_FALSE(kv4("smoothquant-w4a4").rotate_k);
  EXPECT_EQ(kv4("smoothquant_w4a4").bits, 4);
  for (const char* name : {"quarot", "quarot-g32"}) {
    EXPECT_EQ(kv4(name).range, rrs::KvRange::kAsymmetric);
    EXPECT_EQ(kv4(name).clip, 0.95f);
    EXPECT_TRUE(kv4(name).rotate_k);
    EXPECT_FALSE(kv4(name).rotate_v);
  }
  for (const char* name : {"rs", "rs_g32", "rrs-published"}) {
    EXPECT_EQ(kv4(name).range, rrs::KvRange::kSymmetric);
    EXPECT_EQ(kv4(name).group, rrs::kKvHeadGroup);
    EXPECT_EQ(kv4(name).v_group, rrs::kKvTokenGroup);
    EXPECT_TRUE(kv4(name).rotate_k);
    EXPECT_FALSE(kv4(name).rotate_v);
  }
  EXPECT_FALSE(rrs::presets::kv("nothing", 4).ok());
  EXPECT_FALSE(rrs::presets::kv("rrs", 5).ok());
}

}  // namespace
