// Rotation of a whole matrix: Y = X D H and back, the public entries.
//
//   y[t,:] = x[t,:] D H,   D random signs (optional),   H orthonormal and symmetric (Rotation)
//
// Shapes: X [M,K] f32, f16 or bf16, any row stride and alignment; Y [M,K] f32, row stride >= K, not
// overlapping X. Numerics, bound and cost: rotate_row.hpp; plans of an order: hadamard.hpp.
// Papers: QuaRot (Ashkboos et al. 2024) and RRS (Yi et al. 2024) for rotating activations and
// weights; R. Paley, On orthogonal matrices, 1933, for the orders.
//
// from: the caller.  to: anything that wants rotated f32; the pipeline itself uses rotate_row.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "rrs/core/config.hpp"
#include "rrs/core/dispatch.hpp"
#include "rrs/core/executor.hpp"
#include "rrs/core/scheme.hpp"
#include "rrs/core/status.hpp"
#include "rrs/core/view.hpp"
#include "rrs/rotate/rotate_row.hpp"

RRS_TYPES_BEGIN

namespace internal {

// At most this many tasks per call, each with its own scratch.
inline constexpr std::int64_t kMaxRotateTasks = 64;

// One call, after validation. Tasks share it by reference.
struct RotateJob {
  const KernelTable* table = nullptr;
  ErasedView x;
  MatrixView<float> y;
  RotationPlan plan;
  bool inverse = false;
  std::int64_t tasks = 0;
  std::int64_t scratch_floats = 0;
  float* scratch = nullptr;
};

}  // namespace internal

RRS_TYPES_END

RRS_FUNCTIONS_BEGIN

namespace detail {

inline std::int64_t rotate_tasks(std::int64_t rows) noexcept {
  return rows < internal::kMaxRotateTasks ? rows : internal::kMaxRotateTasks;
}

// Integer test, so that -ffast-math cannot remove it: adding one to the exponent field of a
// non-finite value, and of no other, carries into the sign bit. Runs of 16 so that compilers
// vectorise it.
inline bool all_finite(const float* x, std::int64_t n) noexcept {
  std::uint32_t carry = 0;
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; ++j) carry |= (float_bits(x[i + j]) & 0x7fffffffu) + 0x00800000u;
  }
  for (; i < n; ++i) carry |= (float_bits(x[i]) & 0x7fffffffu) + 0x00800000u;
  return (carry & 0x80000000u) == 0;
}

inline void rotate_one(const internal::RotateJob& job, std::int64_t row, float* scratch,
                       std::atomic<std::int64_t>* first_bad) noexcept {
  float* y = job.y.row(row);
  load_row(*job.table, job.x, row, LayerChannels{}, ChannelUse::kActivation, y, nullptr);
  if (job.inverse) {
    inverse_rotate_row(*job.table, job.plan, y, scratch);
  } else {
    rotate_row(*job.table, job.plan, y, scratch);
  }
  if (all_finite(y, job.plan.k)) return;
  for (std::int64_t k = 0; k < job.plan.k; ++k) y[k] = float_from_bits(0x7fc00000u);
  std::int64_t seen = first_bad->load(std::memory_order_relaxed);
  while (row < seen && !first_bad->compare_exchange_weak(seen, row, std::memory_order_relaxed)) {
  }
}

// Task t rotates rows t, t + tasks, ...
inline void rotate_task(const internal::RotateJob& job, std::int64_t t,
                        std::atomic<std::int64_t>* first_bad) noexcept {
  float* scratch = job.scratch + t * job.scratch_floats;
  for (std::int64_t row = t; row < job.x.rows; row += job.tasks) {
    rotate_one(job, row, scratch, first_bad);
  }
}

inline Status validate_rotate(const ErasedView& x, const Rotation& rotation,
                              const MatrixView<float>& y) noexcept {
  if (Status status = validate_view(x, kNamesX); !status) return status;
  if (Status status = validate_view(erase(y), kNamesY); !status) return status;
  if (y.rows != x.rows) return invalid_argument("Y.rows", "must equal X.rows", y.rows, x.rows);
  if (y.cols != x.cols) return invalid_argument("Y.cols", "must equal X.cols", y.cols, x.cols);
  if (Status status = validate(rotation, x.cols); !status) return status;
  if (ranges_overlap(x.data, extent_bytes(x), y.data, extent_bytes(erase(y)))) {
    return invalid_argument("Y.data", "must not overlap X", 0, 0);
  }
  return Status{};
}

}  // namespace detail

// Bytes of workspace that rotate and inverse_rotate need for `rows` rows of k inputs; 0 when the
// rotation is not valid for k (rotate then says why).
inline std::size_t rotate_workspace_bytes(std::int64_t rows, std::int64_t k,
                                          const Rotation& rotation) noexcept {
  if (rows < 1 || !validate(rotation, k)) return 0;
  const RotationPlan plan = plan_rotation(rotation, k);
  const std::int64_t floats = detail::rotate_tasks(rows) * rotation_scratch_floats(plan);
  return 64 + rotation_tables_bytes(plan) + static_cast<std::size_t>(floats) * sizeof(float);
}

namespace detail {

template <class Executor>
Status run_rotate(const ErasedView& x, const Rotation& rotation, const MatrixView<float>& y,
                  bool inverse, void* workspace, std::size_t bytes, const Executor& executor) {
  internal::RotateJob job;
  if (Status status = select_kernels(std::nullopt, &job.table); !status) return status;
  if (Status status = validate_rotate(x, rotation, y); !status) return status;
  if (x.rows == 0) return Status{};
  const std::size_t needed = rotate_workspace_bytes(x.rows, x.cols, rotation);
  if (workspace == nullptr || bytes < needed) {
    return Status{StatusCode::kWorkspaceTooSmall,
                  "bytes",
                  "must be at least rotate_workspace_bytes",
                  static_cast<std::int64_t>(workspace == nullptr ? 0 : bytes),
                  static_cast<std::int64_t>(needed),
                  nullptr};
  }
  const auto address = static_cast<std::int64_t>(needed);
  if (ranges_overlap(workspace, address, x.data, extent_bytes(x)) ||
      ranges_overlap(workspace, address, y.data, extent_bytes(erase(y)))) {
    return invalid_argument("workspace", "must not overlap X or Y", 0, 0);
  }
  std::byte* memory = static_cast<std::byte*>(workspace);
  memory += (64 - reinterpret_cast<std::uintptr_t>(memory) % 64) % 64;
  job.x = x;
  job.y = y;
  job.inverse = inverse;
  job.plan = plan_rotation(rotation, x.cols);
  build_rotation_tables(&job.plan, memory);
  job.tasks = rotate_tasks(x.rows);
  job.scratch_floats = rotation_scratch_floats(job.plan);
  job.scratch = reinterpret_cast<float*>(memory + rotation_tables_bytes(job.plan));
  std::atomic<std::int64_t> first_bad{INT64_MAX};
  run_tasks(executor, job.tasks,
            [&job, &first_bad](std::int64_t t) noexcept { rotate_task(job, t, &first_bad); });
  const std::int64_t bad = first_bad.load(std::memory_order_relaxed);
  if (bad == INT64_MAX) return Status{};
  return Status{StatusCode::kNonFinite, "X", "must be finite, also when rotated", bad, 0, nullptr};
}

}  // namespace detail

// Y = X D H. `workspace`: rotate_workspace_bytes(M, K, rotation) bytes, any alignment.
// Errors leave Y untouched, except kNonFinite: rows that hold NaN or Inf, or overflow in the
// rotation, are quiet NaN in Y, all others are as if those were absent, and value is the first such
// row. `executor` (core/executor.hpp) runs up to 64 tasks. Result bits depend on neither it nor M.
template <class T, class Executor = SerialExecutor>
Status rotate(const MatrixView<T>& X, const Rotation& rotation, const MatrixView<float>& Y,
              void* workspace, std::size_t bytes, const Executor& executor = Executor{}) {
  return detail::run_rotate(erase(X), rotation, Y, false, workspace, bytes, executor);
}

// Y = X H D, the inverse of rotate; the rest as there.
template <class T, class Executor = SerialExecutor>
Status inverse_rotate(const MatrixView<T>& X, const Rotation& rotation, const MatrixView<float>& Y,
                      void* workspace, std::size_t bytes, const Executor& executor = Executor{}) {
  return detail::run_rotate(erase(X), rotation, Y, true, workspace, bytes, executor);
}

RRS_FUNCTIONS_END
