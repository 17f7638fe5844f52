// Status and Result: how every entry point reports what went wrong.
//
// A Status is a few plain fields, so returning one allocates nothing; message() formats them and
// may allocate. It names the argument, the rule it broke, the value found and the limit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "rrs/core/config.hpp"

RRS_TYPES_BEGIN

enum class StatusCode : std::uint8_t {
  kOk = 0,
  kInvalidArgument,  // null view, short stride, mismatched shape, overlap, ...
  kInvalidScheme,    // a field of Scheme has a value that does not exist
  kWorkspaceTooSmall,
  kOutOfMemory,
  kUnsupportedIsa,  // RRS_ISA or a per-call level is unknown, or this CPU lacks it
  kCorruptData,     // a serialized weight that does not verify
  kNonFinite,       // a row held NaN or Inf (value = its index): its output row is NaN
  kSimulatedOnly,   // the scheme has no integer GEMM; it lives in reference/
};

// Name of a code, for messages.
RRS_FORCE_INLINE const char* code_name(StatusCode code) noexcept {
  switch (code) {
    case StatusCode::kOk: return "ok";
    case StatusCode::kInvalidArgument: return "invalid argument";
    case StatusCode::kInvalidScheme: return "invalid scheme";
    case StatusCode::kWorkspaceTooSmall: return "workspace too small";
    case StatusCode::kOutOfMemory: return "out of memory";
    case StatusCode::kUnsupportedIsa: return "unsupported ISA";
    case StatusCode::kCorruptData: return "corrupt data";
    case StatusCode::kNonFinite: return "non-finite input";
    case StatusCode::kSimulatedOnly: return "simulated only";
  }
  return "unknown status";
}

// All pointers refer to static text. `text` is set where the offending value is a string.
struct [[nodiscard]] Status {
  StatusCode code = StatusCode::kOk;
  const char* argument = "";  // the argument or field, e.g. "X.row_stride"
  const char* rule = "";      // what must hold, e.g. "must be at least X.cols"
  std::int64_t value = 0;     // what was found
  std::int64_t limit = 0;     // the bound it broke
  const char* text = nullptr;

  RRS_MEMBER bool ok() const noexcept { return code == StatusCode::kOk; }
  RRS_MEMBER explicit operator bool() const noexcept { return ok(); }

  // "invalid argument: X.row_stride must be at least X.cols (found 3, limit 4)".
  RRS_MEMBER std::string message() const {
    if (ok()) return "ok";
    std::string out = std::string(code_name(code)) + ": " + argument + " " + rule;
    if (text != nullptr) return out + " (found '" + text + "')";
    return out + " (found " + std::to_string(value) + ", limit " + std::to_string(limit) + ")";
  }
};

// A value or the reason why there is none. value() requires ok().
template <class T>
class [[nodiscard]] Result {
 public:
  RRS_MEMBER Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit by design
  RRS_MEMBER Result(Status status) : status_(status) {}     // NOLINT: implicit by design

  RRS_MEMBER bool ok() const noexcept { return value_.has_value(); }
  RRS_MEMBER explicit operator bool() const noexcept { return ok(); }
  RRS_MEMBER const Status& status() const noexcept { return status_; }
  RRS_MEMBER T& value() noexcept { return *value_; }
  RRS_MEMBER const T& value() const noexcept { return *value_; }
  RRS_MEMBER T& operator*() noexcept { return *value_; }
  RRS_MEMBER const T& operator*() const noexcept { return *value_; }
  RRS_MEMBER T* operator->() noexcept { return &*value_; }
  RRS_MEMBER const T* operator->() const noexcept { return &*value_; }

 private:
  Status status_{};
  std::optional<T> value_{};
};

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

// kInvalidArgument: `argument` broke `rule` with `value`; names and rules are string literals.
inline Status invalid_argument(const char* argument, const char* rule, std::int64_t value,
                               std::int64_t limit) noexcept {
  return Status{StatusCode::kInvalidArgument, argument, rule, value, limit, nullptr};
}

// kInvalidScheme: `field` of a scheme broke `rule` with `value`.
inline Status invalid_scheme(const char* field, const char* rule, std::int64_t value,
                             std::int64_t limit) noexcept {
  return Status{StatusCode::kInvalidScheme, field, rule, value, limit, nullptr};
}

namespace detail {

// checked_product where the compiler has no builtin for it.
RRS_FORCE_INLINE bool portable_product(std::int64_t a, std::int64_t b, std::int64_t* out) noexcept {
  if (a < 0 || b < 0 || (b != 0 && a > INT64_MAX / b)) return false;
  *out = a * b;
  return true;
}

}  // namespace detail

// a * b for non-negative sizes, or false when it exceeds int64.
RRS_FORCE_INLINE bool checked_product(std::int64_t a, std::int64_t b, std::int64_t* out) noexcept {
#if defined(__GNUC__) || defined(__clang__)
  return !__builtin_mul_overflow(a, b, out);
#else
  return detail::portable_product(a, b, out);
#endif
}

RRS_FUNCTIONS_END
