// MatrixView: a non-owning row-major matrix (pointer, rows, cols, row stride in elements).
//
// Any alignment of at least the element's own. Sizes are signed 64-bit so that a negative or
// overflowing size can be seen; validate_view refuses these, and an address between elements.
// Row-major Eigen maps, matrices and refs convert implicitly; Eigen itself is not needed here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "rrs/core/config.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/types.hpp"

RRS_TYPES_BEGIN

template <class T>
struct MatrixView {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t row_stride = 0;  // elements between the starts of two rows, >= cols

  MatrixView() = default;
  RRS_MEMBER MatrixView(T* data_, std::int64_t rows_, std::int64_t cols_) noexcept
      : data(data_), rows(rows_), cols(cols_), row_stride(cols_) {}
  RRS_MEMBER MatrixView(T* data_, std::int64_t rows_, std::int64_t cols_,
                        std::int64_t row_stride_) noexcept
      : data(data_), rows(rows_), cols(cols_), row_stride(row_stride_) {}

  // From a view of non-const elements.
  template <class U, class = std::enable_if_t<std::is_same<const U, T>::value>>
  RRS_MEMBER MatrixView(const MatrixView<U>& other) noexcept  // NOLINT: implicit by design
      : data(other.data), rows(other.rows), cols(other.cols), row_stride(other.row_stride) {}

  // From a row-major Eigen expression with storage (or anything shaped like one).
  template <class E, class = std::enable_if_t<
                         bool(std::remove_reference_t<E>::IsRowMajor) &&
                         std::is_convertible<decltype(std::declval<E&>().data()), T*>::value>>
  RRS_MEMBER MatrixView(E&& e) noexcept  // NOLINT: implicit by design
      : data(e.data()), rows(e.rows()), cols(e.cols()), row_stride(e.outerStride()) {}

  // First element of row i; i is not checked.
  RRS_MEMBER T* row(std::int64_t i) const noexcept { return data + i * row_stride; }
};

// A view whose element type is a run-time value: what the ISA-free drivers take.
struct ErasedView {
  const void* data = nullptr;
  ElementType type = ElementType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t row_stride = 0;

  RRS_MEMBER std::int64_t element_bytes() const noexcept {
    return type == ElementType::kF32 ? 4 : 2;
  }
  // First byte of row i; i is not checked.
  RRS_MEMBER const std::byte* row(std::int64_t i) const noexcept {
    return static_cast<const std::byte*>(data) + i * row_stride * element_bytes();
  }
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// A view of the same matrix with its element type as a value: what non-template code takes.
template <class T>
ErasedView erase(const MatrixView<T>& view) noexcept {
  return ErasedView{view.data, ElementTypeOf<std::remove_const_t<T>>::value, view.rows, view.cols,
                    view.row_stride};
}

// Names used in messages: "X", "W", "Y".
struct ViewNames {
  const char* data;
  const char* rows;
  const char* cols;
  const char* row_stride;
};
inline constexpr ViewNames kNamesX{"X.data", "X.rows", "X.cols", "X.row_stride"};
inline constexpr ViewNames kNamesW{"W.data", "W.rows", "W.cols", "W.row_stride"};
inline constexpr ViewNames kNamesY{"Y.data", "Y.rows", "Y.cols", "Y.row_stride"};

namespace detail {

// validate_view for elements of any type: only the pointer and the sizes of `view` are looked at.
inline Status validate_elements(const ErasedView& view, std::int64_t element_bytes,
                                std::int64_t alignment, const ViewNames& names) noexcept {
  if (view.rows < 0) return invalid_argument(names.rows, "must not be negative", view.rows, 0);
  if (view.cols < 0) return invalid_argument(names.cols, "must not be negative", view.cols, 0);
  if (view.row_stride < view.cols) {
    return invalid_argument(names.row_stride, "must be at least the number of columns",
                            view.row_stride, view.cols);
  }
  std::int64_t extent = 0;
  if (!checked_product(view.rows, view.row_stride, &extent) ||
      !checked_product(extent, element_bytes, &extent)) {
    return invalid_argument(names.row_stride, "times rows must fit 63 bits of bytes",
                            view.row_stride, INT64_MAX);
  }
  if (view.rows == 0 || view.cols == 0) return Status{};
  if (view.data == nullptr) {
    return invalid_argument(names.data, "must not be null when the view has elements", 0, 1);
  }
  const auto beyond = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(view.data) %
                                                static_cast<std::uintptr_t>(alignment));
  if (beyond != 0) {
    return invalid_argument(names.data,
                            "must be aligned to an element (found: address modulo that)", beyond,
                            alignment);
  }
  return Status{};
}

}  // namespace detail

// Non-negative sizes, stride >= cols, no null data with elements, byte extent within int64, data
// aligned to an element.
inline Status validate_view(const ErasedView& view, const ViewNames& names) noexcept {
  const std::int64_t bytes = view.element_bytes();
  return detail::validate_elements(view, bytes, bytes, names);
}
// The same for elements of any type: codes, or double.
template <class T>
Status validate_view(const MatrixView<T>& view, const ViewNames& names) noexcept {
  return detail::validate_elements(
      ErasedView{view.data, ElementType::kF32, view.rows, view.cols, view.row_stride},
      static_cast<std::int64_t>(sizeof(T)), static_cast<std::int64_t>(alignof(T)), names);
}

// Bytes from the first to one past the last element; 0 when empty.
inline std::int64_t extent_bytes(const ErasedView& view) noexcept {
  if (view.rows == 0 || view.cols == 0) return 0;
  return ((view.rows - 1) * view.row_stride + view.cols) * view.element_bytes();
}

// True when two byte ranges share a byte.
inline bool ranges_overlap(const void* a, std::int64_t a_bytes, const void* b,
                           std::int64_t b_bytes) noexcept {
  if (a_bytes <= 0 || b_bytes <= 0) return false;
  const auto a0 = reinterpret_cast<std::uintptr_t>(a);
  const auto b0 = reinterpret_cast<std::uintptr_t>(b);
  return a0 < b0 + static_cast<std::uintptr_t>(b_bytes) &&
         b0 < a0 + static_cast<std::uintptr_t>(a_bytes);
}

RRS_FUNCTIONS_END
