"""The CUDA text of a kernel as code of the CPU: g++, behind definitions that stand in for a GPU.

A kernel has no atomics, and threads meet only where they wait for each other, so running those of a
block in turn from one such place to the next is faithful. An access that is not aligned as its type
asks stops the process, as it stops a GPU.
"""

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from struct import Struct

COMPILER = shutil.which("g++")
FLAGS = (
    "-O1",
    "-std=c++17",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fsanitize=alignment",
    "-fsanitize-undefined-trap-on-error",
    "-Wno-unknown-pragmas",
)

DEFINITIONS = """
#include <cmath>
#include <cstring>
#include <type_traits>
#include <ucontext.h>
#include <utility>
using std::memcpy;
#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct Index { unsigned int x; };
static Index blockIdx, threadIdx, blockDim, gridDim;
static long long moved;

struct alignas(8) uint2 { unsigned int x, y; };
struct alignas(16) uint4 { unsigned int x, y, z, w; };

static inline float __uint_as_float(unsigned int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
static inline unsigned int __float_as_uint(float value) {
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline double __longlong_as_double(long long bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
static inline long long __double_as_longlong(double value) {
    long long bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float __fdividef(float a, float b) { return a / b; }
template <typename T>
static inline void __stwb(T* to, T value) { *to = value; }

// Threads of a block take turns; one that waits for others gives its turn away.
static ucontext_t turns, fibers[1024];
static char stacks[1024][65536];
static bool over[1024];
static void pass() { swapcontext(&fibers[threadIdx.x], &turns); }

// Where so many threads wait for each other.
struct Barrier {
    int arrived, times;
    void wait(int count) {
        const int now = times;
        if (++arrived == count) {
            arrived = 0;
            ++times;
        }
        while (times == now) pass();
    }
};
static Barrier of_block, of_warp[32], of_lanes[32];
static double exchanged[1024];
static inline void __syncthreads() { of_block.wait(blockDim.x); }
static inline void __syncwarp() { of_warp[threadIdx.x / 32].wait(32); }
template <typename T>
static inline T __shfl_down_sync(unsigned int mask, T value, int distance) {
    const int me = threadIdx.x, count = __builtin_popcount(mask);
    if (!(mask >> me % 32 & 1)) __builtin_trap();  // it has to be among those that take part
    exchanged[me] = value;
    of_lanes[me / 32].wait(count);
    const T found = exchanged[me % 32 + distance < 32 ? me + distance : me];
    of_lanes[me / 32].wait(count);
    return found;
}

KERNEL

template <typename T>
constexpr char kind() {
    if (std::is_pointer_v<T>) return 'P';
    if (std::is_same_v<T, float>) return 'f';
    if (std::is_same_v<T, double>) return 'd';
    return std::is_same_v<T, long long> ? 'q' : '?';
}

template <typename... A>
const char* kinds(void (*)(A...)) {
    static const char found[] = {kind<std::remove_const_t<A>>()..., 0};
    return found;
}

extern "C" const char* arguments() { return kinds(NAME); }

template <typename... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}

template <typename... A>
constexpr std::size_t count(void (*)(A...)) { return sizeof...(A); }

static void** given;
static void body() { call(NAME, given, std::make_index_sequence<count(NAME)>()); }
static void fiber() {
    body();
    over[threadIdx.x] = true;
}

static bool backwards;
static unsigned int turn(unsigned int i, unsigned int threads) {
    return backwards ? threads - 1 - i : i;
}

static void with_barriers(unsigned int threads) {
    for (unsigned int i = 0; i < threads; ++i) {
        over[i] = false;
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = stacks[i];
        fibers[i].uc_stack.ss_size = sizeof stacks[i];
        fibers[i].uc_link = &turns;
        makecontext(&fibers[i], fiber, 0);
    }
    for (bool waiting = true; waiting;) {
        waiting = false;
        for (unsigned int j = 0; j < threads; ++j) {
            const unsigned int i = turn(j, threads);
            if (over[i]) continue;
            threadIdx.x = i;
            swapcontext(&turns, &fibers[i]);
            waiting |= !over[i];
        }
    }
}

// Returns the bytes that have been moved between memory and registers, tables aside.
extern "C" long long launch(unsigned int blocks, unsigned int threads, bool last_first,
                            void** arguments) {
    moved = 0;
    given = arguments;
    backwards = last_first;
    gridDim.x = blocks;
    blockDim.x = threads;
    for (unsigned int j = 0; j < blocks; ++j) {
        blockIdx.x = turn(j, blocks);
        if (BARRIERS) {
            with_barriers(threads);
            continue;
        }
        for (unsigned int i = 0; i < threads; ++i) {
            threadIdx.x = turn(i, threads);
            body();
        }
    }
    return moved;
}
"""

# Where a kernel moves the values of neighbouring neurons.
ACCESS = re.compile(r"(?:Pack load\(const|void save\() ?(\w+)\*[^{]*\{")

# What is read from a buffer of arguments: addresses are integers there.
TYPES = {"P": ctypes.c_void_p, "q": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double}


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="spikeloom-cuda-")


class Function:
    """A kernel as a function of the CPU.

    Attributes:
        text: The CUDA text.
        name: The kernel's name in it.
        kinds: Its arguments' types: P a pointer, q, f, d as for struct.
        bound: The threads of a block that it was compiled for.
    """

    def __init__(self, text, name):
        self.text = text
        self.name = name
        self._library = _build(text, name)
        self._library.arguments.restype = ctypes.c_char_p
        self._library.launch.restype = ctypes.c_longlong
        self.kinds = self._library.arguments().decode()
        assert "?" not in self.kinds, f"{name} has an argument of another type: {self.kinds}"
        found = re.search(rf"__launch_bounds__\((\d+)[^)]*\)\s+{name}\(", text)
        self.bound = int(found[1]) if found else 1024

    def read(self, buffer):
        """The arguments that a buffer holds; its size has to be theirs."""
        form = Struct(self.kinds.replace("P", "q"))
        assert len(buffer) == form.size, f"{self.name} takes {form.size} bytes, got {len(buffer)}"
        return form.unpack(buffer)

    def __call__(self, blocks, threads, arguments, backwards=False):
        """Run, the last block and thread first if asked; returns the bytes that neurons moved."""
        values = [TYPES[k](a) for k, a in zip(self.kinds, arguments, strict=True)]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        return self._library.launch(blocks, threads, ctypes.c_bool(backwards), addresses)


@functools.cache
def _build(text, name):
    stem = Path(_folder().name) / f"kernel{_build.cache_info().currsize}"
    source, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
    barriers = "true" if "__sync" in text else "false"
    filled = DEFINITIONS.replace("BARRIERS", barriers).replace("NAME", name)
    counted = ACCESS.sub(r"\g<0> moved += VEC * sizeof(\1);", text)
    source.write_text(filled.replace("KERNEL", counted))
    command = [COMPILER, *FLAGS, "-shared", "-fPIC", "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\n{text}"
    return ctypes.PyDLL(str(library))  # one launch at a time
