// GEMM: Y[t,n] = a[t] * sum_g s[t,g] * v[n,g] * (sum_{k in g} q[t,k] * p[n,k])  (+ bias) (+ old Y)
//
// from: pack/ (activation tiles, weight panels; layouts in pack/layout.hpp).
// to:   Y (f32, f16, bf16), written once by epilogue.hpp; called by pipeline/linear.hpp.
// Shapes: M tokens, N outputs, K inputs (padded to 8), G inner groups; all >= 0.
//
// Written order. Every level, tile shape, thread count and M gives the same bits. For output (t,n),
// acc = 0, inner groups g ascending; v = f32 of the f16 weight scale of the weight group of g,
// s = activation scale of the activation group of g:
//   integer activations (A4, A8)
//     isum = exact int32 sum over the group of q * code; code = u - 8 (W4), u - 128 (W8), and the
//            raw u when there are weight offsets
//     tmp  = float(isum) * v                  one rounding (two beyond 2^24: row groups)
//     acc  = fma(tmp, s, acc)
//     with offsets, then:  tmp = float(code_sum[g]) * offset;  acc = fma(tmp, s, acc)
//   float activations (A16), groups are weight groups, inner_per_weight = 1
//     part = 0; k ascending: part = fma(x[k], float(code), part);  acc = fma(part, v, acc)
//     with offsets: w = fma(float(u), v, offset); part = fma(x[k], w, part); acc = acc + part
//   (Multiplying by v once per group instead of once per weight saves one of four instructions of
//   decode, and short chains are more accurate.)
// Store:  y = a*acc;  bias: fma(a, acc, bias);  accumulate: fma(a, acc, old);  both:
//   fma(a, acc, bias) + old.  f16 and bf16: old converted exactly, the result rounded once.
//   A NaN token scale gives quiet NaN rows. A low-rank branch comes before it: low_rank.hpp.
// Bound, against the same sum in exact arithmetic, u = 2^-24, no overflow or underflow:
//   integer: |error| <= (T + 3) u |a| sum_g (|s v isum| + |s offset code_sum|)
//            T = G, with offsets 2 G
//   float:   |error| <= (T + 3) u |a| sum_k |x[k]| (|code v| + |offset|)
//            T = G + inputs of a group
//   plus u |y| per bias or old value added, and the half ulp of f16 or bf16.
// Integers: a group of up to 256 inputs adds at most 256*128*255 < 2^31; row groups bound K
// (max_inputs in core/scheme.hpp).
// Cost: M*N*K / 64 multiply instructions on AVX-512 VNNI plus 2 per group, token and 16 outputs.
#pragma once

#include "rrs/gemm/driver.hpp"
#include "rrs/gemm/epilogue.hpp"
#include "rrs/gemm/low_rank.hpp"
