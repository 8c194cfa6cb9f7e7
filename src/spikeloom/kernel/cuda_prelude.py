"""The fixed text of every CUDA module: types, and how neighbouring neurons move together."""

from __future__ import annotations

import re

DEVICE = "__device__ __forceinline__"
# The type that a step computes in, by a tensor's dtype.
REAL = {"float32": "float", "float64": "double", "float16": "float", "bfloat16": "float"}
# The type that is moved by one access of so many bytes.
_CHUNK = {2: "stored", 4: "unsigned int", 8: "uint2", 16: "uint4"}
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
    {chunk} chunks[sizeof(Pack) / sizeof({chunk})];
    memcpy(chunks, &values, sizeof(Pack));
    #pragma unroll
    for (int i = 0; i < sizeof(Pack) / sizeof({chunk}); ++i)
        __stwb(reinterpret_cast<{chunk}*>(to) + i, chunks[i]);
}}

// One value a neuron; with stride 0 one value serves them all, and null stands for zeros.
{device} Pack initial(const real* from, long long stride, long long n) {{
    if (stride) return load(from + n);
    const real every = from ? *from : 0;
    Pack all;
    #pragma unroll
    for (int l = 0; l < VEC; ++l) all[l] = every;
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

# Two lanes are rounded by one instruction.
_NARROW = """
struct alignas({alignment}) Narrow {{ stored lane[VEC]; }};

{device} Pack load(const stored* from) {{
    const Narrow narrow = *reinterpret_cast<const Narrow*>(from);
    Pack values;
    #pragma unroll
    for (int l = 0; l < VEC; ++l) values[l] = widen(narrow.lane[l]);
    return values;
}}

{device} unsigned int narrow_two(real low, real high) {{
#if __CUDA_ARCH__ >= 800
    unsigned int bits;
    asm("cvt.rn.{pair}.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
#else
    return narrow(low) | (unsigned int) narrow(high) << 16;
#endif
}}

{device} void save(stored* to, const Pack& values) {{
    Narrow narrowed;
    #pragma unroll
    for (int l = 0; l + 1 < VEC; l += 2) {{
        const unsigned int two = narrow_two(values[l], values[l + 1]);
        memcpy(&narrowed.lane[l], &two, sizeof(two));
    }}
    if (VEC == 1) narrowed.lane[0] = narrow(values[0]);
    {chunk} chunk;
    memcpy(&chunk, &narrowed, sizeof(chunk));
    __stwb(reinterpret_cast<{chunk}*>(to), chunk);
}}
"""

_TABLE = """
// Rows of T values, of which each neuron uses one.
struct Table {{
    const real* values;
    long long rows, T;
    // The nearest row there is; NaN takes the first.
    {device} int nearest(real row) const {{
        return row > 0 ? (row < rows ? (int) row : (int) rows - 1) : 0;
    }}
    {device} real at(real row, long long t) const {{
        return values[nearest(row) * T + t];
    }}
}};
"""

_SUMS = """
// A table's gradient as far as this thread has seen it.
struct Sums {{
    real* mine;
    long long threads, rows, T;
    {device} void clear() {{
        for (long long cell = 0; cell < rows * T; ++cell) mine[cell * threads] = 0;
    }}
    {device} void add(long long row, long long t, real g) {{
        mine[(row * T + t) * threads] += g;
    }}
}};
"""

_WARP_SUMS = """
// The sum over the first threads of a warp, for the first of them; always in the same order.
{device} real sum_of_warp(real value, int active) {{
    const unsigned int mask = active < 32 ? (1u << active) - 1 : ~0u;
    #pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {{
        const real other = __shfl_down_sync(mask, value, distance);
        if (threadIdx.x % 32 + distance < active) value += other;
    }}
    return value;
}}

// The gradient of a table of few rows as far as this warp has seen it, in shared memory.
template <int ROWS>
struct WarpSums {{
    real* cells;
    long long T;
    real step[ROWS];  // of this thread, at the current step
    {device} void clear() {{
        for (int cell = threadIdx.x % 32; cell < ROWS * T; cell += 32) cells[cell] = 0;
        __syncwarp();
    }}
    {device} void add(int row, long long t, real g) {{
        #pragma unroll
        for (int r = 0; r < ROWS; ++r) step[r] += row == r ? g : 0;
    }}
    // Ends a step, to which so many threads have added.
    {device} void close(long long t, int active) {{
        #pragma unroll
        for (int r = 0; r < ROWS; ++r) {{
            const real sum = sum_of_warp(step[r], active);
            if (threadIdx.x % 32 == 0) cells[r * T + t] += sum;
            step[r] = 0;
        }}
    }}
    {device} void leave(real* sums, long long warps) const {{
        __syncwarp();
        for (int cell = threadIdx.x % 32; cell < ROWS * T; cell += 32)
            sums[cell * warps] = cells[cell];
    }}
}};
"""

_ANEW = """
// The value itself, as ``zero`` is 0. The compiler does not know that, so it computes again what
// depends on the value, instead of keeping all of it in registers since the forward sweep.
{device} real anew(real value, unsigned int zero) {{
    return {from_bits}({to_bits}(value) ^ zero);
}}
"""
_BITS = {
    "float": ("__float_as_uint", "__uint_as_float"),
    "double": ("__double_as_longlong", "__longlong_as_double"),
}


# What some kernels use, by a name in their text that says so.
_PARTS = {"Table": _TABLE, "Sums": _SUMS, "WarpSums": _WARP_SUMS, "anew": _ANEW}


def prelude(dtype: str, vec: int, kernel: str) -> list[str]:
    """The types and functions that a kernel uses.

    Args:
        dtype: What sequences are stored as.
        vec: Neurons a thread carries.
        kernel: The rest of the module.
    """
    real, narrow = REAL[dtype], BYTES[dtype] == 2
    lines = [
        f"using real = {real};  // computed with",
        f"using stored = {'unsigned short' if narrow else real};  // in sequences: {dtype}",
        f"constexpr int VEC = {vec};  // neurons a thread",
    ]
    width = 8 if real == "double" else 4
    parts = [(_PACK, width)]
    if narrow:
        parts.append(((_HALF if dtype == "float16" else _BFLOAT) + _NARROW, 2))
    parts += [(text, 0) for name, text in _PARTS.items() if re.search(rf"\b{name}\b", kernel)]
    to_bits, from_bits = _BITS[real]
    for text, width in parts:
        size = min(16, width * vec)
        filled = text.format(
            device=DEVICE,
            alignment=size,
            chunk=_CHUNK.get(size, ""),
            pair="f16x2" if dtype == "float16" else "bf16x2",
            to_bits=to_bits,
            from_bits=from_bits,
        )
        lines += filled.rstrip("\n").splitlines()
    return lines
