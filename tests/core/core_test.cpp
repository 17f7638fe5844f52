// Status, views, schemes, presets, CPU detection and dispatch.
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "rrs/core/dispatch.hpp"
#include "rrs/core/presets.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/view.hpp"
#include "support/each_isa.hpp"

namespace {

TEST(Status, MessageNamesArgumentValueAndLimit) {
  const rrs::Status status = rrs::invalid_argument("X.row_stride", "must be at least X.cols", 3, 4);
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(status.message(),
            "invalid argument: X.row_stride must be at least X.cols (found 3, limit 4)");
  EXPECT_EQ(rrs::Status{}.message(), "ok");
}

TEST(Status, ProductsAreCheckedWithoutABuiltinToo) {
  const std::int64_t most = INT64_MAX;
  std::vector<std::int64_t> values{0,          1,          2,        3,        1 << 16,
                                   3037000499, 3037000500, most / 7, most / 2, most / 2 + 1,
                                   most - 1,   most};
  int cases = 0, refused = 0;
  for (const std::int64_t a : values) {
    for (const std::int64_t b : values) {
      std::int64_t fast = -1, portable = -1;
      const bool fits = rrs::checked_product(a, b, &fast);
      ASSERT_EQ(rrs::detail::portable_product(a, b, &portable), fits) << a << " * " << b;
      if (fits) {
        EXPECT_EQ(fast, portable);
      }
      refused += fits ? 0 : 1;
      ++cases;
    }
  }
  EXPECT_EQ(cases, 144);
  EXPECT_GE(refused, 40);
  std::int64_t unused = 0;
  EXPECT_FALSE(rrs::detail::portable_product(-1, 1, &unused));
}

TEST(Version, IsTheSameForMacrosAndFunction) {
  EXPECT_EQ(rrs::version(), RRS_VERSION);
  EXPECT_EQ(rrs::version(),
            10000 * RRS_VERSION_MAJOR + 100 * RRS_VERSION_MINOR + RRS_VERSION_PATCH);
}

TEST(View, RefusesWhatCannotBe) {
  float x = 0.0f;
  const auto check = [](const rrs::MatrixView<const float>& view, const char* argument) {
    const rrs::Status status = rrs::validate_view(rrs::erase(view), rrs::kNamesX);
    EXPECT_EQ(status.code, rrs::StatusCode::kInvalidArgument);
    EXPECT_STREQ(status.argument, argument);
  };
  check({&x, -1, 1}, "X.rows");
  check({&x, 1, -1}, "X.cols");
  check({&x, 1, 4, 3}, "X.row_stride");
  check({nullptr, 1, 1}, "X.data");
  check({&x, INT64_MAX / 2, 4, 4}, "X.row_stride");
  check({&x, INT64_MAX / 4, 2, 2}, "X.row_stride");  // fits elements, not bytes
  EXPECT_TRUE(
      rrs::validate_view(rrs::erase(rrs::MatrixView<const float>(nullptr, 0, 5)), rrs::kNamesX)
          .ok());
  EXPECT_TRUE(
      rrs::validate_view(rrs::erase(rrs::MatrixView<const float>(nullptr, 5, 0)), rrs::kNamesX)
          .ok());
}

TEST(View, OverlapIsByteExact) {
  float x[8] = {};
  EXPECT_TRUE(rrs::ranges_overlap(x, 16, x + 3, 4));
  EXPECT_FALSE(rrs::ranges_overlap(x, 16, x + 4, 4));
  EXPECT_FALSE(rrs::ranges_overlap(x, 0, x, 4));
}

TEST(Presets, AllAreValidDistinctAndFoundByName) {
  std::set<std::string> names;
  rrs::presets::for_each([&](const rrs::NamedPreset& preset) {
    names.insert(preset.name);
    const rrs::Status status = rrs::validate(preset.scheme, 576);
    EXPECT_EQ(status.ok(), !preset.scheme.simulated) << preset.name << ": " << status.message();
    std::string dashed = preset.name;
    for (char& c : dashed) c = c == '_' ? '-' : c;
    EXPECT_TRUE(rrs::presets::by_name(dashed.c_str()).ok()) << dashed;
  });
  EXPECT_EQ(names.size(), rrs::presets::kCount);
  EXPECT_FALSE(rrs::presets::by_name("rr").ok());
  EXPECT_FALSE(rrs::presets::by_name("rrsx").ok());
  EXPECT_FALSE(rrs::presets::by_name(nullptr).ok());
  EXPECT_NE(rrs::presets::by_name("nope").status().message().find("'nope'"), std::string::npos);
}

// Every value that does not exist is refused, and the field is named.
TEST(Scheme, RefusesWhatDoesNotExist) {
  int checked = 0;
  const auto check = [&](const char* field, auto change) {
    rrs::Scheme s;
    change(s);
    const rrs::Status status = rrs::validate(s, 4096);
    EXPECT_EQ(status.code, rrs::StatusCode::kInvalidScheme) << field;
    EXPECT_STREQ(status.argument, field);
    ++checked;
  };
  for (int bits : {-4, 0, 1, 9, 12, 15, 17, 32}) {
    check("activation.bits", [&](rrs::Scheme& s) { s.activation.bits = bits; });
  }
  for (int bits : {-1, 0, 2, 3, 5, 6, 7, 16}) {
    check("weight.bits", [&](rrs::Scheme& s) { s.weight.bits = bits; });
  }
  for (int group : {-32, 1, 8, 24, 48, 96, 512}) {
    check("activation.group", [&](rrs::Scheme& s) { s.activation.group = group; });
    check("weight.group", [&](rrs::Scheme& s) { s.weight.group = group; });
  }
  for (int block : {-32, 0, 8, 48, 512}) {
    check("rotation.block", [&](rrs::Scheme& s) { s.rotation.block = block; });
  }
  for (float clip : {-1.0f, 0.0f, 1.5f, std::nanf(""), INFINITY}) {
    check("activation.clip", [&](rrs::Scheme& s) { s.activation.clip = clip; });
  }
  check("activation.window.rows", [](rrs::Scheme& s) {
    s.activation.window = {rrs::WindowKind::kRows, 0};
  });
  check("activation.token_scale", [](rrs::Scheme& s) { s.activation.token_scale = false; });
  check("activation.floor", [](rrs::Scheme& s) { s.activation.floor = -1.0f; });
  check("activation.exact_reference", [](rrs::Scheme& s) { s.activation.exact_reference = true; });
  check("rotation.kind",
        [](rrs::Scheme& s) { s.rotation.kind = static_cast<rrs::RotationKind>(7); });
  check("activation.window.kind",
        [](rrs::Scheme& s) { s.activation.window.kind = static_cast<rrs::WindowKind>(9); });
  check("activation.range",
        [](rrs::Scheme& s) { s.activation.range = static_cast<rrs::Range>(5); });
  check("weight.range", [](rrs::Scheme& s) { s.weight.range = static_cast<rrs::Range>(2); });
  check("weight.scale", [](rrs::Scheme& s) { s.weight.scale = static_cast<rrs::WeightScale>(2); });
  // exact_reference reproduces one published scheme and nothing else
  const auto published = [](rrs::Scheme& s) { s = rrs::presets::rrs_published(); };
  check("activation.range", [&](rrs::Scheme& s) {
    published(s);
    s.activation.range = rrs::Range::kFull;
  });
  check("activation.clip", [&](rrs::Scheme& s) {
    published(s);
    s.activation.clip = 0.5f;
  });
  check("activation.clip", [&](rrs::Scheme& s) {
    published(s);
    s.activation.token_scale = false;
  });
  EXPECT_EQ(checked, 52);
}

TEST(Scheme, RowGroupsBoundK) {
  const rrs::Scheme s = rrs::presets::smoothquant_w8a8();
  EXPECT_TRUE(rrs::validate(s, 131071).ok());
  const rrs::Status status = rrs::validate(s, 131072);
  EXPECT_EQ(status.limit, 131071);
  EXPECT_FALSE(rrs::validate(s, 0).ok());
  EXPECT_TRUE(rrs::validate(rrs::presets::rrs(), 1 << 20).ok());
}

rrs::CpuidSnapshot everything() {
  rrs::CpuidSnapshot cpu;
  cpu.leaf1_ecx = cpu.leaf7_ebx = cpu.leaf7_ecx = cpu.leaf7_edx = cpu.leaf7_1_eax = ~0u;
  cpu.xcr0 = ~0ull;
  return cpu;
}

TEST(Cpu, NeedsEveryBitAndTheOperatingSystem) {
  EXPECT_EQ(rrs::decode_features(everything()), rrs::kRequiredAmx | rrs::kCpuAvxVnni);
  rrs::CpuidSnapshot no_zmm = everything();
  no_zmm.xcr0 = 0x7;  // the OS saves XMM and YMM only
  EXPECT_EQ(rrs::decode_features(no_zmm), rrs::kRequiredAvxVnni);
  no_zmm.leaf7_1_eax = 0;  // CPUs before AVX-VNNI
  EXPECT_EQ(rrs::decode_features(no_zmm), rrs::kRequiredAvx2);
  rrs::CpuidSnapshot no_ymm = everything();
  no_ymm.xcr0 = 0x3;
  EXPECT_EQ(rrs::decode_features(no_ymm), 0u);
  rrs::CpuidSnapshot no_osxsave = everything();
  no_osxsave.leaf1_ecx &= ~(1u << 27);
  EXPECT_EQ(rrs::decode_features(no_osxsave), 0u);
  rrs::CpuidSnapshot no_f16c = everything();
  no_f16c.leaf1_ecx &= ~(1u << 29);
  EXPECT_NE(rrs::decode_features(no_f16c) & rrs::kRequiredAvx2, rrs::kRequiredAvx2);
  EXPECT_EQ(rrs::decode_features(rrs::CpuidSnapshot{}), 0u);
  for (const int bit : {17, 18}) {  // the OS saves no tile configuration, or no tile data
    rrs::CpuidSnapshot no_tiles = everything();
    no_tiles.xcr0 &= ~(1ull << bit);
    EXPECT_EQ(rrs::decode_features(no_tiles), rrs::kRequiredAvx512Vnni | rrs::kCpuAvxVnni);
  }
  for (const int bit : {24, 25}) {  // amx_tile, amx_int8
    rrs::CpuidSnapshot half = everything();
    half.leaf7_edx &= ~(1u << bit);
    EXPECT_NE(rrs::decode_features(half) & rrs::kRequiredAmx, rrs::kRequiredAmx);
    EXPECT_EQ(rrs::decode_features(half) & rrs::kRequiredAvx512Vnni, rrs::kRequiredAvx512Vnni);
  }
}

int permission_requests = 0;
bool refuse_tiles() noexcept { return ++permission_requests, false; }
bool permit_tiles() noexcept { return ++permission_requests, true; }

// The operating system is asked for tile registers only for a level that needs them, and only when
// everything else is there; its refusal makes the level unavailable and no other.
TEST(Cpu, TilesNeedThePermissionAndOnlyTheyAskForIt) {
  permission_requests = 0;
  for (const rrs::CpuFeatures lower :
       {rrs::CpuFeatures{0}, rrs::kRequiredAvx2, rrs::kRequiredAvx512, rrs::kRequiredAvx512Vnni}) {
    EXPECT_TRUE(rrs::features_suffice(rrs::kRequiredAmx, lower, &refuse_tiles));
  }
  EXPECT_FALSE(rrs::features_suffice(rrs::kRequiredAvx512Vnni, rrs::kRequiredAmx, &permit_tiles));
  EXPECT_EQ(permission_requests, 0);
  EXPECT_FALSE(rrs::features_suffice(rrs::kRequiredAmx, rrs::kRequiredAmx, &refuse_tiles));
  EXPECT_TRUE(rrs::features_suffice(rrs::kRequiredAmx, rrs::kRequiredAmx, &permit_tiles));
  EXPECT_EQ(permission_requests, 2);
}

TEST(Dispatch, TablesAreOrderedNamedAndComplete) {
  for (int i = 0; i < rrs::kIsaCount; ++i) {
    if (rrs::kTables[i] == nullptr) continue;
    EXPECT_EQ(static_cast<int>(rrs::kTables[i]->isa), i);
    EXPECT_STREQ(rrs::kTables[i]->name, rrs::kIsaNames[i]);
    EXPECT_NE(rrs::kTables[i]->gemm.w4a4.tile, nullptr);
  }
  EXPECT_EQ(rrs::isa_by_name("avx2"), rrs::Isa::kAvx2);
  EXPECT_FALSE(rrs::isa_by_name("AVX2").has_value());
  EXPECT_FALSE(rrs::isa_by_name("").has_value());
}

TEST(Dispatch, EveryLevelOfThisMachineCanBeForced) {
  std::string levels;
  rrs_test::each_isa(
      [&](const rrs::KernelTable& table) { levels += std::string(" ") + table.name; });
  std::printf("levels exercised natively:%s\n", levels.c_str());
  EXPECT_NE(levels.find("scalar"), std::string::npos);
}

TEST(Dispatch, UnsupportedLevelIsAnErrorNotAFallback) {
  const rrs::KernelTable* table = nullptr;
  int refused = 0;
  for (int i = 0; i < rrs::kIsaCount; ++i) {
    const rrs::Isa isa = static_cast<rrs::Isa>(i);
    const rrs::Status status = rrs::select_kernels(isa, &table);
    EXPECT_EQ(status.ok(), rrs::isa_supported(isa));
    if (!status.ok()) {
      EXPECT_EQ(status.code, rrs::StatusCode::kUnsupportedIsa);
      ++refused;
    }
  }
  EXPECT_EQ(refused, rrs::kIsaCount - static_cast<int>(rrs_test::supported_isas().size()));
  EXPECT_FALSE(rrs::select_kernels(static_cast<rrs::Isa>(200), &table).ok());
}

}  // namespace
