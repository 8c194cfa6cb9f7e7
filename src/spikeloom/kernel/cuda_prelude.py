"""The fixed text of every CUDA module: types, and how neighbouring neurons move together."""

from __future__ import annotations

DEVICE = "__device__ __forceinline__"
# The type that a step computes in, by a tensor's dtype.
REAL = {"float32": "float", "float64": "double", "float16": "float", "bfloat16": "float"}
BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}

_PACK = """
// VEC values of neighbouring neurons, moved by accesses of up to 16 bytes.
struct alignas({alignment}) Pack {{
    real lane[VEC];
    {device} real& operator[](int l) {{ return lane[l]; }}
    {device} const real& operator[](int l) const {{ return lane[l]; }}
}};

{device} Pack load(const real* from) {{
    return *reinterpret_cast<const Pack*>(from);
}}

{device} void save(real* to, const Pack& values) {{
    *reinterpret_cast<Pack*>(to) = values;
}}

// One value a neuron; with stride 0 one value serves them all.
{device} Pack initial(const real* from, long long stride, long long n) {{
    if (stride) return load(from + n);
    Pack all;
    #pragma unroll
    for (int l = 0; l < VEC; ++l) all[l] = *from;
    return all;
}}
"""

# Instructions of the GPU rather than cuda_fp16.h and cuda_bf16.h: NVRTC then needs no include
# path. The other branches are for compilers that build this text for a CPU.
_HALF = """
{device} real widen(stored bits) {{
    real value;
#ifdef __CUDA_ARCH__
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
#else
    union {{ stored bits; _Float16 half; }} both = {{bits}};
    value = both.half;
#endif
    return value;
}}

{device} stored narrow(real value) {{
#ifdef __CUDA_ARCH__
    stored bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    union {{ _Float16 half; stored bits; }} both = {{(_Float16) value}};
    return both.bits;
#endif
}}
"""

_BFLOAT = """
{device} real widen(stored bits) {{
    return __uint_as_float((unsigned int) bits << 16);
}}

{device} stored narrow(real value) {{
#if __CUDA_ARCH__ >= 800
    stored bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    const unsigned int bits = __float_as_uint(value);
    return value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#endif
}}
"""

_NARROW = """
struct alignas({alignment}) Narrow {{ stored lane[VEC]; }};

{device} Pack load(const stored* from) {{
    const Narrow narrow = *reinterpret_cast<const Narrow*>(from);
    Pack values;
    #pragma unroll
    for (int l = 0; l < VEC; ++l) values[l] = widen(narrow.lane[l]);
    return values;
}}

{device} void save(stored* to, const Pack& values) {{
    Narrow narrowed;
    #pragma unroll
    for (int l = 0; l < VEC; ++l) narrowed.lane[l] = narrow(values[l]);
    *reinterpret_cast<Narrow*>(to) = narrowed;
}}
"""

_TABLE = """
// Rows of T values, of which each neuron uses one.
struct Table {{
    const real* values;
    long long rows, T;
    {device} long long cell(real row, long long t) const {{
        // The nearest row there is; NaN takes the first.
        const long long whole = row > 0 ? (row < rows ? (long long) row : rows - 1) : 0;
        return whole * T + t;
    }}
    {device} real at(real row, long long t) const {{ return values[cell(row, t)]; }}
}};
"""

_SUMS = """
// A table's gradient as far as this thread has seen it.
struct Sums {{
    real* mine;
    long long threads;
    {device} void add(long long cell, real g) {{ mine[cell * threads] += g; }}
}};
"""


def prelude(dtype: str, vec: int, gated: bool, summed: bool) -> list[str]:
    """The types and functions that kernels use.

    Args:
        dtype: What sequences are stored as.
        vec: Neurons a thread carries.
        gated: Whether there are gated tables.
        summed: Whether such a table's gradient is summed.
    """
    real, narrow = REAL[dtype], BYTES[dtype] == 2
    lines = [
        f"using real = {real};  // computed with",
        f"using stored = {'unsigned short' if narrow else real};  // in sequences: {dtype}",
        f"constexpr int VEC = {vec};  // neurons a thread",
    ]
    width = 8 if real == "double" else 4
    parts = [(_PACK, width), (_TABLE if gated else "", 0), (_SUMS if summed else "", 0)]
    if narrow:
        conversion = _HALF if dtype == "float16" else _BFLOAT
        parts[1:1] = [(conversion + _NARROW, 2)]
    for text, width in parts:
        filled = text.format(device=DEVICE, alignment=min(16, width * vec))
        lines += filled.rstrip("\n").splitlines()
    return lines
