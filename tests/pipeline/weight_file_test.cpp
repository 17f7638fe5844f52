// pipeline/weight_file.hpp: exact round trips, and every kind of damage is refused.
#include "rrs/pipeline/weight_file.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "rrs/core/presets.hpp"
#include "rrs/pipeline/weight.hpp"
#include "rrs/reference/pack.hpp"
#include "support/compare.hpp"
#include "support/random.hpp"

namespace {

using rrs::AlignedBuffer;
using rrs::MatrixView;
using rrs::PreparedWeight;
using rrs::Scheme;
using rrs::StatusCode;
using rrs::WeightView;
using Header = rrs::detail::WeightFileHeader;

PreparedWeight make_weight(std::int64_t n, std::int64_t k, const Scheme& s) {
  const std::vector<float> w = rrs_test::normal_vector(n * k, 21);
  auto prepared = rrs::prepare_weight(MatrixView<const float>(w.data(), n, k), s);
  EXPECT_TRUE(prepared.ok()) << prepared.status().message();
  return std::move(*prepared);
}

PreparedWeight make_offset_weight(std::int64_t n) {
  const std::vector<std::uint8_t> blocks(static_cast<std::size_t>(n * 2 * 20), 0x21);
  return std::move(*rrs::weight_from_q4_1(blocks.data(), n, 64));
}

AlignedBuffer serialize(const WeightView& w) {
  const std::size_t size = rrs::serialized_bytes(w);
  AlignedBuffer buffer(size);
  EXPECT_TRUE(rrs::serialize_weight(w, buffer.data(), size).ok());
  return buffer;
}

std::size_t size_of(const AlignedBuffer& b) { return static_cast<std::size_t>(b.size()); }

void expect_same(const WeightView& a, const WeightView& b) {
  EXPECT_EQ(a.n, b.n);
  EXPECT_EQ(a.k, b.k);
  EXPECT_EQ(a.groups, b.groups);
  EXPECT_EQ(a.panel_bytes, b.panel_bytes);
  EXPECT_EQ(a.channels_fingerprint, b.channels_fingerprint);
  const auto ra = rrs::detail::to_record(a.scheme), rb = rrs::detail::to_record(b.scheme);
  EXPECT_TRUE(rrs_test::bits_equal(reinterpret_cast<const std::byte*>(&ra),
                                   reinterpret_cast<const std::byte*>(&rb), sizeof ra));
  if (a.n == 0) return;
  const std::int64_t panels = rrs::panel_count(a.n);
  EXPECT_TRUE(
      rrs_test::bits_equal(a.panels, b.panels, static_cast<std::size_t>(panels * a.panel_bytes)));
  const auto values = static_cast<std::size_t>(panels * a.panel_scales());
  EXPECT_TRUE(rrs_test::bits_equal(a.scales, b.scales, values));
  ASSERT_EQ(a.offsets != nullptr, b.offsets != nullptr);
  if (a.offsets != nullptr) {
    EXPECT_TRUE(rrs_test::bits_equal(a.offsets, b.offsets, values));
  }
}

TEST(WeightFile, RoundTripsEveryPresetWithoutCopying) {
  int cases = 0;
  const auto check = [&](const WeightView& w) {
    const AlignedBuffer bytes = serialize(w);
    for (const rrs::Checksum mode : {rrs::Checksum::kVerify, rrs::Checksum::kSkip}) {
      const auto view = rrs::view_weight(bytes.data(), size_of(bytes), mode);
      ASSERT_TRUE(view.ok()) << view.status().message();
      expect_same(w, *view);
      if (w.n > 0) {
        EXPECT_EQ(reinterpret_cast<const std::byte*>(view->panels), bytes.data() + 320);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view->scales) % 64, 0u);
      }
    }
    EXPECT_TRUE(rrs_test::bits_equal(bytes.data(), serialize(w).data(), size_of(bytes)));
    ++cases;
  };
  rrs::presets::for_each([&](const rrs::NamedPreset& preset) {
    if (!preset.scheme.simulated) check(make_weight(19, 100, preset.scheme));
  });
  Scheme seeded;
  seeded.rotation.random_signs = true;
  seeded.rotation.sign_seed = 0x123456789abcdef0ull;
  check(make_weight(1, 1, seeded));
  check(make_weight(0, 8, Scheme{}));
  check(make_offset_weight(18));
  EXPECT_EQ(cases, 14 + 3);
}

TEST(WeightFile, TruncationAtAnyByteAndExtensionAreRefused) {
  const AlignedBuffer bytes = serialize(make_weight(17, 40, Scheme{}));
  int cases = 0;
  for (std::int64_t size = 0; size < bytes.size(); ++size, ++cases) {
    // A copy of exactly that size, so that a sanitizer sees any read beyond it.
    AlignedBuffer part(static_cast<std::size_t>(size));
    std::copy_n(bytes.data(), size, part.data());
    const auto view = rrs::view_weight(size > 0 ? part.data() : bytes.data(), size_of(part),
                                       rrs::Checksum::kSkip);
    ASSERT_EQ(view.status().code, StatusCode::kCorruptData) << size;
    ASSERT_STREQ(view.status().argument, "size");
  }
  EXPECT_EQ(cases, 320 + 2 * 320 + 2 * 2 * 16 * 2);
  AlignedBuffer more(size_of(bytes) + 64);
  std::fill_n(more.data(), more.size(), std::byte{0});
  std::copy_n(bytes.data(), bytes.size(), more.data());
  EXPECT_STREQ(rrs::view_weight(more.data(), size_of(more)).status().argument, "size");
}

TEST(WeightFile, EveryFlippedByteIsRefused) {
  AlignedBuffer bytes = serialize(make_offset_weight(3));
  int cases = 0;
  for (std::size_t i = 0; i < size_of(bytes); ++i, ++cases) {
    const std::byte old = bytes.data()[i];
    bytes.data()[i] = old ^ std::byte{static_cast<unsigned char>(1u << (i % 8))};
    const auto view = rrs::view_weight(bytes.data(), size_of(bytes));
    ASSERT_EQ(view.status().code, StatusCode::kCorruptData) << i;
    bytes.data()[i] = old;
  }
  EXPECT_EQ(cases, 320 + 512 + 64 + 128);
  EXPECT_TRUE(rrs::view_weight(bytes.data(), size_of(bytes)).ok());
}

// Headers that lie but carry a correct checksum: the field must be named, nothing read out of
// bounds.
TEST(WeightFile, LyingHeadersAreRefusedByField) {
  const AlignedBuffer bytes = serialize(make_weight(17, 40, Scheme{}));
  int cases = 0;
  const auto refused = [&](const char* field, const auto& change) {
    AlignedBuffer copy(size_of(bytes));
    std::copy_n(bytes.data(), bytes.size(), copy.data());
    Header h;
    std::memcpy(&h, copy.data(), sizeof h);
    change(&h);
    h.header_checksum = rrs::detail::header_checksum(h);
    std::memcpy(copy.data(), &h, sizeof h);
    const auto view = rrs::view_weight(copy.data(), size_of(copy), rrs::Checksum::kSkip);
    EXPECT_EQ(view.status().code, StatusCode::kCorruptData) << field;
    EXPECT_STREQ(view.status().argument, field);
    ++cases;
  };
  refused("magic", [](Header* h) { h->magic[7] = 'X'; });
  refused("byte_order", [](Header* h) { h->byte_order = 0x04030201; });
  refused("file_version", [](Header* h) { h->file_version = 2; });
  refused("layout_version", [](Header* h) { h->layout_version = 2; });
  refused("header_bytes", [](Header* h) { h->header_bytes = 256; });
  refused("N", [](Header* h) { h->n = -1; });
  refused("N", [](Header* h) { h->n = INT64_MAX; });
  refused("K", [](Header* h) { h->k = 0; });
  refused("K", [](Header* h) { h->k = INT64_MAX; });
  refused("panels_bytes", [](Header* h) { h->n = 33; });
  refused("panels_bytes", [](Header* h) {
    h->k = 64;
    h->groups = 2;
  });
  refused("groups", [](Header* h) { h->groups = 3; });
  refused("panels_bytes", [](Header* h) { h->panels_bytes = INT64_MAX; });
  refused("scales_at", [](Header* h) { h->scales_at = -64; });
  refused("scales_bytes", [](Header* h) { h->scales_bytes += 2; });
  refused("offsets_at", [](Header* h) { h->offsets_at = 1; });
  refused("offsets_bytes", [](Header* h) { h->offsets_bytes = 64; });
  refused("payload_bytes", [](Header* h) { h->payload_bytes = 1; });
  refused("rotation.kind", [](Header* h) { h->scheme.rotation_kind = 9; });
  refused("rotation.random_signs", [](Header* h) { h->scheme.rotation_signs = 2; });
  refused("rotation.block", [](Header* h) { h->scheme.rotation_block = 48; });
  refused("rotation.block", [](Header* h) { h->scheme.rotation_block = INT64_MAX; });
  refused("activation.bits", [](Header* h) { h->scheme.activation_bits = 9; });
  refused("activation.group", [](Header* h) { h->scheme.activation_group = -32; });
  refused("activation.window.kind", [](Header* h) { h->scheme.window_kind = 4; });
  refused("activation.window.rows", [](Header* h) {
    h->scheme.window_kind = static_cast<std::uint32_t>(rrs::WindowKind::kRows);
  });
  refused("activation.range", [](Header* h) { h->scheme.activation_range = 2; });
  refused("activation.clip",
          [](Header* h) { h->scheme.activation_clip = std::numeric_limits<float>::quiet_NaN(); });
  refused("activation.floor", [](Header* h) { h->scheme.activation_floor = -1.0f; });
  refused("activation.token_scale", [](Header* h) { h->scheme.activation_token_scale = 7; });
  refused("weight.bits", [](Header* h) { h->scheme.weight_bits = 6; });
  refused("weight.group", [](Header* h) { h->scheme.weight_group = 31; });
  refused("weight.range", [](Header* h) { h->scheme.weight_range = 2; });
  refused("weight.scale", [](Header* h) { h->scheme.weight_scale = 2; });
  refused("scheme.simulated", [](Header* h) { h->scheme.simulated = 1; });
  EXPECT_EQ(cases, 35);
}

TEST(WeightFile, RefusesBadArguments) {
  const PreparedWeight w = make_weight(4, 32, Scheme{});
  AlignedBuffer bytes = serialize(w);
  EXPECT_STREQ(rrs::view_weight(nullptr, 1000).status().argument, "data");
  EXPECT_STREQ(rrs::view_weight(bytes.data() + 1, size_of(bytes) - 1).status().argument, "data");
  EXPECT_STREQ(rrs::serialize_weight(w, bytes.data(), size_of(bytes) - 1).argument, "size");
  EXPECT_STREQ(rrs::serialize_weight(w, nullptr, size_of(bytes)).argument, "size");
  WeightView broken = w.view();
  broken.panel_bytes += 64;
  EXPECT_STREQ(rrs::serialize_weight(broken, bytes.data(), size_of(bytes)).argument,
               "W.panel_bytes");
  EXPECT_EQ(rrs::serialized_bytes(broken), 0u);
  broken = w.view();
  broken.groups = 2;
  EXPECT_STREQ(rrs::serialize_weight(broken, bytes.data(), size_of(bytes)).argument, "W.groups");
  broken = w.view();
  broken.scales = nullptr;
  EXPECT_STREQ(rrs::serialize_weight(broken, bytes.data(), size_of(bytes)).argument, "W.panels");
}

TEST(HashBytes, SeesEveryByteEveryLengthAndChains) {
  std::vector<std::uint8_t> data(100);
  rrs_test::Random random(4);
  for (std::uint8_t& b : data) b = static_cast<std::uint8_t>(random.bits());
  int cases = 0;
  for (std::size_t size = 0; size <= data.size(); ++size) {
    const std::uint64_t h = rrs::hash_bytes(data.data(), size);
    for (std::size_t i = 0; i < size; ++i, ++cases) {
      data[i] ^= 0x40;
      ASSERT_NE(rrs::hash_bytes(data.data(), size), h);
      data[i] ^= 0x40;
    }
    ASSERT_NE(rrs::hash_bytes(data.data(), size, 1), h);
    const std::vector<std::uint8_t> zeros(size + 1, 0);
    ASSERT_NE(rrs::hash_bytes(zeros.data(), size), rrs::hash_bytes(zeros.data(), size + 1));
    // Alignment does not matter.
    std::vector<std::uint8_t> shifted(size + 1);
    if (size > 0) std::memcpy(shifted.data() + 1, data.data(), size);
    ASSERT_EQ(rrs::hash_bytes(shifted.data() + 1, size), h);
  }
  EXPECT_EQ(cases, 100 * 101 / 2);
}

}  // namespace
