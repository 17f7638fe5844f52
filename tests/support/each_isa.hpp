// Runs a body at every level that this machine has, and proves which ones ran.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "rrs/core/dispatch.hpp"

namespace rrs_test {

// Levels this CPU supports, scalar first.
inline std::vector<rrs::Isa> supported_isas() {
  std::vector<rrs::Isa> isas;
  for (int i = 0; i < rrs::kIsaCount; ++i) {
    if (rrs::isa_supported(static_cast<rrs::Isa>(i))) isas.push_back(static_cast<rrs::Isa>(i));
  }
  return isas;
}

inline const rrs::KernelTable& table_of(rrs::Isa isa) {
  return *rrs::kTables[static_cast<int>(isa)];
}

// Calls body(table) once per level. The levels are recorded as test properties and checked: each
// table must be the one asked for, so that a skipped level cannot look green.
template <class Body>
void each_isa(const Body& body) {
  int ran = 0;
  for (const rrs::Isa isa : supported_isas()) {
    rrs::ForceIsa force(isa);
    const rrs::KernelTable* table = nullptr;
    ASSERT_TRUE(rrs::select_kernels(std::nullopt, &table).ok());
    ASSERT_EQ(table->isa, isa);
    SCOPED_TRACE(table->name);
    body(*table);
    ++ran;
  }
  ASSERT_EQ(ran, static_cast<int>(supported_isas().size()));
  ASSERT_GE(ran, 1);
  ::testing::Test::RecordProperty("isa_levels", ran);
}

}  // namespace rrs_test
