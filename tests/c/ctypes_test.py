"""The C interface from Python's ctypes: a layer through the shared library against the product in
Python floats, with and without an executor that is a Python function; what it explains; its version.

    usage: ctypes_test.py PATH/librrs_c_shared.so
"""
import ctypes
import math
import pathlib
import random
import re
import sys

ROWS, OUTPUTS, INPUTS = 3, 20, 96
i32, i64, f32, u64 = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_uint64


TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, i64)
EXECUTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, i64, TASK, ctypes.c_void_p)


class Scheme(ctypes.Structure):
    _fields_ = [("size", i64), ("rotation", i32), ("rotation_block", i32), ("random_signs", i32),
                ("activation_bits", i32), ("sign_seed", u64), ("window_rows", i64), ("window", i32),
                ("activation_group", i32), ("activation_range", i32), ("activation_clip", f32),
                ("activation_floor", f32), ("token_scale", i32), ("exact_reference", i32),
                ("weight_bits", i32), ("weight_group", i32), ("weight_range", i32),
                ("weight_scale", i32), ("smoothquant_alpha", f32)]


class Error(ctypes.Structure):
    _fields_ = [("code", i32), ("message", ctypes.c_char * 256)]


class Matrix(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("rows", i64), ("cols", i64), ("row_stride", i64),
                ("type", i32)]


class PrepareArgs(ctypes.Structure):
    _fields_ = [("size", i64), ("w", Matrix), ("scheme", ctypes.POINTER(Scheme)),
                ("channels", ctypes.c_void_p), ("executor", ctypes.c_void_p),
                ("executor_user", ctypes.c_void_p)]


class LinearArgs(ctypes.Structure):
    _fields_ = [("size", i64), ("x", Matrix), ("y", Matrix), ("weight", ctypes.c_void_p),
                ("channels", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("accumulate", i32),
                ("activation_bits", i32), ("workspace", ctypes.c_void_p), ("workspace_bytes", i64),
                ("executor", ctypes.c_void_p), ("executor_user", ctypes.c_void_p)]


def matrix(data, rows, cols):
    return Matrix(ctypes.cast(data, ctypes.c_void_p), rows, cols, cols, 0)


def check_executor(library, prepare, args, y):
    """The same bits when Python runs the tasks of both, last first (so small a product needs no executor)."""
    before, ran = bytes(y), []

    def backwards(user, n_tasks, task, context):
        for i in reversed(range(n_tasks)):
            task(context, i)
            ran.append((user, i))

    executor = EXECUTOR(backwards)
    for a in (prepare, args):
        a.executor, a.executor_user = ctypes.cast(executor, ctypes.c_void_p), 77
    error, weight, first = Error(), ctypes.c_void_p(), args.weight
    code = library.rrs_weight_prepare(ctypes.byref(prepare), ctypes.byref(weight), ctypes.byref(error))
    assert code == 0, error.message
    assert ran and ran == [(77, i) for i in reversed(range(len(ran)))], ran
    ctypes.memset(y, 0xff, len(before))
    args.weight = weight
    assert library.rrs_linear(ctypes.byref(args), ctypes.byref(error)) == 0, error.message
    assert bytes(y) == before
    library.rrs_weight_free(weight)
    args.weight, args.executor, args.executor_user = first, None, None


def check_explain(library, weight):
    """The size is asked first; one byte less is refused."""
    needed, error = i64(), Error()
    library.rrs_explain(weight, i64(ROWS), None, i64(0), ctypes.byref(needed), None)
    assert needed.value > 20, needed.value
    text = ctypes.create_string_buffer(needed.value)
    short = library.rrs_explain(weight, i64(ROWS), text, i64(needed.value - 1), None, ctypes.byref(error))
    assert short == 1 and b"capacity" in error.message, (short, error.message)
    code = library.rrs_explain(weight, i64(ROWS), text, needed, None, ctypes.byref(error))
    assert code == 0, error.message
    assert len(text.value) == needed.value - 1, (text.value, needed.value)
    assert any(level in text.value for level in (b"scalar", b"avx", b"amx")), text.value


def check_explain_linear(library, args):
    """The kernel of each precision that a call may ask for; 0 is the weight's own, 8 bits."""
    texts = {}
    for bits in (0, 4, 8, 16):
        args.activation_bits = bits
        needed, error = i64(), Error()
        code = library.rrs_explain_linear(ctypes.byref(args), None, i64(0), ctypes.byref(needed), ctypes.byref(error))
        assert code == 0, error.message
        text = ctypes.create_string_buffer(needed.value)
        code = library.rrs_explain_linear(ctypes.byref(args), text, needed, None, ctypes.byref(error))
        assert code == 0, error.message
        texts[bits] = text.value
    assert texts[0] == texts[8], texts
    for bits in (4, 8, 16):
        assert b"w4a%d" % bits in texts[bits], texts
    args.activation_bits = 0


def check_exports(library):
    """Every function of the header, by its name."""
    header = pathlib.Path(__file__).resolve().parents[2] / "include/rrs/c/rrs.h"
    names = re.findall(r"^RRS_C_API [\w ]+?\*?(rrs_\w+)\(", header.read_text(), re.M)
    assert len(names) == 15, names
    for name in names:
        getattr(library, name)


def version_of_header():
    """10000 * major + 100 * minor + patch, as core/version.hpp has it."""
    header = pathlib.Path(__file__).resolve().parents[2] / "include/rrs/core/version.hpp"
    numbers = re.findall(r"#define RRS_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header.read_text())
    assert len(numbers) == 3, numbers
    major, minor, patch = map(int, numbers)
    return 10000 * major + 100 * minor + patch


def run(library):
    rng = random.Random(3)
    x = (f32 * (ROWS * INPUTS))(*[rng.gauss(0, 1) for _ in range(ROWS * INPUTS)])
    w = (f32 * (OUTPUTS * INPUTS))(*[rng.gauss(0, 1) for _ in range(OUTPUTS * INPUTS)])
    y = (f32 * (ROWS * OUTPUTS))()
    error = Error()
    scheme = Scheme(size=ctypes.sizeof(Scheme))
    assert library.rrs_scheme_preset(b"rrs_w4a8", ctypes.byref(scheme), ctypes.byref(error)) == 0
    assert (scheme.activation_bits, scheme.weight_group) == (8, 32)
    weight = ctypes.c_void_p()
    prepare = PrepareArgs(size=ctypes.sizeof(PrepareArgs), w=matrix(w, OUTPUTS, INPUTS),
                          scheme=ctypes.pointer(scheme))
    code = library.rrs_weight_prepare(ctypes.byref(prepare), ctypes.byref(weight),
                                      ctypes.byref(error))
    assert code == 0, error.message
    size = i64()
    assert library.rrs_workspace_bytes(weight, i64(ROWS), ctypes.byref(size), None) == 0
    workspace = ctypes.create_string_buffer(size.value + 63)
    args = LinearArgs(size=ctypes.sizeof(LinearArgs), x=matrix(x, ROWS, INPUTS),
                      y=matrix(y, ROWS, OUTPUTS), weight=weight,
                      workspace=ctypes.cast(workspace, ctypes.c_void_p),
                      workspace_bytes=size.value + 63)
    code = library.rrs_linear(ctypes.byref(args), ctypes.byref(error))
    assert code == 0, error.message
    wrong = norm = 0.0
    for t in range(ROWS):
        for n in range(OUTPUTS):
            exact = sum(x[t * INPUTS + k] * w[n * INPUTS + k] for k in range(INPUTS))
            wrong += (y[t * OUTPUTS + n] - exact) ** 2
            norm += exact ** 2
    relative = math.sqrt(wrong / norm)
    assert 0.01 < relative < 0.15, relative
    check_executor(library, prepare, args, y)
    check_explain(library, weight)
    check_explain_linear(library, args)
    args.size = 8
    assert library.rrs_linear(ctypes.byref(args), ctypes.byref(error)) == 1
    assert b"args.size" in error.message, error.message
    library.rrs_weight_free(weight)
    print(f"ctypes: relative error {relative:.4f}")


def main():
    library = ctypes.CDLL(sys.argv[1])
    library.rrs_weight_free.argtypes = [ctypes.c_void_p]
    library.rrs_weight_free.restype = None
    assert library.rrs_abi_version() == 1
    check_exports(library)
    assert library.rrs_version() == version_of_header()
    run(library)


main()
