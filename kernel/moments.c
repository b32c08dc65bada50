/* One pass over the memory, block by block.

   A block is brought to float or double where it is neither, then read while it lies in the first
   level of the cache. Its sums are taken in double, of the deviations from one of its own numbers:
   the squares about that are at most 1 + count times those about the mean, so that what the
   subtraction cancels costs a factor of 4097 of 1e-16, whatever the mean is. Blocks are merged by
   Chan, Golub and LeVeque's formula (1979, eq. 2.1).
*/

#include "moments.h"

#include <fenv.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    BLOCK = 4096, /* 16 or 32 KiB: fits with its copy into any first-level cache, or nearly */
    LANES = 16,   /* sums that run side by side: two vectors of the widest registers */
};

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Compiled for several sets of instructions; the loader picks the best that the processor has. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define CLONED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONED
#endif

/* Ask for the memory that comes next, which may be beyond the numbers: a wish cannot fail. The
   processor's own prefetching stops at the end of each page, and begins anew behind it. From memory
   that is not in any cache this takes a third off: the far distance is for the second level, the
   near one for the first; anything from half to twice as far does as well. */
static ALWAYS_INLINE void fetch_ahead(const void *here)
{
    __builtin_prefetch((const void *)((uintptr_t)here + (2 << 10)), 0, 3);
    __builtin_prefetch((const void *)((uintptr_t)here + (32 << 10)), 0, 2);
}

static void merge(
    Moments *moments, int count, double shift, double sum, double squares, double abs_max)
{
    double mean = shift + sum / count;
    double m2 = squares - sum * (sum / count);
    double delta = mean - moments->mean;
    double share = (double)count / (double)(moments->finite + count);
    moments->m2 += m2 > 0.0 ? m2 : 0.0; /* of equal numbers only roundings are left */
    moments->m2 += delta * delta * ((double)moments->finite * share);
    moments->mean += delta * share;
    moments->finite += count;
    moments->abs_max = moments->abs_max > abs_max ? moments->abs_max : abs_max;
}

#define REAL float
#define BITS int32_t
#define FRACTION 23
#define NAME(x) x##_float
#include "block.h"
#undef REAL
#undef BITS
#undef FRACTION
#undef NAME

#define REAL double
#define BITS int64_t
#define FRACTION 52
#define NAME(x) x##_double
#include "block.h"
#undef REAL
#undef BITS
#undef FRACTION
#undef NAME

CLONED static void widen_bfloat16(const char *from, float *to, int count)
{
    for (int i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + i * sizeof half, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(to + i, &bits, sizeof bits);
    }
}

CLONED static void widen_float16(const char *from, float *to, int count)
{
    for (int i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + i * sizeof half, sizeof half);
        uint32_t magnitude = half & 0x7FFFu;
        uint32_t is_subnormal = magnitude < 0x0400u;
        uint32_t is_finite = magnitude < 0x7C00u;
        /* The exponent counts from -14, float's from -126: 112 apart, and those of infinity and
           NaN 224. A subnormal gets the lowest normal exponent, and loses the leading one that it
           did not have. */
        uint32_t bits = (magnitude << 13) + ((224u + is_subnormal - 112u * is_finite) << 23);
        float number;
        memcpy(&number, &bits, sizeof bits);
        number -= (float)(int32_t)is_subnormal * 0x1p-14f;
        memcpy(&bits, &number, sizeof bits);
        bits |= (half & 0x8000u) << 16;
        memcpy(to + i, &bits, sizeof bits);
    }
}

/* Return where the block lies as floats: in place, or in ``copy``. */
static const float *load_float(const char *block, int count, enum Format format, float *copy)
{
    switch (format) {
    case BFLOAT16:
        widen_bfloat16(block, copy, count);
        return copy;
    case FLOAT16:
        widen_float16(block, copy, count);
        return copy;
    default:
        if ((uintptr_t)block % sizeof(float) == 0)
            return (const float *)block;
        memcpy(copy, block, sizeof *copy * count);
        return copy;
    }
}

static const double *load_double(const char *block, int count, double scale, double *copy)
{
    if (scale == 1.0 && (uintptr_t)block % sizeof(double) == 0)
        return (const double *)block;
    memcpy(copy, block, sizeof *copy * count);
    for (int i = 0; i < count; i++)
        copy[i] *= scale;
    return copy;
}

static Moments read_float(
    const char *numbers, int64_t count, enum Format format, Histogram *histogram)
{
    Moments moments = {0};
    float copy[BLOCK];
    size_t size = format == FLOAT32 ? sizeof(float) : sizeof(uint16_t);
    for (int64_t start = 0; start < count; start += BLOCK) {
        int width = count - start < BLOCK ? (int)(count - start) : BLOCK;
        const float *block = load_float(numbers + start * size, width, format, copy);
        pool_float(&moments, histogram, block, width);
    }
    return moments;
}

static Moments read_double(
    const char *numbers, int64_t count, double scale, Histogram *histogram)
{
    Moments moments = {0};
    double copy[BLOCK];
    for (int64_t start = 0; start < count; start += BLOCK) {
        int width = count - start < BLOCK ? (int)(count - start) : BLOCK;
        const double *block = load_double(numbers + start * sizeof(double), width, scale, copy);
        pool_double(&moments, histogram, block, width);
    }
    return moments;
}

/* Squares of float64 can leave its range, where those of the other formats cannot: such numbers
   are read again, times a power of two, which changes no digit of those that matter. */
static Moments read_float64(const char *numbers, int64_t count, Histogram *histogram)
{
    Moments moments = read_double(numbers, count, 1.0, histogram);
    double abs_max = moments.abs_max;
    if (abs_max == 0.0 || (1e-120 < abs_max && abs_max < 1e140))
        return moments;
    int exponent = ilogb(abs_max) < -1000 ? -1000 : ilogb(abs_max);
    Moments scaled = read_double(numbers, count, ldexp(1.0, -exponent), NULL);
    moments.mean = ldexp(scaled.mean, exponent);
    moments.m2 = ldexp(scaled.m2, 2 * exponent);
    return moments;
}

int count_bins(enum Format format)
{
    return format == FLOAT64 ? MOST_BINS : 256;
}

int to_exponent(int bin, enum Format format)
{
    return bin - (format == FLOAT64 ? 1022 : 126);
}

static void clear(Histogram *histogram, enum Format format)
{
    histogram->zeros = 0;
    for (int strand = 0; strand < STRANDS; strand++)
        memset(histogram->bins[strand], 0, sizeof(uint64_t) * count_bins(format));
}

Moments measure(const void *numbers, int64_t count, enum Format format, Histogram *histogram)
{
    if (histogram)
        clear(histogram, format);
    /* The caller may have asked for subnormal numbers to be taken for zeros, or for another
       rounding, and its flags must not show what was computed here. */
    fenv_t callers;
    fegetenv(&callers);
    fesetenv(FE_DFL_ENV);
    Moments moments = format == FLOAT64 ? read_float64(numbers, count, histogram)
                                        : read_float(numbers, count, format, histogram);
    fesetenv(&callers);
    return moments;
}
