#!/usr/bin/env python3
"""Writes vectors.json: inputs, schemes, and the bits that every implementation of the format must give.

    usage: generate.py OUT.json

This is the numerics contract as a program that shares nothing with the library: all arithmetic is
exact (fractions), and `f32` rounds it where the contract says that a float stage rounds. Floats are
written as the hexadecimal bits of binary32 (scales of weights and of the KV cache: binary16).
check.cpp runs a library over the file; bump VERSION when a case changes its meaning, append cases
otherwise.
"""
import json
import sys
from fractions import Fraction as Q

VERSION = 2
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


def butterflies(block):
    """Of ascending stride, each step rounded."""
    n, stride = len(block), 1
    while stride < n:
        for i in range(0, n, 2 * stride):
            for j in range(i, i + stride):
                a, b = block[j], block[j + stride]
                block[j], block[j + stride] = f32(a + b), f32(a - b)
        stride *= 2
    return block


def hadamard(block):
    """Butterflies, then one product with 1/sqrt(n)."""
    block, n = butterflies(block), len(block)
    scale = f32(Q(n ** -0.5))  # the double 1 / sqrt(n) is exact for powers of 4, else within an ulp
    return [f32(v * scale) for v in block]


def paley12():
    """Paley's matrix of order 12 in its symmetric form: chi(a + b) over GF(11), -1 where a + b = 0."""
    chi = [-1] + [1 if any(x * x % 11 == v for x in range(1, 11)) else -1 for v in range(1, 11)]
    return [[1] * 12] + [[1] + [chi[(a + b) % 11] for b in range(11)] for a in range(11)]


def hadamard_full(row):
    """One transform of order 2^k or 12 * 2^k: butterflies inside segments of 2^k, then the dense factor
    over the segments, then the product with 1/sqrt(n)."""
    n, segment = len(row), len(row) & -len(row)
    if segment == n:
        return hadamard(row[:])
    segment //= 4  # 12 = 3 * 4
    assert n == 12 * segment
    unscaled = []
    for at in range(0, n, segment):
        unscaled += butterflies(row[at:at + segment])
    scale, out = f32(Q(n ** -0.5)), []
    for coefficients in paley12():
        for c in range(segment):
            total = coefficients[0] * unscaled[c]
            for j in range(1, 12):
                total = f32(total + coefficients[j] * unscaled[j * segment + c])
            out.append(f32(total * scale))
    return out


def rotate(row, s):
    if s["rotation"] == "none":
        return row
    if s["sign_seed"] is not None:
        row = [v * sign_of(s["sign_seed"], k) for k, v in enumerate(row)]
    if s["rotation"] == "full":
        return hadamard_full(row)
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
    if bits == 16:  # floats: nothing is quantized
        return [(row, [], Q(1)) for row in rows]
    all_extremes = [[extremes(g) for g in groups(row, size)] for row in rows]
    span = s["window_rows"] if s["window"] == "rows" else len(rows)
    out = []
    for t, (row, ex) in enumerate(zip(rows, all_extremes)):
        window = all_extremes[t // span * span:][:span]
        if s["window"] == "one":
            token = Q(1)
            scales = [group_scale(s, p, n) for p, n in ex]
            inverses = [f32(1 / v) if v else Q(0) for v in scales]
        else:  # whole, rows or frozen
            scales = s["frozen"] or [max(max(e[g]) for e in window) for g in range(len(ex))]
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


def integer_sum(codes, scales, w_scales, w_codes, offsets, s):
    """Inner groups ascending: tmp = isum * v rounded, acc = fma(tmp, s, acc); then the offset alike."""
    k, acc = len(codes), Q(0)
    a_size, w_size = s["activation_group"] or k, s["weight_group"] or k
    inner = min(a_size, w_size)
    for first in range(0, k, inner):
        last = min(first + inner, k)
        tmp = f32(sum(codes[i] * w_codes[i] for i in range(first, last)) * w_scales[first // w_size])
        acc = f32(tmp * scales[first // a_size] + acc)
        if offsets:
            tmp = f32(sum(codes[first:last]) * offsets[first // w_size])
            acc = f32(tmp * scales[first // a_size] + acc)
    return acc


def float_sum(x, w_scales, w_codes, offsets, s):
    """Weight groups ascending: part = fma(x, code, part) over the group, acc = fma(part, v, acc). With
    offsets the weight itself is one fma, and acc = acc + part."""
    k, acc = len(x), Q(0)
    size = s["weight_group"] or k
    for g, first in enumerate(range(0, k, size)):
        part = Q(0)
        for i in range(first, min(first + size, k)):
            w = f32(w_codes[i] * w_scales[g] + offsets[g]) if offsets else w_codes[i]
            part = f32(x[i] * w + part)
        acc = f32(acc + part) if offsets else f32(part * w_scales[g] + acc)
    return acc


def gemm(activations, weights, all_offsets, s, bias, low_rank):
    """Y as bits. low_rank: u [m][r] and up [n][r]; z = token * acc rounded, z = fma(u, up, z)."""
    y = []
    for t, (codes, scales, token) in enumerate(activations):
        for n, (w_scales, w_codes) in enumerate(weights):
            offsets = all_offsets[n] if all_offsets else None
            if s["activation_bits"] == 16:
                acc = float_sum(codes, w_scales, w_codes, offsets, s)
            else:
                acc = integer_sum(codes, scales, w_scales, w_codes, offsets, s)
            if low_rank:
                acc, token = f32(token * acc), Q(1)
                for u, l_a in zip(low_rank[0][t], low_rank[1][n]):
                    acc = f32(u * l_a + acc)
            if bias:
                y.append(f"{to_bits(f32(token * acc + bias[n])):08x}")
            else:
                y.append(f"{to_bits(f32(token * acc), negative_zero=token < 0):08x}")
    return y


def low_rank_codes(l_a, l_b):
    """up [n][r], down [r][k] and s [r]: both factors in 8 bits, one scale per rank for the two."""
    up, down, s = [list(row) for row in l_a], [], []
    for j, row in enumerate(l_b):
        a, b = max(abs(row_a[j]) for row_a in l_a), max(map(abs, row))
        for codes, row_a in zip(up, l_a):
            codes[j] = Q(round(127 * row_a[j] / a))
        down.append([Q(round(127 * v / b)) for v in row])
        s.append(f32(f64(a * b / 127 ** 2)))
    return up, down, s


def low_rank_down(rows, l_b, scales):
    """u = fma(x~, down, u), inputs ascending; then times the rank's scale, where there are scales."""
    out = []
    for x in rows:
        out.append([])
        for j, row in enumerate(l_b):
            u = Q(0)
            for a, b in zip(x, row):
                u = f32(a * b + u)
            out[-1].append(f32(u * scales[j]) if scales else u)
    return out


def weight_minmax(row, s):
    """f16 scales, unsigned codes and integer zero points of one row: W = v (u - z)."""
    most = (1 << s["weight_bits"]) - 1
    scales, codes, zeros = [], [], []
    for g in groups(row, s["weight_group"]):
        low, high = min(g + [Q(0)]), max(g + [Q(0)])
        v = f16((high - low) / most)
        z = min(max(round(-low / v), 0), most)
        scales.append(v)
        zeros.append(z)
        codes += [min(max(round(w / v) + z, 0), most) for w in g]
    return scales, codes, zeros


def pack(weights, bits, k, zero):
    """Panels of 16 outputs as bytes: 4 bits 8 inputs per 64 bytes, 8 bits 4 inputs per 64 bytes.
    zero: what is added to a code to store it; beyond N and K 8 or 128 is stored."""
    padded, out = (k + 7) // 8 * 8, bytearray()

    def stored(n, i):
        return zero + weights[n][1][i] if n < len(weights) and i < k else 1 << (bits - 1)

    for panel in range(0, len(weights), 16):
        for first in range(0, padded, 8 if bits == 4 else 4):
            for n in range(panel, panel + 16):
                for j in range(4):
                    low = stored(n, first + j)
                    out.append(low | stored(n, first + 4 + j) << 4 if bits == 4 else low)
    return out.hex()


# ---- the KV cache --------------------------------------------------------------------------------

def kv_group(values, s):
    """Scale (f16) and zero of one group."""
    top, middle = (1 << s["bits"]) - 1, 1 << (s["bits"] - 1)
    positive, negative = extremes(values)
    if s["range"] != "asymmetric":
        return f16(group_scale({**s, "activation_bits": s["bits"]}, positive, negative)), middle
    clip = f32(Q(s["clip"]))
    scale = f16(f32(f32(clip * f32(positive + negative)) / top))
    return scale, round(min(f32(f32(clip * negative) / scale), top)) if scale else 0


def kv_rows(rows, s):
    """Codes [tokens][head], scales and zeros [tokens][groups]."""
    top, size, codes, scales, zeros = (1 << s["bits"]) - 1, s["group"], [], [], []
    for row in rows:
        row = hadamard_full(row) if s["rotated"] else row
        found = [kv_group(g, s) for g in groups(row, size)]
        for g, (scale, zero) in zip(groups(row, size), found):
            r = f32(1 / scale) if scale else Q(0)
            codes += [min(max(round(f32(x * r)) + zero, 0), top) for x in g]
        scales += [scale for scale, _ in found]
        zeros += [zero for _, zero in found]
    return codes, scales, zeros


def kv_query(q, s):
    """Codes of 8 bits and their scale: symmetric, over the whole head."""
    q = hadamard_full(q) if s["rotated"] else q
    scale = group_scale({"activation_bits": 8, "clip": 1.0, "range": "symmetric"}, *extremes(q))
    return [code(x, f32(1 / scale), 8) for x in q], scale


def kv_scores(query, query_scale, k, s):
    """Groups ascending: acc = fma(exact sum, scale, acc); then times the query's scale."""
    codes, scales, zeros = k
    size, out = s["group"] or len(query), []
    per_token = len(query) // size
    for t, row in enumerate(groups(codes, len(query))):
        acc = Q(0)
        for g in range(per_token):
            at = t * per_token + g
            total = sum(query[d] * (row[d] - zeros[at]) for d in range(g * size, (g + 1) * size))
            acc = f32(total * scales[at] + acc)
        out.append(f32(acc * query_scale))
    return out


def kv_output(p, v, head, s):
    """Tokens ascending: out = fma(p * scale, code - zero, out), the product rounded; V's rotation undone."""
    codes, scales, zeros = v
    size, out = s["group"] or head, [Q(0)] * head
    for t, row in enumerate(groups(codes, head)):
        for d in range(head):
            at = t * (head // size) + d // size
            out[d] = f32(f32(p[t] * scales[at]) * (row[d] - zeros[at]) + out[d])
    return hadamard_full(out) if s["rotated"] else out


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
           "window_rows": 0, "frozen": None, "activation_group": 32, "range": "full", "clip": 1.0,
           "weight_bits": 4, "weight_group": 32, "zero_points": False, "rank": 0}


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
    if s["window"] == "frozen":  # any positive numbers; some channels exceed them
        s["frozen"] = [abs(values.next()) + 1 for _ in groups(x[0], s["activation_group"])]
    weights = [weight_minmax(row, s) if s["zero_points"] else weight_rtn(row, s) for row in w]
    zeros = [list(z) for _, _, z in weights] if s["zero_points"] else None
    weights = [(scales, codes) for scales, codes, *_ in weights]
    offsets = [[-v * z for v, z in zip(scales, row)] for (scales, _), row in zip(weights, zeros)] if zeros else None
    rotated = [rotate(row, s) for row in x]
    l_a = [[f16(values.next() / 8) for _ in range(s["rank"])] for _ in range(n)]
    l_b = [[f16(values.next() / 8) for _ in range(k)] for _ in range(s["rank"])]
    up, down, rank_scales = low_rank_codes(l_a, l_b) if s.get("rank_bits") == 8 else (l_a, l_b, None)
    low_rank = (low_rank_down(rotated, down, rank_scales), up) if s["rank"] else None
    activations = quantize(rotated, s)
    quantized = s["activation_bits"] != 16
    zero = 0 if zeros else 1 << (s["weight_bits"] - 1)
    return {"name": name, "m": m, "n": n, "k": k,
            "scheme": {**s, "frozen": hex32(s["frozen"]) if s["frozen"] else None},
            "x": hex32(v for row in x for v in row), "w": hex32(v for row in w for v in row),
            "bias": hex32(b) if b else None, "weight_zero_points": sum(zeros, []) if zeros else None,
            "l_a": hex32(v for row in l_a for v in row), "l_b": hex32(v for row in l_b for v in row),
            "expected": {
                "weight_codes": [c for _, codes in weights for c in codes],
                "weight_scales": [f"{to_bits(v, exponent=5, mantissa=10):04x}"
                                  for scales, _ in weights for v in scales],
                "panels": pack(weights, s["weight_bits"], k, zero),
                "codes": [c for codes, _, _ in activations for c in codes] if quantized else [],
                "scales": hex32(v for _, scales, _ in activations for v in scales),
                "token_scales": hex32(t for _, _, t in activations),
                "y": gemm(activations, weights, offsets, s, b, low_rank)}}


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
    yield make_case("full_64", 4, 9, 64, rotation="full")
    yield make_case("full_96_paley_12", 4, 17, 96, rotation="full", sign_seed=3)
    yield make_case("full_192_row_groups", 3, 5, 192, rotation="full", weight_group=0, **{
        "activation_group": 0, "range": "symmetric"})
    yield make_case("window_of_2_rows", 5, 16, 96, window="rows", window_rows=2)
    yield make_case("window_of_3_rows_a8", 8, 9, 64, window="rows", window_rows=3, activation_bits=8)
    yield make_case("frozen_scales", 5, 17, 96, window="frozen")
    yield make_case("frozen_scales_symmetric", 4, 9, 77, window="frozen", range="symmetric", bias=True)
    yield make_case("a16", 5, 17, 96, activation_bits=16, bias=True)
    yield make_case("a16_w8_row", 3, 9, 72, activation_bits=16, weight_bits=8, weight_group=0)
    yield make_case("zero_points", 4, 17, 96, rotation="none", zero_points=True)
    yield make_case("zero_points_w8_g64", 4, 9, 128, rotation="none", zero_points=True, weight_bits=8,
                    weight_group=64, activation_bits=8)
    yield make_case("zero_points_a16", 4, 9, 77, rotation="none", zero_points=True, activation_bits=16)
    yield make_case("rank_3", 4, 17, 96, rank=3)
    yield make_case("rank_9_a8_bias", 5, 20, 77, rank=9, activation_bits=8, bias=True)
    yield make_case("rank_4_a16", 4, 9, 64, rank=4, activation_bits=16)
    yield make_case("rank_9_in_8_bits", 5, 20, 77, rank=9, rank_bits=8, bias=True)
    yield make_case("rank_4_in_8_bits_a16", 4, 9, 64, rank=4, rank_bits=8, activation_bits=16)


def make_kv_case(name, tokens, head, bits, group=32, values_range="asymmetric", clip=1.0, rotated=True):
    s = {"bits": bits, "group": group, "range": values_range, "clip": clip, "rotated": rotated}
    values = Values(sum(ord(c) << (i % 24) for i, c in enumerate(name)))
    k, v = ([[values.next() for _ in range(head)] for _ in range(tokens)] for _ in range(2))
    for row in k:
        row[head // 3] *= 10  # an outlier channel
        row[head // 3] += 7  # and not centred
    v[1] = [x * 512 for x in v[1]]  # a spike token
    k[2] = v[3] = [Q(0)] * head
    k[4] = [abs(x) for x in k[4]]
    q = [values.next() for _ in range(head)]
    p = [abs(values.next()) for _ in range(tokens)]
    query, query_scale = kv_query(q, s)
    expected = {"query": query, "query_scale": hex32([query_scale])}
    stored = {"k": kv_rows(k, s), "v": kv_rows(v, s)}
    for tensor, (codes, scales, zeros) in stored.items():
        expected[tensor] = {"codes": codes, "zeros": zeros, "scales": [
            f"{to_bits(x, exponent=5, mantissa=10):04x}" for x in scales]}
    expected["scores"] = hex32(kv_scores(query, query_scale, stored["k"], s))
    expected["out"] = hex32(kv_output(p, stored["v"], head, s))
    return {"name": name, "tokens": tokens, "head": head, "scheme": s, "k": hex32(sum(k, [])),
            "v": hex32(sum(v, [])), "q": hex32(q), "p": hex32(p), "expected": expected}


def all_kv_cases():
    yield make_kv_case("kv4", 18, 64, 4)
    yield make_kv_case("kv8", 18, 64, 8)
    yield make_kv_case("kv4_clip_plain", 9, 32, 4, group=16, clip=0.875, rotated=False)
    yield make_kv_case("kv8_symmetric_head", 9, 40, 8, group=0, values_range="symmetric", rotated=False)
    yield make_kv_case("kv4_full_paley_12", 9, 48, 4, group=16, values_range="full")


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    cases, kv_cases = list(all_cases()), list(all_kv_cases())
    with open(sys.argv[1], "w", encoding="ascii") as out:
        out.write('{"version": %d, "cases": [\n' % VERSION)
        out.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
        out.write('\n], "kv_cases": [\n')
        out.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in kv_cases))
        out.write("\n]}\n")
    print(f"conformance: {len(cases)} cases and {len(kv_cases)} of the KV cache written")
    return 0


sys.exit(main())
