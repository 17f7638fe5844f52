// Comparisons through which NaN cannot pass, and which print the worst element with its index.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace rrs_test {

// Bit equality of two arrays of plain data; says where the first difference is.
template <class T>
::testing::AssertionResult bits_equal(const T* a, const T* b, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (std::memcmp(a + i, b + i, sizeof(T)) != 0) {
      return ::testing::AssertionFailure() << "first difference at " << i << " of " << count;
    }
  }
  return ::testing::AssertionSuccess();
}

template <class T>
::testing::AssertionResult bits_equal(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) {
    return ::testing::AssertionFailure() << "sizes " << a.size() << " and " << b.size();
  }
  return bits_equal(a.data(), b.data(), a.size());
}

// |a[i] - b[i]| <= bound for all i; a NaN on either side fails.
inline ::testing::AssertionResult within(const std::vector<float>& a, const std::vector<double>& b,
                                         double bound) {
  if (a.size() != b.size()) {
    return ::testing::AssertionFailure() << "sizes " << a.size() << " and " << b.size();
  }
  std::size_t worst = 0;
  double worst_error = -1.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double error = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(error <= bound)) {
      return ::testing::AssertionFailure() << "element " << i << ": " << a[i] << " against " << b[i]
                                           << ", error " << error << " > " << bound;
    }
    if (error > worst_error) worst = i, worst_error = error;
  }
  return ::testing::AssertionSuccess() << "worst " << worst_error << " at " << worst;
}

// ||a - b|| / ||b||; NaN when anything is NaN.
inline double relative_error(const std::vector<float>& a, const std::vector<double>& b) {
  double difference = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    difference += d * d;
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace rrs_test
