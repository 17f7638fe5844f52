/* The C interface from C99: prepare, workspace, run, explain, serialize, free; errors by code. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rrs/c/rrs.h"

enum { kRows = 5, kOutputs = 33, kInputs = 160 };

static int failures = 0;
static int checks = 0;

static void check(int holds, const char* what, int line) {
  ++checks;
  if (holds) return;
  ++failures;
  fprintf(stderr, "line %d: %s\n", line, what);
}
#define CHECK(condition) check((condition) != 0, #condition, __LINE__)

/* Every task once, last first. */
static void backwards(void* user, int64_t n_tasks, rrs_task task, void* context) {
  for (int64_t i = n_tasks; i-- > 0;) task(context, i);
  ++*(int*)user;
}

static float next_value(uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  return (float)(int32_t)*state / 2147483648.0f;
}

typedef struct Layer {
  float x[kRows * kInputs], w[kOutputs * kInputs], bias[kOutputs];
  rrs_scheme scheme;
  rrs_weight* weight;
  void* workspace;
  int64_t workspace_bytes;
} Layer;

static rrs_matrix matrix(float* data, int64_t rows, int64_t cols) {
  rrs_matrix m = {data, rows, cols, cols, RRS_F32};
  return m;
}

static void make_layer(Layer* l) {
  uint32_t state = 7;
  rrs_error error;
  for (int i = 0; i < kRows * kInputs; ++i) l->x[i] = next_value(&state);
  for (int i = 0; i < kOutputs * kInputs; ++i) l->w[i] = next_value(&state);
  for (int i = 0; i < kOutputs; ++i) l->bias[i] = next_value(&state);
  l->scheme.size = (int64_t)sizeof l->scheme;
  CHECK(rrs_scheme_preset("rrs", &l->scheme, &error) == RRS_OK);
  CHECK(l->scheme.activation_bits == 4 && l->scheme.weight_group == 32);
  rrs_prepare_args args;
  memset(&args, 0, sizeof args);
  args.size = (int64_t)sizeof args;
  args.w = matrix(l->w, kOutputs, kInputs);
  args.scheme = &l->scheme;
  int calls = 0;
  args.executor = &backwards;
  args.executor_user = &calls;
  CHECK(rrs_weight_prepare(&args, &l->weight, &error) == RRS_OK);
  CHECK(calls > 0);
  CHECK(rrs_weight_rows(l->weight) == kOutputs && rrs_weight_cols(l->weight) == kInputs);
  CHECK(rrs_weight_bits_per_weight(l->weight) > 4.0);
  CHECK(rrs_workspace_bytes(l->weight, kRows, &l->workspace_bytes, &error) == RRS_OK);
  l->workspace_bytes += 63;
  l->workspace = malloc((size_t)l->workspace_bytes);
}

static rrs_linear_args linear_args(Layer* l, float* y) {
  rrs_linear_args args;
  memset(&args, 0, sizeof args);
  args.size = (int64_t)sizeof args;
  args.x = matrix(l->x, kRows, kInputs);
  args.y = matrix(y, kRows, kOutputs);
  args.weight = l->weight;
  args.workspace = l->workspace;
  args.workspace_bytes = l->workspace_bytes;
  return args;
}

/* ||y - x w^T - bias|| / ||x w^T + bias|| in double. */
static double relative_error(const Layer* l, const float* y, int with_bias) {
  double error = 0.0, norm = 0.0;
  for (int t = 0; t < kRows; ++t) {
    for (int n = 0; n < kOutputs; ++n) {
      double sum = with_bias ? (double)l->bias[n] : 0.0;
      for (int k = 0; k < kInputs; ++k) {
        sum += (double)l->x[t * kInputs + k] * (double)l->w[n * kInputs + k];
      }
      const double difference = (double)y[t * kOutputs + n] - sum;
      error += difference * difference;
      norm += sum * sum;
    }
  }
  return sqrt(error / norm);
}

static void test_run(Layer* l) {
  float y[kRows * kOutputs], again[kRows * kOutputs];
  rrs_linear_args args = linear_args(l, y);
  CHECK(rrs_linear(&args, NULL) == RRS_OK);
  const double w4a4 = relative_error(l, y, 0);
  CHECK(w4a4 > 0.03 && w4a4 < 0.2); /* 4 bits: neither exact nor lost */
  int calls = 0;
  args.y = matrix(again, kRows, kOutputs);
  args.executor = &backwards;
  args.executor_user = &calls;
  CHECK(rrs_linear(&args, NULL) == RRS_OK);
  CHECK(memcmp(y, again, sizeof y) == 0); /* so few rows may need no executor at all */
  args.bias = l->bias;
  args.activation_bits = 8;
  CHECK(rrs_linear(&args, NULL) == RRS_OK);
  const double w4a8 = relative_error(l, again, 1);
  CHECK(w4a8 > 0.01 && w4a8 < w4a4);
  args.activation_bits = 16;
  CHECK(rrs_linear(&args, NULL) == RRS_OK);
  l->x[kInputs + 3] = NAN;
  args = linear_args(l, again);
  rrs_error error;
  CHECK(rrs_linear(&args, &error) == RRS_NON_FINITE);
  CHECK(isnan(again[kOutputs]) && memcmp(y, again, kOutputs * sizeof *y) == 0);
  l->x[kInputs + 3] = 0.5f;
}

static void test_serialized(Layer* l) {
  float y[kRows * kOutputs], again[kRows * kOutputs];
  const int64_t bytes = rrs_weight_serialized_bytes(l->weight);
  char* memory = malloc((size_t)bytes + 64);
  char* data = memory + (64 - (uintptr_t)memory % 64) % 64;
  rrs_error error;
  CHECK(rrs_weight_serialize(l->weight, data, bytes - 1, &error) != RRS_OK);
  CHECK(rrs_weight_serialize(l->weight, data, bytes, &error) == RRS_OK);
  rrs_weight* view = NULL;
  CHECK(rrs_weight_view(data, bytes, &view, &error) == RRS_OK);
  rrs_linear_args args = linear_args(l, y);
  CHECK(rrs_linear(&args, NULL) == RRS_OK);
  args.weight = view;
  args.y = matrix(again, kRows, kOutputs);
  CHECK(rrs_linear(&args, NULL) == RRS_OK);
  CHECK(memcmp(y, again, sizeof y) == 0);
  rrs_weight_free(view);
  data[bytes / 2] = (char)(data[bytes / 2] ^ 1);
  rrs_weight* broken = NULL;
  CHECK(rrs_weight_view(data, bytes, &broken, &error) == RRS_CORRUPT_DATA && broken == NULL);
  free(memory);
}

static void test_explain(const Layer* l) {
  int64_t needed = 0;
  rrs_error error;
  CHECK(rrs_explain(l->weight, kRows, NULL, 0, &needed, &error) == RRS_OK && needed > 20);
  char* text = malloc((size_t)needed);
  CHECK(rrs_explain(l->weight, kRows, text, needed - 1, NULL, &error) == RRS_INVALID_ARGUMENT);
  CHECK(rrs_explain(l->weight, kRows, text, needed, NULL, &error) == RRS_OK);
  CHECK(strstr(text, "kernel") != NULL && (int64_t)strlen(text) + 1 == needed);
  free(text);
}

/* The text of a call of `rows` rows in `bits`, without any memory of it; the caller frees it. */
static char* explanation(const rrs_weight* weight, int64_t rows, int bits) {
  rrs_linear_args args;
  int64_t needed = 0;
  memset(&args, 0, sizeof args);
  args.size = (int64_t)sizeof args;
  args.weight = weight;
  args.x.rows = rows;
  args.activation_bits = bits;
  CHECK(rrs_explain_linear(&args, NULL, 0, &needed, NULL) == RRS_OK && needed > 20);
  char* text = malloc((size_t)needed);
  CHECK(rrs_explain_linear(&args, text, needed - 1, NULL, NULL) == RRS_INVALID_ARGUMENT);
  CHECK(rrs_explain_linear(&args, text, needed, NULL, NULL) == RRS_OK);
  CHECK((int64_t)strlen(text) + 1 == needed);
  return text;
}

/* Each precision by its own kernel; 0 bits are the weight's, as rrs_explain has it. */
static void test_explain_linear(Layer* l) {
  char own[1024];
  char* a0 = explanation(l->weight, kRows, 0);
  char* a4 = explanation(l->weight, kRows, 4);
  char* a8 = explanation(l->weight, kRows, 8);
  char* a16 = explanation(l->weight, kRows, 16);
  CHECK(rrs_explain(l->weight, kRows, own, (int64_t)sizeof own, NULL, NULL) == RRS_OK);
  CHECK(strcmp(a0, own) == 0 && strcmp(a4, own) == 0);
  CHECK(strstr(a4, "w4a4") != NULL && strstr(a4, "bits 2..4 take the 4-bit kernel") != NULL);
  CHECK(strstr(a8, "w4a8") != NULL && strstr(a8, "bits 5..8 take the 8-bit kernel") != NULL);
  CHECK(strstr(a16, "w4a16") != NULL && strstr(a16, "float activations") != NULL);
  free(a0);
  free(a4);
  free(a8);
  free(a16);

  rrs_error error;
  rrs_linear_args args = linear_args(l, NULL);
  args.activation_bits = 9; /* refused as rrs_linear refuses it */
  const rrs_code code = rrs_explain_linear(&args, own, (int64_t)sizeof own, NULL, &error);
  CHECK(code == RRS_INVALID_SCHEME && strstr(error.message, "activation.bits") != NULL);
  float y[kRows * kOutputs];
  args.y = matrix(y, kRows, kOutputs);
  CHECK(rrs_linear(&args, NULL) == code);
  args.activation_bits = 0;
  args.x.rows = -1;
  CHECK(rrs_explain_linear(&args, NULL, 0, NULL, NULL) == RRS_INVALID_ARGUMENT);
  args.weight = NULL;
  CHECK(rrs_explain_linear(&args, NULL, 0, NULL, &error) == RRS_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "weight") != NULL);
  args.size = 8;
  CHECK(rrs_explain_linear(&args, NULL, 0, NULL, &error) == RRS_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "args.size") != NULL);
  CHECK(rrs_explain_linear(NULL, NULL, 0, NULL, NULL) == RRS_INVALID_ARGUMENT);
}

static void test_errors(Layer* l) {
  float y[kRows * kOutputs];
  rrs_error error;
  rrs_scheme scheme = l->scheme;
  rrs_weight* none = NULL;
  CHECK(rrs_scheme_preset("nonsense", &scheme, &error) == RRS_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "nonsense") != NULL && error.code == RRS_INVALID_ARGUMENT);
  CHECK(rrs_scheme_preset("rs", &scheme, &error) == RRS_SIMULATED_ONLY);
  rrs_prepare_args prepare;
  memset(&prepare, 0, sizeof prepare);
  CHECK(rrs_weight_prepare(&prepare, &none, &error) == RRS_INVALID_ARGUMENT);
  prepare.size = (int64_t)sizeof prepare;
  CHECK(rrs_weight_prepare(&prepare, &none, &error) == RRS_INVALID_ARGUMENT);
  scheme = l->scheme;
  scheme.window = 3; /* frozen scales cannot be given here */
  prepare.scheme = &scheme;
  prepare.w = matrix(l->w, kOutputs, kInputs);
  CHECK(rrs_weight_prepare(&prepare, &none, &error) == RRS_INVALID_SCHEME && none == NULL);
  CHECK(strstr(error.message, "window") != NULL);
  rrs_linear_args args = linear_args(l, y);
  args.workspace_bytes = 64;
  CHECK(rrs_linear(&args, &error) == RRS_WORKSPACE_TOO_SMALL);
  args.workspace_bytes = -1;
  CHECK(rrs_linear(&args, &error) == RRS_INVALID_ARGUMENT);
  args = linear_args(l, y);
  args.x.row_stride = kInputs - 1;
  CHECK(rrs_linear(&args, &error) == RRS_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "X.row_stride") != NULL);
  args = linear_args(l, y);
  args.x.data = (char*)args.x.data + 1; /* between two elements */
  CHECK(rrs_linear(&args, &error) == RRS_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "X.data must be aligned") != NULL);
  args = linear_args(l, y);
  args.y.data = (char*)args.y.data + 2;
  CHECK(rrs_linear(&args, &error) == RRS_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "Y.data must be aligned") != NULL);
  args = linear_args(l, y);
  args.y.type = 9;
  CHECK(rrs_linear(&args, &error) == RRS_INVALID_ARGUMENT);
  CHECK(rrs_linear(NULL, NULL) == RRS_INVALID_ARGUMENT);
  rrs_weight_free(NULL);
}

int main(void) {
  static Layer layer;
  CHECK(rrs_abi_version() == RRS_C_ABI_VERSION && rrs_version() > 0);
  make_layer(&layer);
  if (failures == 0) {
    test_run(&layer);
    test_serialized(&layer);
    test_explain(&layer);
    test_explain_linear(&layer);
    test_errors(&layer);
  }
  rrs_weight_free(layer.weight);
  free(layer.workspace);
  printf("C interface: %d checks, %d failures\n", checks, failures);
  return failures == 0 && checks >= 70 ? 0 : 1;
}
