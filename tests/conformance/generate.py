#!/usr/bin/env python3
"""Writes vectors.json: inputs, schemes, and the bits that every implementation of the format must give.

    usage: generate.py OUT.json

This is the numerics contract as a program that shares nothing with the library: all arithmetic is
exact (fractions), and `f32` rounds it where the contract says that a float stage rounds. Floats are
written as the hexadecimal bits of binary32 (scales of weights: binary16). check.cpp runs a library
over the file; bump VERSION when a case changes its meaning, append cases otherwise.
"""
import json
import sys
from fractions import Fraction as Q

VERSION = 1
MASK = (1 << 64) - 1


def rounded(q, bits, least):
    """q to the nearest float of `bits` bits of precision, half to even; least: exponent of the
    smallest normal. No overflow occurs here."""
    if q == 0:
        return Q(0)
    a = abs(q)
    e = a.numerator.bit_length() - a.denominator.bit_length()
    e -= a < Q(2) ** e
    unit = Q(2) ** (max(e, least) - bits + 1)
    return round(q / unit) * unit  # round() of a fraction rounds half to even


def f32(q):
    return rounded(q, 24, -126)


def f64(q):
    return rounded(q, 53, -1022)


def f16(q):
    return rounded(q, 11, -14)


def to_bits(q, negative_zero=False, exponent=8, mantissa=23):
    """The bits of a value that the format holds exactly."""
    bias = (1 << (exponent - 1)) - 1
    if q == 0:
        return (1 << (exponent + mantissa)) if negative_zero else 0
    a = abs(q)
    e = a.numerator.bit_length() - a.denominator.bit_length()
    e -= a < Q(2) ** e
    e = max(e, 1 - bias)
    m = a / Q(2) ** e * (1 << mantissa)
    assert m.denominator == 1, q
    m = int(m)
    field = ((e + bias) << mantissa) + m - (1 << mantissa) if m >= 1 << mantissa else m
    return ((1 << (exponent + mantissa)) if q < 0 else 0) + field


def hex32(values):
    return [f"{to_bits(v):08x}" for v in values]


# ---- the contract, stage by stage ----------------------------------------------------------------

def sign_of(seed, k):
    z = (seed + (k + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return -1 if (z ^ (z >> 31)) >> 63 else 1


def hadamard(block):
    """Butterflies of ascending stride, then one product with 1/sqrt(n), each step rounded."""
    n, stride = len(block), 1
    while stride < n:
        for i in range(0, n, 2 * stride):
            for j in range(i, i + stride):
                a, b = block[j], block[j + stride]
                block[j], block[j + stride] = f32(a + b), f32(a - b)
        stride *= 2
    scale = f32(Q(n ** -0.5))  # the double 1 / sqrt(n) is exact for powers of 4, else within an ulp
    return [f32(v * scale) for v in block]


def rotate(row, s):
    if s["rotation"] == "none":
        return row
    if s["sign_seed"] is not None:
        row = [v * sign_of(s["sign_seed"], k) for k, v in enumerate(row)]
    out, at = [], 0
    while at < len(row):
        n = s["block"]
        while n > len(row) - at:  # the tail: greedily by powers of two
            n //= 2
        out += hadamard(row[at:at + n])
        at += n
    return out


def groups(values, size):
    size = size or len(values)
    return [values[i:i + size] for i in range(0, len(values), size)]


def extremes(values):
    return max([v for v in values if v > 0] or [Q(0)]), max([-v for v in values if v < 0] or [Q(0)])


def group_scale(s, positive, negative):
    qmax = (1 << (s["activation_bits"] - 1)) - 1
    clip = f32(Q(s["clip"]))
    e, o = max(positive, negative), min(positive, negative)
    if s["range"] == "full":
        magnitude = f32(clip * max(f32(e / (qmax + 1)), f32(o / qmax)))
    else:
        magnitude = f32(f32(clip * e) / qmax)
    if e < Q(2) ** -100 or magnitude < Q(2) ** -126:
        return Q(0)
    return -magnitude if s["range"] == "full" and positive >= negative else magnitude


def code(x, inverse, bits):
    qmax = (1 << (bits - 1)) - 1
    return round(min(max(f32(x * inverse), -qmax - 1), qmax))


def quantize(rows, s):
    """Codes [m][k], scales [m][groups], token scales [m]."""
    bits, size = s["activation_bits"], s["activation_group"]
    all_extremes = [[extremes(g) for g in groups(row, size)] for row in rows]
    out = []
    for row, ex in zip(rows, all_extremes):
        if s["window"] == "one":
            token = Q(1)
            scales = [group_scale(s, p, n) for p, n in ex]
            inverses = [f32(1 / v) if v else Q(0) for v in scales]
        else:  # whole
            scales = [max(max(e[g]) for e in all_extremes) for g in range(len(ex))]
            quotients = [(f32(p / v), f32(n / v)) for (p, n), v in zip(ex, scales) if v]
            token = group_scale(s, max(p for p, _ in quotients), max(n for _, n in quotients))
            inverses = [f32(f64(1 / f64(v * token))) if v and token else Q(0) for v in scales]
        codes = [code(x, inverses[k // (size or len(row))], bits) for k, x in enumerate(row)]
        out.append((codes, scales, token))
    return out


def weight_rtn(row, s):
    """f16 scales and codes of one row by the absolute maximum (symmetric)."""
    qmax = (1 << (s["weight_bits"] - 1)) - 1
    scales, codes = [], []
    for g in groups(row, s["weight_group"]):
        largest = max(abs(v) for v in g)
        v = f16(f32(max(largest, f32(Q(1e-5))) / qmax)) if largest else Q(0)
        inverse = f32(1 / v) if v else Q(0)
        scales.append(v)
        codes += [code(w, inverse, s["weight_bits"]) for w in g]
    return scales, codes


def gemm(activations, weights, s, bias):
    """Y as bits. Inner groups ascending: tmp = isum * v rounded, acc = fma(tmp, s, acc)."""
    y = []
    for codes, scales, token in activations:
        k = len(codes)
        a_size, w_size = s["activation_group"] or k, s["weight_group"] or k
        inner = min(a_size, w_size)
        for n, (w_scales, w_codes) in enumerate(weights):
            acc = Q(0)
            for first in range(0, k, inner):
                isum = sum(codes[i] * w_codes[i] for i in range(first, min(first + inner, k)))
                tmp = f32(isum * w_scales[first // w_size])
                acc = f32(tmp * scales[first // a_size] + acc)
            if bias:
                y.append(f"{to_bits(f32(token * acc + bias[n])):08x}")
            else:
                y.append(f"{to_bits(f32(token * acc), negative_zero=token < 0):08x}")
    return y


def pack(weights, bits, k):
    """Panels of 16 outputs as bytes: 4 bits 8 inputs per 64 bytes, 8 bits 4 inputs per 64 bytes."""
    padded, out = (k + 7) // 8 * 8, bytearray()
    zero = 1 << (bits - 1)

    def stored(n, i):
        return zero + (weights[n][1][i] if n < len(weights) and i < k else 0)

    for panel in range(0, len(weights), 16):
        for first in range(0, padded, 8 if bits == 4 else 4):
            for n in range(panel, panel + 16):
                for j in range(4):
                    low = stored(n, first + j)
                    out.append(low | stored(n, first + 4 + j) << 4 if bits == 4 else low)
    return out.hex()


# ---- cases ---------------------------------------------------------------------------------------

class Values:
    """Multiples of 2^-12 from a linear congruential generator, sums of four: bell-shaped."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        total = 0
        for _ in range(4):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
            total += (self.state >> 33) % 8192 - 4096
        return Q(total, 8192)


DEFAULT = {"rotation": "block", "block": 32, "sign_seed": None, "activation_bits": 4, "window": "one",
           "activation_group": 32, "range": "full", "clip": 1.0, "weight_bits": 4, "weight_group": 32}


def make_case(name, m, n, k, bias=False, **changes):
    s = {**DEFAULT, **changes}
    values = Values(sum(ord(c) << (i % 24) for i, c in enumerate(name)))
    x = [[values.next() for _ in range(k)] for _ in range(m)]
    for row in x:
        row[k // 3] *= 40  # an outlier channel
    if m > 1:
        x[1] = [v * 512 for v in x[1]]  # a spike token
    if m > 3:
        x[3] = [Q(0)] * k
    w = [[values.next() for _ in range(k)] for _ in range(n)]
    b = [values.next() for _ in range(n)] if bias else None
    weights = [weight_rtn(row, s) for row in w]
    activations = quantize([rotate(row, s) for row in x], s)
    return {"name": name, "m": m, "n": n, "k": k, "scheme": s,
            "x": hex32(v for row in x for v in row), "w": hex32(v for row in w for v in row),
            "bias": hex32(b) if b else None,
            "expected": {
                "weight_codes": [c for _, codes in weights for c in codes],
                "weight_scales": [f"{to_bits(v, exponent=5, mantissa=10):04x}"
                                  for scales, _ in weights for v in scales],
                "panels": pack(weights, s["weight_bits"], k),
                "codes": [c for codes, _, _ in activations for c in codes],
                "scales": hex32(v for _, scales, _ in activations for v in scales),
                "token_scales": hex32(t for _, _, t in activations),
                "y": gemm(activations, weights, s, b)}}


def all_cases():
    per_token = {"rotation": "none", "activation_group": 0, "range": "symmetric"}
    yield make_case("default", 5, 17, 96)
    yield make_case("default_tail", 3, 5, 77, bias=True)
    yield make_case("one_row_many_groups", 1, 33, 256)
    yield make_case("signs", 2, 16, 64, sign_seed=7)
    yield make_case("a8", 4, 9, 64, activation_bits=8)
    yield make_case("a6_clip", 4, 9, 64, activation_bits=6, clip=0.875, range="symmetric")
    yield make_case("a2", 4, 9, 64, activation_bits=2)
    yield make_case("w8a8_per_token", 4, 9, 72, activation_bits=8, weight_bits=8, weight_group=0,
                    **per_token)
    yield make_case("rtn_w4a4", 4, 9, 72, weight_group=0, **per_token)
    yield make_case("g64", 4, 16, 128, block=64, activation_group=64, weight_group=64)
    yield make_case("g128", 9, 16, 256, block=128, activation_group=128, weight_group=128)
    yield make_case("a16_w64", 4, 16, 128, block=16, activation_group=16, weight_group=64)
    yield make_case("a128_w32", 4, 16, 256, activation_group=128, bias=True)
    yield make_case("whole_window", 5, 16, 96, window="whole")
    yield make_case("whole_symmetric_row", 5, 16, 96, window="whole", range="symmetric",
                    weight_group=0)
    yield make_case("many_rows", 70, 3, 64)


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    cases = list(all_cases())
    with open(sys.argv[1], "w", encoding="ascii") as out:
        out.write('{"version": %d, "cases": [\n' % VERSION)
        out.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
        out.write("\n]}\n")
    print(f"conformance: {len(cases)} cases written")
    return 0


sys.exit(main())
