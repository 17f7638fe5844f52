/* The C interface: 4-bit linear layers for engines written in C, Go, Rust, Python, ...
 *
 *   Y[M,N] = X[M,K] W[N,K]^T (+ bias[N]) (+ old Y)        M tokens, N outputs, K inputs, row-major
 *
 * from: C or a foreign-function interface. to: the C++ library, through rrs.cpp beside this file
 * (compile it into your program, or link CMake's rrs::c). The flow is that of rrs/rrs.hpp: a
 * scheme, a packed weight made once per layer, a workspace that you own, one call per activation.
 *
 * Errors. Every function that can fail returns an rrs_code and, when `error` is not null, writes
 * one line that names the argument, the value and the limit. Nothing is written to an output
 * argument then, except by RRS_NON_FINITE (below). No exception crosses this border, and nothing
 * here raises a signal; a mapped file that somebody shortens does (SIGBUS: .github/SECURITY.md).
 * Structs. Those that you pass by pointer and the library reads or fills field by field begin with
 * `size` and may grow: rrs_scheme, rrs_channels, rrs_prepare_args, rrs_linear_args. Set it to
 * sizeof, so that a newer library can tell what an older caller knows, and zero the rest (a zero
 * field is its default). Smaller sizes than the first version's are refused. rrs_matrix and
 * rrs_error have no size and never change: a longer matrix would move the fields behind it in the
 * structs that hold it by value, and an error is written whole into memory of the caller's length.
 * Threading. The library creates no thread: lend yours as an rrs_executor.
 * Weights may be used by any number of threads at once; a workspace serves one call at a time.
 * Versions. rrs_abi_version() changes when a signature or a field changes its meaning; new
 * functions and fields at the end of structs with a size leave it. */
#ifndef RRS_C_RRS_H
#define RRS_C_RRS_H

#include <stdint.h>

#if defined(RRS_C_SHARED) && defined(__GNUC__)
#define RRS_C_API __attribute__((visibility("default")))
#else
#define RRS_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define RRS_C_ABI_VERSION 1
#define RRS_C_MESSAGE_BYTES 256

/* Values are stable; new ones are appended. */
typedef enum rrs_code {
  RRS_OK = 0,
  RRS_INVALID_ARGUMENT = 1,
  RRS_INVALID_SCHEME = 2,
  RRS_WORKSPACE_TOO_SMALL = 3,
  RRS_OUT_OF_MEMORY = 4,
  RRS_UNSUPPORTED_ISA = 5, /* RRS_ISA names a level that is unknown or not there */
  RRS_CORRUPT_DATA = 6,    /* a serialized weight that does not verify */
  RRS_NON_FINITE = 7,      /* X holds NaN or Inf: Y is computed, those rows are NaN */
  RRS_SIMULATED_ONLY = 8   /* the scheme has no integer product */
} rrs_code;

typedef enum rrs_type { RRS_F32 = 0, RRS_F16 = 1, RRS_BF16 = 2 } rrs_type;

typedef enum rrs_rotation {
  RRS_ROTATION_NONE = 0,
  RRS_ROTATION_BLOCK = 1,
  RRS_ROTATION_FULL = 2
} rrs_rotation;
typedef enum rrs_window {
  RRS_WINDOW_WHOLE = 0,
  RRS_WINDOW_ROWS = 1,
  RRS_WINDOW_ONE = 2
} rrs_window;
typedef enum rrs_range { RRS_RANGE_SYMMETRIC = 0, RRS_RANGE_FULL = 1 } rrs_range;
typedef enum rrs_weight_scale { RRS_SCALE_ABSMAX = 0, RRS_SCALE_SEARCH = 1 } rrs_weight_scale;

/* Fixed for good. */
typedef struct rrs_error {
  int32_t code;                      /* an rrs_code */
  char message[RRS_C_MESSAGE_BYTES]; /* ends with a zero byte; cut where it is longer */
} rrs_error;

/* Every decision about a layer: rrs/core/scheme.hpp says what each field means. Start from
 * rrs_scheme_preset and change fields; 0 as a group is the whole row. */
typedef struct rrs_scheme {
  int64_t size;
  int32_t rotation; /* rrs_rotation */
  int32_t rotation_block;
  int32_t random_signs;
  int32_t activation_bits; /* 2..8, or 16: not quantized */
  uint64_t sign_seed;
  int64_t window_rows;
  int32_t window; /* rrs_window */
  int32_t activation_group;
  int32_t activation_range; /* rrs_range */
  float activation_clip;
  float activation_floor;
  int32_t token_scale;
  int32_t exact_reference;
  int32_t weight_bits; /* 4 or 8 */
  int32_t weight_group;
  int32_t weight_range; /* rrs_range */
  int32_t weight_scale; /* rrs_weight_scale */
  float smoothquant_alpha;
} rrs_scheme;

/* Runs task(context, i) exactly once for every i in [0, n_tasks), on any threads, in any order, and
 * returns when all are done. `user` is what you gave beside it. It must not throw or longjmp. */
typedef void (*rrs_task)(void* context, int64_t index);
typedef void (*rrs_executor)(void* user, int64_t n_tasks, rrs_task task, void* context);

/* A matrix of `type`, element (i, j) at data + (i * row_stride + j); row_stride >= cols. Fixed for
 * good. */
typedef struct rrs_matrix {
  void* data; /* X and W are only read */
  int64_t rows;
  int64_t cols;
  int64_t row_stride;
  int32_t type; /* rrs_type */
} rrs_matrix;

/* Static per-input data, shared by a weight and its activations; null pointers: none. */
typedef struct rrs_channels {
  int64_t size;
  const int32_t* input_permutation; /* [K] */
  const int32_t* group_permutation; /* [K] */
  const float* divisor;             /* [K], SmoothQuant's s, finite and > 0 */
} rrs_channels;

typedef struct rrs_weight rrs_weight; /* a packed weight */

RRS_C_API int32_t rrs_abi_version(void);
/* 10000 * major + 100 * minor + patch of the library. */
RRS_C_API int32_t rrs_version(void);

/* Fills *scheme (its `size` must be set) with the preset of that name: "rrs", "quarot", ... */
RRS_C_API rrs_code rrs_scheme_preset(const char* name, rrs_scheme* scheme, rrs_error* error);

typedef struct rrs_prepare_args {
  int64_t size;
  rrs_matrix w; /* [N,K] */
  const rrs_scheme* scheme;
  const rrs_channels* channels; /* or null */
  rrs_executor executor;        /* null: on the calling thread */
  void* executor_user;
} rrs_prepare_args;

/* Quantizes and packs W: offline, once per layer. Free the result with rrs_weight_free. */
RRS_C_API rrs_code rrs_weight_prepare(const rrs_prepare_args* args, rrs_weight** weight,
                                      rrs_error* error);
/* Writes the weight as bytes. `capacity` must be at least rrs_weight_serialized_bytes. */
RRS_C_API int64_t rrs_weight_serialized_bytes(const rrs_weight* weight);
RRS_C_API rrs_code rrs_weight_serialize(const rrs_weight* weight, void* out, int64_t capacity,
                                        rrs_error* error);
/* A weight that uses serialized bytes where they are: 64-byte aligned, verified, kept by you until
 * the weight is freed. */
RRS_C_API rrs_code rrs_weight_view(const void* data, int64_t bytes, rrs_weight** weight,
                                   rrs_error* error);
RRS_C_API int64_t rrs_weight_rows(const rrs_weight* weight); /* N */
RRS_C_API int64_t rrs_weight_cols(const rrs_weight* weight); /* K */
RRS_C_API double rrs_weight_bits_per_weight(const rrs_weight* weight);
/* Null is allowed. */
RRS_C_API void rrs_weight_free(rrs_weight* weight);

/* Bytes that rrs_linear needs for X of m rows. */
RRS_C_API rrs_code rrs_workspace_bytes(const rrs_weight* weight, int64_t m, int64_t* bytes,
                                       rrs_error* error);

typedef struct rrs_linear_args {
  int64_t size;
  rrs_matrix x; /* [M,K] */
  rrs_matrix y; /* [M,N]; must not overlap x, the weight or the workspace */
  const rrs_weight* weight;
  const rrs_channels* channels; /* those that the weight was prepared with, or null */
  const float* bias;            /* [N], or null */
  int32_t accumulate;           /* not 0: Y += */
  int32_t activation_bits;      /* 0: as in the weight's scheme; else 2..8 or 16 */
  void* workspace;              /* any alignment; 64-byte aligned wastes nothing */
  int64_t workspace_bytes;      /* add 63 when the workspace is not 64-byte aligned */
  rrs_executor executor;
  void* executor_user;
} rrs_linear_args;

/* One linear layer: smooth, rotate, quantize, multiply. Allocates nothing. */
RRS_C_API rrs_code rrs_linear(const rrs_linear_args* args, rrs_error* error);

/* Which kernel would run for M x N x K under the weight's own scheme, and why, as text. Writes at
 * most `capacity` bytes with the zero at the end and returns in *needed (if not null) how many the
 * whole text takes; a capacity too small is RRS_INVALID_ARGUMENT. `out` may be null when capacity
 * is 0: that asks for the size. */
RRS_C_API rrs_code rrs_explain(const rrs_weight* weight, int64_t m, char* out, int64_t capacity,
                               int64_t* needed, rrs_error* error);
/* The same of the call rrs_linear(args), its activation_bits included. Of the arguments only size,
 * weight, x.rows and activation_bits are looked at: a call can be explained before it has memory.
 */
RRS_C_API rrs_code rrs_explain_linear(const rrs_linear_args* args, char* out, int64_t capacity,
                                      int64_t* needed, rrs_error* error);

#ifdef __cplusplus
}
#endif

#endif
