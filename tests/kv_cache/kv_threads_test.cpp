// What kv_cache.hpp promises to threads: const calls on one cache from any of them, and caches
// related by fork as if nothing were shared. Every value is compared with that of the same calls
// made one after another by owners with pages of their own; races are for the thread sanitizer to
// see.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "rrs/kv_cache/kv_cache.hpp"
#include "kv_cache/kv_cases.hpp"
#include "support/compare.hpp"

namespace {

using rrs::KvCache;
using rrs::KvScheme;
using rrs_test::bits_equal;
using rrs_test::kv_everything;
using rrs_test::KvRows;

constexpr std::int64_t kHeads = 2, kSize = 64;
constexpr std::int64_t kExact = 70, kShared = 100;  // a full page of 64 tokens, and a part of one
constexpr int kThreads = 4, kRounds = 6;

std::vector<KvScheme> schemes() {
  KvScheme eight, half;
  eight.bits = 8;
  half.bits = 16;
  return {KvScheme{}, eight, half};
}

bool add(KvCache& cache, const KvRows& rows, std::int64_t first, std::int64_t last) {
  return cache.append(rows.k_row(first), rows.v_row(first), last - first).ok();
}

// What all owners have in common, in the exact prefix, too: both last pages are shared in part.
KvCache make_base(const KvScheme& s) {
  static const KvRows rows(kExact + kShared, kHeads, kSize, 1);
  KvCache cache = rrs_test::kv_create(s, kHeads, kSize);
  EXPECT_TRUE(cache.append_exact(rows.k.data(), rows.v.data(), kExact).ok());
  EXPECT_TRUE(add(cache, rows, kExact, kExact + kShared));
  return cache;
}

KvCache fork_of(const KvCache& cache) {
  rrs::Result<KvCache> fork = cache.fork();
  EXPECT_TRUE(fork.ok());
  return std::move(*fork);
}

// Runs body(i) for i in [0, kThreads): each on a thread of its own, all let go at once, or in turn.
template <class Body>
void run(bool threads, const Body& body) {
  if (!threads) {
    for (int i = 0; i < kThreads; ++i) body(i);
    return;
  }
  std::atomic<int> waiting{kThreads};
  std::vector<std::thread> pool;
  for (int i = 0; i < kThreads; ++i) {
    pool.emplace_back([&waiting, &body, i] {
      waiting.fetch_sub(1);
      while (waiting.load() > 0) std::this_thread::yield();
      body(i);
    });
  }
  for (std::thread& t : pool) t.join();
}

void append_to(std::vector<float>* all, const std::vector<float>& more) {
  all->insert(all->end(), more.begin(), more.end());
}

// An owner's life: it writes behind what is shared, forks, and writes on while its fork does; then
// it forgets a part of what was shared and writes there. Everything that both could read.
std::vector<float> live(KvCache cache, const KvRows& rows, bool threads) {
  EXPECT_TRUE(add(cache, rows, 0, 40));
  std::vector<float> all = kv_everything(cache, 2), of_child;
  const auto child_lives = [&of_child, &rows](KvCache child) {
    EXPECT_TRUE(add(child, rows, 40, 60));
    of_child = kv_everything(child, 3);
  };
  std::thread thread;
  KvCache child = fork_of(cache);
  if (threads) {
    thread = std::thread(child_lives, std::move(child));
  } else {
    child_lives(std::move(child));
  }
  EXPECT_TRUE(add(cache, rows, 60, 90));
  append_to(&all, kv_everything(cache, 4));
  EXPECT_TRUE(cache.truncate(kExact + kShared - 9).ok());
  EXPECT_TRUE(add(cache, rows, 90, 120));
  append_to(&all, kv_everything(cache, 5));
  if (thread.joinable()) thread.join();
  append_to(&all, of_child);
  return all;
}

TEST(KvCacheThreads, ConstCallsOnOneCache) {
  int compared = 0;
  for (const KvScheme& s : schemes()) {
    const KvCache cache = make_base(s);
    std::vector<std::vector<float>> expected(kThreads), read(kThreads), of_fork(kThreads);
    for (const bool threads : {false, true}) {
      run(threads, [&](int i) {
        const auto at = static_cast<std::size_t>(i);
        const auto seed = static_cast<std::uint64_t>(10 * i);
        (threads ? read : expected)[at] = kv_everything(cache, seed, 7 + i);
        if (threads) of_fork[at] = kv_everything(fork_of(cache), seed, 7 + i);
      });
    }
    for (std::size_t i = 0; i < kThreads; ++i, ++compared) {
      ASSERT_FALSE(expected[i].empty());
      EXPECT_TRUE(bits_equal(read[i], expected[i])) << s.bits << " " << i;
      EXPECT_TRUE(bits_equal(of_fork[i], expected[i])) << s.bits << " " << i;
    }
  }
  EXPECT_EQ(compared, 3 * kThreads);
}

// The first owner is the one that was forked from: nobody has to outlive anybody.
TEST(KvCacheThreads, ForksLiveAsIfAlone) {
  std::vector<KvRows> rows;
  for (int i = 0; i < kThreads; ++i) {
    rows.emplace_back(120, kHeads, kSize, 20 + static_cast<std::uint64_t>(i));
  }
  int compared = 0;
  for (const KvScheme& s : schemes()) {
    std::vector<std::vector<float>> expected(kThreads);
    run(false, [&](int i) {
      const auto at = static_cast<std::size_t>(i);
      expected[at] = live(make_base(s), rows[at], false);
    });
    for (int round = 0; round < kRounds; ++round) {
      std::vector<KvCache> caches;
      caches.push_back(make_base(s));
      while (caches.size() < kThreads) caches.push_back(fork_of(caches[0]));
      std::vector<std::vector<float>> got(kThreads);
      run(true, [&](int i) {
        const auto at = static_cast<std::size_t>(i);
        got[at] = live(std::move(caches[at]), rows[at], true);
      });
      for (std::size_t i = 0; i < kThreads; ++i, ++compared) {
        ASSERT_TRUE(bits_equal(got[i], expected[i])) << s.bits << " " << round << " " << i;
      }
    }
  }
  EXPECT_EQ(compared, 3 * kRounds * kThreads);
}

// Two owners of one page, of which one reads it and goes: the other may then write into that very
// page, but not while it is read.
TEST(KvCacheThreads, TheLastOwnerWritesInPlace) {
  const KvRows rows(20, kHeads, kSize, 30);
  int compared = 0;
  for (const KvScheme& s : schemes()) {
    KvCache alone = make_base(s);
    const std::vector<float> before = kv_everything(alone, 6);
    ASSERT_TRUE(add(alone, rows, 0, 20));
    const std::vector<float> after = kv_everything(alone, 6);
    for (int round = 0; round < 4 * kRounds; ++round) {
      KvCache writer = make_base(s), reader = fork_of(writer);
      std::vector<float> read;
      std::thread thread([&read, reader = std::move(reader)] { read = kv_everything(reader, 6); });
      for (int token = 0; token < 20; ++token) EXPECT_TRUE(add(writer, rows, token, token + 1));
      const std::vector<float> written = kv_everything(writer, 6);
      thread.join();
      EXPECT_TRUE(bits_equal(read, before)) << s.bits << " " << round;
      EXPECT_TRUE(bits_equal(written, after)) << s.bits << " " << round;
      ++compared;
    }
  }
  EXPECT_EQ(compared, 3 * 4 * kRounds);
}

}  // namespace
