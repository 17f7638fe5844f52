// Schemes, shapes and rows for the KV cache tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "rrs/kv_cache/kv_cache.hpp"
#include "support/random.hpp"

namespace rrs_test {

inline const std::vector<std::int64_t>& kv_head_sizes() {
  static const std::vector<std::int64_t> sizes = {1, 7, 32, 64, 80, 96, 128, 131, 256};
  return sizes;
}

// Every width, range, group, with and without rotation, and a clip; K and V of different kinds.
inline std::vector<rrs::KvScheme> kv_schemes() {
  std::vector<rrs::KvScheme> all;
  for (const int bits : {4, 8}) {
    for (const rrs::KvRange range :
         {rrs::KvRange::kAsymmetric, rrs::KvRange::kSymmetric, rrs::KvRange::kFull}) {
      for (const int group : {0, 16, 32, 64, 128, 256, rrs::kKvTokenGroup}) {
        rrs::KvScheme s;
        s.bits = bits;
        s.range = range;
        s.group = group;
        s.clip = group == 0 ? 0.95f : 1.0f;
        s.rotate_k = group != 16;
        s.rotate_v = group != 64;
        all.push_back(s);
      }
    }
  }
  rrs::KvScheme half;
  half.bits = 16;
  all.push_back(half);
  rrs::KvScheme mixed;
  mixed.bits = 8;
  mixed.v_bits = 4;
  mixed.v_group = rrs::kKvTokenGroup;
  all.push_back(mixed);
  mixed.bits = 16;
  all.push_back(mixed);
  return all;
}

// 131 dims (more than a slab, and odd) only without rotation: a dense 131 x 131 factor is slow.
inline rrs::KvScheme kv_scheme_for(rrs::KvScheme s, std::int64_t size) {
  if (size == 131) s.rotate_k = s.rotate_v = false;
  return s;
}

inline rrs::KvCache kv_create(const rrs::KvScheme& scheme, std::int64_t heads, std::int64_t size) {
  rrs::Result<rrs::KvCache> cache = rrs::KvCache::create(scheme, heads, size);
  EXPECT_TRUE(cache.ok()) << cache.status().message();
  return std::move(*cache);
}

struct KvRows {
  KvRows(std::int64_t tokens_, std::int64_t heads_, std::int64_t size_, std::uint64_t seed)
      : tokens(tokens_),
        heads(heads_),
        size(size_),
        k(llm_activations(tokens, heads * size, tokens / 3, seed)),
        v(normal_vector(tokens * heads * size, seed + 1)) {}
  const float* k_row(std::int64_t t) const { return k.data() + t * heads * size; }
  const float* v_row(std::int64_t t) const { return v.data() + t * heads * size; }
  std::int64_t tokens, heads, size;
  std::vector<float> k, v;
};

// Everything that a cache can tell: all stored values, scores, weighted sums, of every head.
inline std::vector<float> kv_everything(const rrs::KvCache& cache, std::uint64_t seed,
                                        std::int64_t step = 0) {
  const std::int64_t size = cache.head_size(), tokens = cache.tokens();
  if (step == 0) step = tokens;
  std::vector<float> all;
  rrs::KvQuery query;
  for (std::int64_t h = 0; h < cache.kv_heads(); ++h) {
    const std::vector<float> q = normal_vector(size, seed + static_cast<std::uint64_t>(h));
    const std::vector<float> p = normal_vector(tokens, seed + 99);
    std::vector<float> scores(static_cast<std::size_t>(tokens)), out = q;
    std::vector<float> k(static_cast<std::size_t>(size)), v = k;
    EXPECT_TRUE(cache.prepare_query(q.data(), &query).ok());
    for (std::int64_t t = 0; t < tokens; t += step) {
      const std::int64_t last = t + step < tokens ? t + step : tokens;
      EXPECT_TRUE(cache.scores(query, h, t, last, scores.data() + t).ok());
      EXPECT_TRUE(cache.accumulate(p.data() + t, h, t, last, out.data()).ok());
    }
    EXPECT_TRUE(cache.finish_output(out.data()).ok());
    all.insert(all.end(), scores.begin(), scores.end());
    all.insert(all.end(), out.begin(), out.end());
    for (std::int64_t t = 0; t < tokens; t += 5) {
      EXPECT_TRUE(cache.stored(t, h, k.data(), v.data()).ok());
      all.insert(all.end(), k.begin(), k.end());
      all.insert(all.end(), v.begin(), v.end());
    }
  }
  return all;
}

}  // namespace rrs_test
