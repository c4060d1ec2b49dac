"""The native scalar builder against numpy: errors in ulps, special values, integers, lanes.

Float32 is compared with numpy's float64, float64 with numpy's long double where that is wider.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from graphc.runtime.native import codegen, emit, jit, math_exponential, math_tables, object_files
from graphc.runtime.native.scalar import NativeScalar
from graphc.runtime.native.target import describe, host
from graphc.runtime.native.vector_math import ULP_BOUNDS

import graphc

NUMPY: dict[str, Any] = {"float": np.float32, "double": np.float64, "i32": np.int32, "i64": np.int64, "i1": np.bool_}
FLOATS = ("float", "double")
INTEGERS = ("i32", "i64")
BINARY = ("pow", "atan2")
UNARY = tuple(name for name in ULP_BOUNDS if name not in BINARY)
WIDE = np.finfo(np.longdouble).nmant > 52
ROUND: dict[str, Callable[..., np.ndarray]] = {
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.round, "sign": np.sign, "abs": np.abs,
    "neg": np.negative}
CLASSIFY: dict[str, Callable[..., np.ndarray]] = {"is_nan": np.isnan, "is_inf": np.isinf, "is_finite": np.isfinite}
COMPARE = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
           "ne": np.not_equal}
DIVIDE = {"floordiv": np.floor_divide, "mod": np.remainder}
DTYPES = ("float32", "float64", "int32", "int64", "bool")
LLVM = dict(zip(DTYPES, ("float", "double", "i32", "i64", "i1"), strict=True))

Body = Callable[..., emit.Value]
IN_PIECES: dict[str, Body] = {"tanh": math_tables.tanh, "erf": math_tables.erf}
SCALED: dict[str, Body] = {"exp": math_exponential.exp_scaled, "sigmoid": math_exponential.sigmoid_scaled}


def method(name: str) -> Body:
    return lambda s, *operands: getattr(s, name)(*operands)


def catalogue(lookups: bool) -> dict[str, tuple[Body, tuple[str, ...], str]]:
    """name: (body, operand types, result type) of everything that is tested; some of AVX-512 alone where `lookups` says so."""
    found: dict[str, tuple[Body, tuple[str, ...], str]] = {}
    for name, body in IN_PIECES.items() if lookups else ():
        found[f"{name}_in_pieces.float"] = (body, ("float",), "float")
    for t, (name, body) in itertools.product(FLOATS, SCALED.items()) if lookups else ():
        found[f"{name}_scaled.{t}"] = (body, (t,), t)
    for t in FLOATS:
        for name in (*UNARY, "floor", "ceil", "trunc", "round"):
            found[f"{name}.{t}"] = (method(name), (t,), t)
        for name in (*BINARY, "copysign"):
            found[f"{name}.{t}"] = (method(name), (t, t), t)
        for name in ("is_nan", "is_inf", "is_finite"):
            found[f"{name}.{t}"] = (method(name), (t,), "i1")
        found[f"fma.{t}"] = (method("fma"), (t, t, t), t)
        found[f"bits.{t}"] = (lambda s, x: s.as_float(s.as_int(x)), (t,), t)
        found[f"relu.{t}"] = (lambda s, x: s.maximum(x, s.const(0, x)), (t,), t)
        found[f"nan_minimum.{t}"] = (lambda s, x: s.minimum(x, s.const(math.nan, x)), (t,), t)
    for t in (*FLOATS, *INTEGERS):
        for name in ("add", "sub", "mul", "minimum", "maximum", "floordiv", "mod"):
            found[f"{name}.{t}"] = (method(name), (t, t), t)
        for name in ("neg", "abs", "sign"):
            found[f"{name}.{t}"] = (method(name), (t,), t)
        found[f"select.{t}"] = (method("select"), ("i1", t, t), t)
    for t in INTEGERS:
        for name in ("pow", "shl", "shr", "and_", "or_", "xor"):
            found[f"{name}.{t}"] = (method(name), (t, t), t)
        found[f"not_.{t}"] = (method("not_"), (t,), t)
    for t in ("i1", *FLOATS, *INTEGERS):
        for name in COMPARE:
            found[f"{name}.{t}"] = (method(name), (t, t), "i1")
    for name in ("and_", "or_", "xor", "add", "mul", "minimum", "maximum"):
        found[f"{name}.i1"] = (method(name), ("i1", "i1"), "i1")
    found["not_.i1"] = (method("not_"), ("i1",), "i1")
    for source, to in itertools.product(DTYPES, DTYPES):
        found[f"cast.{source}.{to}"] = (lambda s, x, to=to: s.cast(x, to), (LLVM[source],), LLVM[to])
    return found


def memory(scalar: str) -> str:
    return "i8" if scalar == "i1" else scalar


def module_text(lanes: int, lookups: bool = False) -> str:
    """One loop over arrays for each entry of the catalogue, with this many lanes (0: scalars)."""
    module = emit.Module()
    for name, (body, operands, result) in catalogue(lookups).items():
        pointers = [(f"p{i}", "ptr") for i in range(len(operands) + 1)]
        f = module.function(name, [("n", "i64"), *pointers], internal=False)
        with f.loop(0, f.parameters[0], step=lanes or 1) as i:
            values = []
            for pointer, scalar in zip(f.parameters[1:], operands, strict=False):
                type_ = emit.vector(lanes, memory(scalar))
                value = f.load(f.offset(pointer, i, memory(scalar)), type_)
                values.append(f.compare("icmp ne", value, emit.constant(0, type_)) if scalar == "i1" else value)
            out = body(NativeScalar(f), *values)
            assert out.type == emit.vector(lanes, result), name
            out = f.convert("zext", out, "i8") if result == "i1" else out
            f.store(out, f.offset(f.parameters[-1], i, memory(result)))
    return module.text()


@lru_cache
def compiled(lanes: int) -> jit.Code:
    return jit.compile_module(module_text(lanes, host().has_lookups), target=host(), name=f"scalar.{lanes}")


def run(name: str, *arrays: np.ndarray, lanes: int = 16) -> np.ndarray:
    _, operands, result = catalogue_once()[name]
    count = arrays[0].size
    padded = -(-count // 16) * 16
    buffers = [np.zeros(padded, NUMPY[t]) for t in (*operands, result)]
    for buffer, array in zip(buffers, arrays, strict=False):
        assert buffer.dtype == array.dtype
        buffer[:count] = array
    types = [ctypes.c_int64] + [ctypes.c_void_p] * len(buffers)
    ctypes.CFUNCTYPE(None, *types)(compiled(lanes).address(name))(padded, *(b.ctypes.data for b in buffers))
    return buffers[-1][:count]


@lru_cache
def catalogue_once() -> dict[str, tuple[Body, tuple[str, ...], str]]:
    return catalogue(host().has_lookups)


# -- arguments and references ----------------------------------------------------------------------------------------


def random_bits(rng: np.random.Generator, dtype: Any, count: int) -> np.ndarray:
    return rng.integers(0, 256, count * np.dtype(dtype).itemsize, dtype=np.uint8).view(dtype)


def specials(dtype: Any) -> np.ndarray:
    """Zeros, infinities, NaN, limits, small numbers and their neighbours."""
    limits = np.finfo(dtype)
    plain = [0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 10.0, 1e30, 1e-30, limits.max, limits.tiny, limits.eps, math.inf,
             2.0**limits.nmant, 2.0 ** (limits.nmant + 1) - 1, 0.95, math.sqrt(0.5), math.pi / 4, 3.93, 88.72283,
             -87.33654, 709.782712893384, -708.3964185322641, 128.0, 126.0, 1024.0, 1022.0]
    with np.errstate(over="ignore"):
        positive = np.array(plain).astype(dtype)
        around = np.concatenate([positive, np.nextafter(positive, dtype(0)), np.nextafter(positive, dtype(math.inf))])
    return np.concatenate([around, -around, np.array([math.nan], dtype)])


def arguments(name: str, dtype: Any, count: int = 20000) -> np.ndarray:
    """Dense where the function bends, all magnitudes, and the special ones."""
    rng = np.random.default_rng(7)
    reach = 1.02 * (104.0 if dtype is np.float32 else 745.0)
    spans = [1.5, 12.0, reach, 1100.0 if name == "exp2" else 30.0]
    parts = [rng.uniform(-span, span, count) for span in spans] + [1 + rng.normal(size=count) * 1e-3]
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.concatenate([*(p.astype(dtype) for p in parts), random_bits(rng, dtype, count), specials(dtype)])
    if name in ("sin", "cos", "tan"):
        x = x[~(np.abs(x) > 2.0**40) | np.isinf(x)]
    return x


def reference(name: str, *arrays: np.ndarray) -> np.ndarray:
    """The function in more digits than the operands have."""
    wide: Any = np.float64 if arrays[0].dtype == np.float32 and name != "pow" else np.longdouble
    with np.errstate(all="ignore"):
        x, *rest = (a.astype(wide) for a in arrays)
        if name in ("erf", "erfc"):
            return np.array([getattr(math, name)(v) for v in x.tolist()]).astype(wide)
        special: dict[str, Callable[[], np.ndarray]] = {
            "sigmoid": lambda: 1 / (1 + np.exp(-x)), "rsqrt": lambda: 1 / np.sqrt(x), "reciprocal": lambda: 1 / x,
            "softplus": lambda: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), "pow": lambda: np.power(x, rest[0]),
            "atan2": lambda: np.arctan2(x, rest[0]), "asin": lambda: np.arcsin(x), "acos": lambda: np.arccos(x),
            "atan": lambda: np.arctan(x)}
        return special[name]() if name in special else getattr(np, name)(x)


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Errors in units in the last place of `want`; 0 where both round to one special value or are flushed, inf where
    one is NaN or infinite alone."""
    limits = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        exponent = np.clip(np.frexp(want)[1] - 1, limits.minexp, limits.maxexp - 1)
        error = np.abs(got.astype(want.dtype) - want) / np.ldexp(want.dtype.type(1), exponent - limits.nmant)
        exact = (np.isnan(got) & np.isnan(rounded)) | (got == rounded)
        flushed = (np.abs(want) < limits.tiny) & (np.abs(got) <= limits.tiny)
    error[exact & (~np.isfinite(rounded) | (rounded == 0)) | flushed] = 0
    error[np.isnan(error)] = np.inf
    return error.astype(np.float64)


def check_bound(name: str, scalar: str, *arrays: np.ndarray, body: str = "") -> None:
    """body: what computes the function, if not the entry of its name."""
    want = reference(name, *arrays)
    got = run(f"{body or name}.{scalar}", *arrays)
    bound = ULP_BOUNDS[name][FLOATS.index(scalar)]
    if scalar == "double" and not WIDE:
        bound += 1  # the reference's own error
    error = ulps(got, want)
    worst = int(error.argmax())
    assert error[worst] <= bound, f"{name}({[a[worst] for a in arrays]}) = {got[worst]}, not {want[worst]}"
    zero = want == 0
    with np.errstate(over="ignore"):
        assert np.array_equal(np.signbit(got[zero]), np.signbit(want[zero])), f"{name}: the sign of zero"


# -- elementary functions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scalar", FLOATS)
@pytest.mark.parametrize("name", UNARY)
def test_error_of_functions(name: str, scalar: str) -> None:
    check_bound(name, scalar, arguments(name, NUMPY[scalar]))


@pytest.mark.parametrize("name", IN_PIECES if host().has_lookups else ())
def test_error_of_functions_in_pieces(name: str) -> None:
    """The same bounds, at every end of a piece too; never beyond one, which what follows may rely on."""
    ends = np.exp2(np.arange(-6, 5, 0.25) // 1) * (1 + np.arange(-6, 5, 0.25) % 1)
    ends = np.concatenate([ends, *(np.nextafter(ends.astype(np.float32), np.float32(to)) for to in (0, 99))])
    dense = np.arange(0x3C000000, 0x41300000, 257, dtype=np.uint32).view(np.float32)
    x = np.concatenate([arguments(name, np.float32), ends.astype(np.float32), -ends.astype(np.float32), dense])
    check_bound(name, "float", x, body=f"{name}_in_pieces")
    found = run(f"{name}_in_pieces.float", x)
    assert np.abs(found[~np.isnan(x)]).max() == 1
    assert run(f"{name}_in_pieces.float", np.array([0.0, -0.0, math.inf, -math.inf], np.float32)).tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize("scalar", FLOATS)
@pytest.mark.parametrize("name", SCALED if host().has_lookups else ())
def test_error_of_functions_that_scale(name: str, scalar: str) -> None:
    """The same bounds, near powers of two and at the ends, too; the limits are reached exactly."""
    dtype = NUMPY[scalar]
    halves = (np.arange(-1100, 1100) + 0.5) * math.log(2)
    x = np.concatenate([arguments(name, dtype), *(v.astype(dtype) for v in (halves, -halves, halves * (1 + 1e-6)))])
    check_bound(name, scalar, x, body=f"{name}_scaled")
    ends = np.array([0.0, -0.0, -math.inf, -1e30, math.inf, 1e30], dtype)
    wanted = {"exp": [1, 1, 0, 0, math.inf, math.inf], "sigmoid": [0.5, 0.5, 0, 0, 1, 1]}[name]
    assert run(f"{name}_scaled.{scalar}", ends).tolist() == wanted
    assert np.isnan(run(f"{name}_scaled.{scalar}", np.array([math.nan], dtype))).all()


def test_steps_use_pieces_where_the_processor_looks_them_up() -> None:
    x = graphc.placeholder("x", (64,))
    function = graphc.function([x], graphc.tanh(x) + graphc.erf(x) + graphc.exp(x))
    function(np.zeros(64, np.float32))
    for instruction in ("vpermi2var", "scalef"):
        assert (instruction in function.dump(stage="llvm")) == (function.backend == "native" and host().has_lookups)


@pytest.mark.parametrize("scalar", FLOATS)
@pytest.mark.parametrize("name", BINARY)
def test_error_of_functions_of_two(name: str, scalar: str) -> None:
    dtype, rng, count = NUMPY[scalar], np.random.default_rng(8), 30000
    values = np.concatenate([specials(dtype), np.arange(-5, 6).astype(dtype)])
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    pairs = [(a, b), (random_bits(rng, dtype, count), random_bits(rng, dtype, count))]
    for low, high, size in ((-9, 9, 9), (0, 3, 90), (0.999, 1.001, 1e5)):
        pairs.append((rng.uniform(low, high, count).astype(dtype), rng.uniform(-size, size, count).astype(dtype)))
    pairs.append((rng.integers(-9, 9, count).astype(dtype), rng.integers(-9, 20, count).astype(dtype)))
    check_bound(name, scalar, np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs]))


def test_values_that_are_exact() -> None:
    for scalar in FLOATS:
        whole = np.arange(-100, 100).astype(NUMPY[scalar])
        assert np.array_equal(run(f"exp2.{scalar}", whole), np.exp2(whole))
        assert np.array_equal(run(f"log2.{scalar}", np.exp2(whole)), whole)
        edge = np.array([0.0, math.inf, -math.inf, 40.0, -800.0], NUMPY[scalar])
        assert run(f"sigmoid.{scalar}", edge).tolist() == [0.5, 1, 0, 1, 0]
        assert run(f"tanh.{scalar}", edge).tolist() == [0, 1, -1, 1, -1]
        assert run(f"erf.{scalar}", edge).tolist() == [0, 1, -1, 1, -1]
        assert run(f"exp.{scalar}", edge[:3]).tolist() == [1, math.inf, 0]


def test_enormous_angles_stay_bounded() -> None:
    for scalar in FLOATS:
        x = np.geomspace(2.0**51, np.finfo(NUMPY[scalar]).max / 2, 1000).astype(NUMPY[scalar])
        sine, cosine = run(f"sin.{scalar}", x), run(f"cos.{scalar}", x)
        assert np.allclose(sine * sine + cosine * cosine, 1, atol=1e-6)


@pytest.mark.parametrize("lanes", [0, 2, 8])
def test_lane_counts_agree_bitwise(lanes: int) -> None:
    rng = np.random.default_rng(9)
    for name, (_, operands, _) in catalogue_once().items():
        arrays = []
        for t in operands:
            values = rng.uniform(-8, 8, 96)
            arrays.append(values > 0 if t == "i1" else values.astype(NUMPY[t]))
        one, other = run(name, *arrays), run(name, *arrays, lanes=lanes)
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), name


# -- arithmetic ------------------------------------------------------------------------------------------------------


def integers(scalar: str) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of small, large and limiting integers."""
    limits = np.iinfo(NUMPY[scalar])
    values = [*range(-9, 10), 31, 32, 33, 63, 64, 1000, limits.min, limits.min + 1, limits.max, limits.max // 3]
    a, b = np.meshgrid(np.array(values, NUMPY[scalar]), np.array(values, NUMPY[scalar]))
    return a.ravel(), b.ravel()


def floats(scalar: str) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of special values, and pairs of random bits."""
    dtype, rng = NUMPY[scalar], np.random.default_rng(10)
    a, b = np.meshgrid(specials(dtype), specials(dtype))
    near = rng.uniform(-50, 50, (2, 5000)).astype(dtype)
    return (np.concatenate([a.ravel(), random_bits(rng, dtype, 20000), near[0]]),
            np.concatenate([b.ravel(), random_bits(rng, dtype, 20000), near[1]]))


def same(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("scalar", INTEGERS)
def test_integer_arithmetic(scalar: str) -> None:
    a, b = integers(scalar)
    with np.errstate(all="ignore"):
        for name, function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("minimum", np.minimum),
                               ("maximum", np.maximum), ("and_", np.bitwise_and), ("or_", np.bitwise_or),
                               ("xor", np.bitwise_xor), *DIVIDE.items(), *COMPARE.items()):
            same(run(f"{name}.{scalar}", a, b), function(a, b))
        for name, one in (("neg", np.negative), ("abs", np.abs), ("sign", np.sign), ("not_", np.invert)):
            same(run(f"{name}.{scalar}", a), one(a))
        same(run(f"pow.{scalar}", a, b), np.where(b < 0, 0, np.power(a, np.maximum(b, 0))).astype(a.dtype))
        unsigned = a.view(np.uint32 if scalar == "i32" else np.uint64)
        width = 8 * a.itemsize
        amount = np.clip(b, 0, width - 1).astype(unsigned.dtype)
        inside = (b >= 0) & (b < width)
        same(run(f"shl.{scalar}", a, b), np.where(inside, unsigned << amount, 0).astype(unsigned.dtype).view(a.dtype))
        same(run(f"shr.{scalar}", a, b), np.where(inside, unsigned >> amount, 0).astype(unsigned.dtype).view(a.dtype))
        same(run(f"select.{scalar}", a > b, a, b), np.where(a > b, a, b))


@pytest.mark.parametrize("scalar", FLOATS)
def test_float_arithmetic(scalar: str) -> None:
    a, b = floats(scalar)
    with np.errstate(all="ignore"):
        for name, function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("minimum", np.minimum),
                               ("maximum", np.maximum), ("copysign", np.copysign), *COMPARE.items()):
            same(run(f"{name}.{scalar}", a, b), function(a, b))
        for name, one in (ROUND | CLASSIFY).items():
            same(run(f"{name}.{scalar}", a), one(a))
        same(run(f"relu.{scalar}", a), np.maximum(a, 0))
        same(run(f"nan_minimum.{scalar}", a), np.full_like(a, math.nan))
        assert run(f"bits.{scalar}", a).tobytes() == a.tobytes()
        same(run(f"select.{scalar}", a > b, a, b), np.where(a > b, a, b))


def test_fma_rounds_once() -> None:
    for scalar in FLOATS:
        one = NUMPY[scalar](1)
        x = np.array([one + np.finfo(NUMPY[scalar]).eps])
        assert run(f"fma.{scalar}", x, x, -x * x)[0] == np.finfo(NUMPY[scalar]).eps ** 2


@pytest.mark.parametrize("scalar", FLOATS)
@pytest.mark.parametrize("name", DIVIDE)
def test_float_division_with_remainder(name: str, scalar: str) -> None:
    a, b = floats(scalar)
    with np.errstate(all="ignore"):
        want = DIVIDE[name](a, b)
    got = run(f"{name}.{scalar}", a, b)
    same(got, want)
    assert np.array_equal(np.signbit(got[want == 0]), np.signbit(want[want == 0]))


def test_bools() -> None:
    a, b = np.array([False, False, True, True]), np.array([False, True, False, True])
    for name, function in (("and_", np.logical_and), ("or_", np.logical_or), ("xor", np.logical_xor), ("add", np.add),
                           ("mul", np.multiply), ("minimum", np.minimum), ("maximum", np.maximum), *COMPARE.items()):
        same(run(f"{name}.i1", a, b), function(a, b))
    same(run("not_.i1", a), ~a)


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_casts(source: str, to: str) -> None:
    if source == "bool":
        x = np.array([False, True])
    else:
        x = (floats if source.startswith("f") else integers)(LLVM[source])[0]
    with np.errstate(all="ignore"):
        if source.startswith("f") and to.startswith("int"):
            limits = np.iinfo(to)
            whole = [0 if math.isnan(v) else v for v in x.tolist()]
            exact = [limits.max if v >= limits.max else limits.min if v <= limits.min else int(v) for v in whole]
            want = np.array(exact, to)
        else:
            want = x.astype(to)
    same(run(f"cast.{source}.{to}", x), want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_without_instructions(dtype: Any) -> None:
    """What processors without SSE4.1 compute: the same numbers, signs of zeros and NaN."""
    scalar, last = ("float", 23) if dtype == np.float32 else ("double", 52)
    module = emit.Module(rounds=False)
    names = {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint}
    for name in names:
        f = module.function(name, [("x", "ptr"), ("to", "ptr")], internal=False)
        value = getattr(NativeScalar(f), name)(f.load(f.parameters[0], emit.vector(8, scalar)))
        f.store(value, f.parameters[1])
    code = jit.compile_module(module.text(), target=host(), name="rounding")
    edges = np.concatenate([[0.0, 0.3, 0.5, 0.7, 1.0, 1.5, 2.5, 7.49, np.inf, np.nan, 1e30, 1e-30, 2.0**last],
                            2.0**last + np.array([-1.5, -1.0, -0.5, 0.5, 1.0]), 2.0 ** (last - 1) + np.array([-0.5, 0.5, 1.5])])
    x = np.resize(np.concatenate([edges, -edges]).astype(dtype), (6, 8))
    for name, reference in names.items():
        function, got = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(code.address(name)), np.zeros_like(x)
        for row, to in zip(x, got, strict=True):
            function(row.ctypes.data, to.ctypes.data)
        same(got, reference(x))
        assert (np.signbit(got) == np.signbit(x))[~np.isnan(x)].all()


# -- code ------------------------------------------------------------------------------------------------------------


def test_dtype_names() -> None:
    function = emit.Module().function("f", [])
    s = NativeScalar(function)
    for name, scalar in LLVM.items():
        like = emit.constant(1, emit.vector(4, "float"))
        value = s.constant(1, name, like)
        assert (s.dtype(value), value.type) == (name, f"<4 x {scalar}>")


@pytest.mark.parametrize(("triple", "features"), [
    ("x86_64-unknown-linux-gnu", "+avx2,+fma"), ("x86_64-unknown-linux-gnu", "+avx512f,+avx512vl,+avx512bw,+avx512dq"),
    ("aarch64-unknown-linux-gnu", "+neon"), ("riscv64-unknown-linux-gnu", "+m,+f,+d")])
def test_nothing_outside_is_called(triple: str, features: str) -> None:
    codegen.initialize_all()
    cpu = "x86-64-v3" if triple.startswith("x86") else "generic-rv64" if triple.startswith("riscv") else "generic"
    data, _, _ = jit.compile_object(module_text(4), target=describe(triple, cpu, features), level=1, name="scalar")
    assert object_files.external_symbols(data) == ()
