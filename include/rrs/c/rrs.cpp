// The C interface of rrs.h over the C++ library: checks sizes and enumerators, translates structs.
//
// Compile this one file into your program (or link CMake's rrs::c). Everything a caller can get
// wrong is a code and a message; allocation failures of offline calls are RRS_OUT_OF_MEMORY, also
// where they arrive as std::bad_alloc.
#include "rrs/c/rrs.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "rrs/pipeline/weight_file.hpp"
#include "rrs/rrs.hpp"

struct rrs_weight {
  rrs::PreparedWeight owned;  // empty for a view
  rrs::WeightView view;
};

namespace {

rrs_code report(const rrs::Status& status, rrs_error* error) noexcept {
  const auto code = static_cast<rrs_code>(status.code);
  if (error == nullptr) return code;
  error->code = code;
#if defined(__cpp_exceptions)
  try {
#endif
    const std::string text = status.message();
    const std::size_t length = (std::min)(text.size(), sizeof error->message - 1);
    std::memcpy(error->message, text.data(), length);
    error->message[length] = 0;
#if defined(__cpp_exceptions)
  } catch (...) {  // message() may not get its memory
    error->message[0] = 0;
  }
#endif
  return code;
}

// Runs `body`, which may allocate.
template <class Body>
rrs_code guarded(rrs_error* error, const Body& body) noexcept {
#if defined(__cpp_exceptions)
  try {
    return report(body(), error);
  } catch (...) {
    return report(rrs::Status{rrs::StatusCode::kOutOfMemory, "memory", "ran out", 0, 0, nullptr},
                  error);
  }
#else
  return report(body(), error);
#endif
}

rrs::Status null_argument(const char* name) noexcept {
  return rrs::invalid_argument(name, "must not be null", 0, 1);
}

template <class Struct>
rrs::Status check_size(const Struct* s, const char* name, const char* size_name) noexcept {
  if (s == nullptr) return null_argument(name);
  const auto size = static_cast<std::int64_t>(sizeof(Struct));
  if (s->size < size) {
    return rrs::invalid_argument(size_name, "must be at least sizeof of version 1", s->size, size);
  }
  return rrs::Status{};
}

rrs::Status check_enum(const char* name, std::int32_t value, std::int32_t last) noexcept {
  if (value >= 0 && value <= last) return rrs::Status{};
  return rrs::invalid_scheme(name, "must be one of its enumerators", value, last);
}

static_assert(static_cast<int>(rrs::StatusCode::kSimulatedOnly) == RRS_SIMULATED_ONLY, "codes");
static_assert(static_cast<int>(rrs::StatusCode::kNonFinite) == RRS_NON_FINITE, "codes");
static_assert(static_cast<int>(rrs::WindowKind::kOne) == RRS_WINDOW_ONE, "windows");
static_assert(static_cast<int>(rrs::RotationKind::kFull) == RRS_ROTATION_FULL, "rotations");
static_assert(static_cast<int>(rrs::Range::kFull) == RRS_RANGE_FULL, "ranges");
static_assert(static_cast<int>(rrs::WeightScale::kSearch) == RRS_SCALE_SEARCH, "weight scales");

rrs::Status scheme_from_c(const rrs_scheme* c, rrs::Scheme* out) noexcept {
  if (rrs::Status s = check_size(c, "scheme", "scheme.size"); !s) return s;
  const struct {
    const char* name;
    std::int32_t value, last;
  } enums[] = {{"rotation.kind", c->rotation, RRS_ROTATION_FULL},
               {"activation.window.kind", c->window, RRS_WINDOW_ONE},
               {"activation.range", c->activation_range, RRS_RANGE_FULL},
               {"weight.range", c->weight_range, RRS_RANGE_FULL},
               {"weight.scale", c->weight_scale, RRS_SCALE_SEARCH}};
  for (const auto& e : enums) {
    if (rrs::Status s = check_enum(e.name, e.value, e.last); !s) return s;
  }
  rrs::Scheme s;
  s.rotation.kind = static_cast<rrs::RotationKind>(c->rotation);
  s.rotation.block = c->rotation_block;
  s.rotation.random_signs = c->random_signs != 0;
  s.rotation.sign_seed = c->sign_seed;
  s.activation.bits = c->activation_bits;
  s.activation.window = rrs::Window{static_cast<rrs::WindowKind>(c->window), c->window_rows};
  s.activation.group = c->activation_group;
  s.activation.range = static_cast<rrs::Range>(c->activation_range);
  s.activation.clip = c->activation_clip;
  s.activation.floor = c->activation_floor;
  s.activation.token_scale = c->token_scale != 0;
  s.activation.exact_reference = c->exact_reference != 0;
  s.weight.bits = c->weight_bits;
  s.weight.group = c->weight_group;
  s.weight.range = static_cast<rrs::Range>(c->weight_range);
  s.weight.scale = static_cast<rrs::WeightScale>(c->weight_scale);
  s.smoothquant_alpha = c->smoothquant_alpha;
  *out = s;
  return rrs::Status{};
}

void scheme_to_c(const rrs::Scheme& s, rrs_scheme* c) noexcept {
  c->rotation = static_cast<std::int32_t>(s.rotation.kind);
  c->rotation_block = s.rotation.block;
  c->random_signs = s.rotation.random_signs ? 1 : 0;
  c->sign_seed = s.rotation.sign_seed;
  c->activation_bits = s.activation.bits;
  c->window = static_cast<std::int32_t>(s.activation.window.kind);
  c->window_rows = s.activation.window.rows;
  c->activation_group = s.activation.group;
  c->activation_range = static_cast<std::int32_t>(s.activation.range);
  c->activation_clip = s.activation.clip;
  c->activation_floor = s.activation.floor;
  c->token_scale = s.activation.token_scale ? 1 : 0;
  c->exact_reference = s.activation.exact_reference ? 1 : 0;
  c->weight_bits = s.weight.bits;
  c->weight_group = s.weight.group;
  c->weight_range = static_cast<std::int32_t>(s.weight.range);
  c->weight_scale = static_cast<std::int32_t>(s.weight.scale);
  c->smoothquant_alpha = s.smoothquant_alpha;
}

rrs::Status channels_from_c(const rrs_channels* c, rrs::LayerChannels* out) noexcept {
  *out = rrs::LayerChannels{};
  if (c == nullptr) return rrs::Status{};
  if (rrs::Status s = check_size(c, "channels", "channels.size"); !s) return s;
  out->input_permutation = c->input_permutation;
  out->group_permutation = c->group_permutation;
  out->divisor = c->divisor;
  return rrs::Status{};
}

// The caller's executor, or this thread.
struct Executor {
  rrs_executor run;
  void* user;

  template <class Task>
  void operator()(std::int64_t n_tasks, const Task& task) const noexcept {
    if (run == nullptr) return rrs::SerialExecutor{}(n_tasks, task);
    run(
        user, n_tasks,
        [](void* context, std::int64_t i) { (*static_cast<const Task*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(&task)));
  }
};

template <class T>
rrs::MatrixView<T> view_of(const rrs_matrix& m) noexcept {
  return rrs::MatrixView<T>(static_cast<T*>(m.data), m.rows, m.cols, m.row_stride);
}

// Calls body(view) with the view's element type.
template <bool kConst, class Body>
rrs::Status with_view(const rrs_matrix& m, const char* name, const Body& body) {
  switch (m.type) {
    case RRS_F32: return body(view_of<std::conditional_t<kConst, const float, float>>(m));
    case RRS_F16: return body(view_of<std::conditional_t<kConst, const rrs::f16, rrs::f16>>(m));
    case RRS_BF16: return body(view_of<std::conditional_t<kConst, const rrs::bf16, rrs::bf16>>(m));
    default: return rrs::invalid_argument(name, "must be an rrs_type", m.type, RRS_BF16);
  }
}

rrs::Status make_weight(rrs::PreparedWeight owned, const rrs::WeightView& view, rrs_weight** out) {
  auto* weight = new (std::nothrow) rrs_weight{std::move(owned), view};
  if (weight == nullptr) {
    return rrs::Status{
        rrs::StatusCode::kOutOfMemory, "weight", "handle could not be allocated", 0, 0, nullptr};
  }
  *out = weight;
  return rrs::Status{};
}

rrs::Status prepare(const rrs_prepare_args& args, rrs_weight** out) {
  rrs::Scheme scheme;
  rrs::WeightOptions options;
  if (rrs::Status s = scheme_from_c(args.scheme, &scheme); !s) return s;
  if (rrs::Status s = channels_from_c(args.channels, &options.channels); !s) return s;
  const Executor executor{args.executor, args.executor_user};
  return with_view<true>(args.w, "W.type", [&](const auto& w) {
    rrs::Result<rrs::PreparedWeight> made = rrs::prepare_weight(w, scheme, options, executor);
    if (!made) return made.status();
    const rrs::WeightView view = made->view();
    return make_weight(std::move(*made), view, out);
  });
}

// The weight as a call sees it, in the precision that it asks for. args.weight is not null.
rrs::WeightView weight_of(const rrs_linear_args& args) noexcept {
  rrs::WeightView w = args.weight->view;
  if (args.activation_bits != 0) w.scheme.activation.bits = args.activation_bits;
  return w;
}

rrs::Status linear(const rrs_linear_args& args) {
  if (args.weight == nullptr) return null_argument("weight");
  const rrs::WeightView w = weight_of(args);
  rrs::ActivationOptions activation;
  if (rrs::Status s = channels_from_c(args.channels, &activation.channels); !s) return s;
  if (args.workspace_bytes < 0) {
    return rrs::invalid_argument("workspace_bytes", "must not be negative", args.workspace_bytes,
                                 0);
  }
  const rrs::GemmOptions options{args.bias, args.accumulate != 0};
  const Executor executor{args.executor, args.executor_user};
  rrs::Workspace ws(args.workspace, static_cast<std::size_t>(args.workspace_bytes));
  return with_view<true>(args.x, "X.type", [&](const auto& x) {
    return with_view<false>(args.y, "Y.type", [&](const auto& y) {
      return rrs::linear(x, w, y, ws, executor, activation, options);
    });
  });
}

rrs::Status explain(const rrs::WeightView& w, std::int64_t m, char* out, std::int64_t capacity,
                    std::int64_t* needed) {
  if (capacity < 0) return rrs::invalid_argument("capacity", "must not be negative", capacity, 0);
  if (out == nullptr && capacity > 0) return null_argument("out");
  const rrs::Explanation e = rrs::explain(m, w);
  if (!e.status) return e.status;
  const std::string text = e.to_string();
  const auto bytes = static_cast<std::int64_t>(text.size()) + 1;
  if (needed != nullptr) *needed = bytes;
  if (out == nullptr) return rrs::Status{};
  if (capacity < bytes) {
    return rrs::invalid_argument("capacity", "must hold the text", capacity, bytes);
  }
  std::memcpy(out, text.c_str(), static_cast<std::size_t>(bytes));
  return rrs::Status{};
}

}  // namespace

extern "C" {

int32_t rrs_abi_version(void) { return RRS_C_ABI_VERSION; }
int32_t rrs_version(void) { return RRS_VERSION; }

rrs_code rrs_scheme_preset(const char* name, rrs_scheme* scheme, rrs_error* error) {
  return guarded(error, [&]() -> rrs::Status {
    if (rrs::Status s = check_size(scheme, "scheme", "scheme.size"); !s) return s;
    const rrs::Result<rrs::Scheme> found = rrs::presets::by_name(name);
    if (!found) return found.status();
    if (found->simulated) return rrs::validate(*found);
    scheme_to_c(*found, scheme);
    return rrs::Status{};
  });
}

rrs_code rrs_weight_prepare(const rrs_prepare_args* args, rrs_weight** weight, rrs_error* error) {
  return guarded(error, [&]() -> rrs::Status {
    if (weight == nullptr) return null_argument("weight");
    if (rrs::Status s = check_size(args, "args", "args.size"); !s) return s;
    return prepare(*args, weight);
  });
}

int64_t rrs_weight_serialized_bytes(const rrs_weight* weight) {
  return weight == nullptr ? 0 : static_cast<int64_t>(rrs::serialized_bytes(weight->view));
}

rrs_code rrs_weight_serialize(const rrs_weight* weight, void* out, int64_t capacity,
                              rrs_error* error) {
  return guarded(error, [&]() -> rrs::Status {
    if (weight == nullptr) return null_argument("weight");
    if (capacity < 0) return rrs::invalid_argument("capacity", "must not be negative", capacity, 0);
    return rrs::serialize_weight(weight->view, out, static_cast<std::size_t>(capacity));
  });
}

rrs_code rrs_weight_view(const void* data, int64_t bytes, rrs_weight** weight, rrs_error* error) {
  return guarded(error, [&]() -> rrs::Status {
    if (weight == nullptr) return null_argument("weight");
    if (bytes < 0) return rrs::invalid_argument("bytes", "must not be negative", bytes, 0);
    const rrs::Result<rrs::WeightView> view =
        rrs::view_weight(data, static_cast<std::size_t>(bytes));
    if (!view) return view.status();
    return make_weight(rrs::PreparedWeight{}, *view, weight);
  });
}

int64_t rrs_weight_rows(const rrs_weight* weight) { return weight == nullptr ? 0 : weight->view.n; }
int64_t rrs_weight_cols(const rrs_weight* weight) { return weight == nullptr ? 0 : weight->view.k; }
double rrs_weight_bits_per_weight(const rrs_weight* weight) {
  return weight == nullptr ? 0.0 : weight->view.bits_per_weight();
}
void rrs_weight_free(rrs_weight* weight) { delete weight; }

rrs_code rrs_workspace_bytes(const rrs_weight* weight, int64_t m, int64_t* bytes,
                             rrs_error* error) {
  return guarded(error, [&]() -> rrs::Status {
    if (weight == nullptr) return null_argument("weight");
    if (bytes == nullptr) return null_argument("bytes");
    if (m < 0) return rrs::invalid_argument("M", "must not be negative", m, 0);
    // Float activations take most: the answer holds for every activation_bits of rrs_linear.
    rrs::Scheme scheme = weight->view.scheme;
    const std::size_t own = rrs::workspace_bytes(m, weight->view.k, scheme, weight->view.n,
                                                 rrs::low_rank_columns(weight->view.low_rank.rank));
    scheme.activation.exact_reference = false;
    scheme.activation.bits = rrs::kActivationFloat;
    const std::size_t most =
        rrs::workspace_bytes(m, weight->view.k, scheme, weight->view.n,
                             rrs::low_rank_columns(weight->view.low_rank.rank));
    if (own == 0 || most == 0) {
      return rrs::invalid_argument("M", "must keep the workspace within 63 bits", m, INT64_MAX);
    }
    *bytes = static_cast<int64_t>((std::max)(own, most));
    return rrs::Status{};
  });
}

rrs_code rrs_linear(const rrs_linear_args* args, rrs_error* error) {
  return guarded(error, [&]() -> rrs::Status {
    if (rrs::Status s = check_size(args, "args", "args.size"); !s) return s;
    return linear(*args);
  });
}

rrs_code rrs_explain(const rrs_weight* weight, int64_t m, char* out, int64_t capacity,
                     int64_t* needed, rrs_error* error) {
  return guarded(error, [&]() -> rrs::Status {
    if (weight == nullptr) return null_argument("weight");
    return explain(weight->view, m, out, capacity, needed);
  });
}

rrs_code rrs_explain_linear(const rrs_linear_args* args, char* out, int64_t capacity,
                            int64_t* needed, rrs_error* error) {
  return guarded(error, [&]() -> rrs::Status {
    if (rrs::Status s = check_size(args, "args", "args.size"); !s) return s;
    if (args->weight == nullptr) return null_argument("weight");
    return explain(weight_of(*args), args->x.rows, out, capacity, needed);
  });
}

}  // extern "C"
