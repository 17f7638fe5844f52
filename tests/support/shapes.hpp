// The shape lists of the GEMM and layer tests: 1 to 10, powers of two and their neighbours, deep,
// shallow, narrow, one row.
#pragma once

#include <cstdint>
#include <vector>

namespace rrs_test {

struct Shape {
  std::int64_t m, n, k;
};

inline std::vector<Shape> gemm_shapes() {
  std::vector<Shape> shapes;
  for (std::int64_t i = 1; i <= 10; ++i) shapes.push_back({i, i, i});
  for (std::int64_t p : {16, 32, 64, 128}) {
    for (std::int64_t d : {-1, 0, 1}) shapes.push_back({p + d, p + d, p + d});
  }
  for (Shape s : {Shape{1, 64, 576}, Shape{1, 16, 1}, Shape{1, 17, 4099}, Shape{3, 5, 2048},
                  Shape{33, 100, 8}, Shape{70, 1, 300}, Shape{5, 200, 577}, Shape{2, 33, 1536},
                  Shape{13, 49, 31}, Shape{29, 48, 256}, Shape{15, 80, 513}}) {
    shapes.push_back(s);
  }
  return shapes;
}

}  // namespace rrs_test
