// One workspace for calls of different rotations, K and M: tables kept from the last call must
// never change a bit.
#include <gtest/gtest.h>

#include <cstring>
#include <utility>
#include <vector>

#include "support/layer.hpp"

namespace {

using rrs_test::LayerData;

struct Case {
  LayerData data;
  rrs::PreparedWeight weight;
  std::vector<float> expected;
};

Case make_case(rrs::Rotation rotation, std::int64_t k, std::int64_t m, std::uint64_t seed) {
  rrs::Scheme scheme;
  scheme.rotation = rotation;
  Case c{rrs_test::make_layer(m, 32, k, seed), {}, {}};
  c.weight = rrs_test::prepare(c.data, scheme);
  c.expected = rrs_test::run_layer(c.data.X(), c.weight);
  return c;
}

rrs::Rotation full(bool signs = false, std::uint64_t seed = 0) {
  return rrs::Rotation{rrs::RotationKind::kFull, 32, signs, seed};
}

rrs::Rotation blocks(bool signs, std::uint64_t seed) {
  return rrs::Rotation{rrs::RotationKind::kBlock, 32, signs, seed};
}

// Neighbours differ in one thing: K, M, the kind, the signs, the seed.
std::vector<Case> make_cases() {
  std::vector<Case> all;
  all.push_back(make_case(full(), 96, 3, 1));
  all.push_back(make_case(full(), 96, 40, 2));
  all.push_back(make_case(full(), 160, 3, 3));
  all.push_back(make_case(full(true, 1), 96, 3, 4));
  all.push_back(make_case(full(true, 2), 96, 3, 5));
  all.push_back(make_case(blocks(true, 2), 96, 3, 6));
  all.push_back(make_case(blocks(false, 2), 96, 3, 7));
  all.push_back(make_case(rrs::Rotation{rrs::RotationKind::kNone, 32, false, 0}, 96, 3, 8));
  return all;
}

void expect_same(const Case& c, rrs::Workspace& ws) {
  std::vector<float> y(c.expected.size());
  const rrs::Status status =
      rrs::linear(c.data.X(), c.weight, rrs::MatrixView<float>(y.data(), c.data.m, c.data.n), ws);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(std::memcmp(y.data(), c.expected.data(), y.size() * sizeof(float)), 0);
}

constexpr std::size_t kBytes = std::size_t{1} << 20;

TEST(Workspace, EveryOrderOfCallsGivesTheSameBytes) {
  const std::vector<Case> cases = make_cases();
  rrs::Workspace ws(kBytes);
  int calls = 0;
  for (const Case& first : cases) {
    for (const Case& second : cases) {
      for (const Case* c : {&first, &second, &second}) {
        expect_same(*c, ws);
        ++calls;
      }
    }
  }
  EXPECT_EQ(calls, 8 * 8 * 3);
}

TEST(Workspace, MemoryThatWasLentIsNotTrusted) {
  const Case c = make_case(full(true, 1), 96, 3, 4);
  rrs::Workspace ws(kBytes);
  expect_same(c, ws);
  std::byte* memory = ws.data();
  std::memset(memory, 255, kBytes);
  expect_same(c, ws);
  std::memset(memory, 255, kBytes);  // the address is still known
  expect_same(c, ws);
}

TEST(Workspace, BorrowedMemoryIsNotTrusted) {
  const Case c = make_case(full(true, 1), 96, 3, 4);
  std::vector<std::byte> memory(kBytes);
  rrs::Workspace ws(memory.data(), memory.size());
  for (int i = 0; i < 3; ++i) {
    std::memset(memory.data(), 255, memory.size());
    expect_same(c, ws);
  }
}

TEST(Workspace, MovesWithItsTables) {
  const Case a = make_case(full(true, 1), 96, 3, 4);
  const Case b = make_case(full(true, 2), 96, 3, 5);
  rrs::Workspace one(kBytes), two(kBytes);
  expect_same(a, one);
  expect_same(b, two);
  rrs::Workspace moved = std::move(one);
  EXPECT_EQ(one.bytes(), 0u);  // NOLINT: a moved-from workspace is empty
  expect_same(a, moved);
  moved = std::move(two);
  expect_same(b, moved);
  expect_same(a, moved);
}

}  // namespace
