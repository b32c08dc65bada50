/* Moments of numbers in memory, in one read. Knows nothing of Python. */

#include <stdint.h>

enum Format { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };

typedef struct {
    int64_t finite, nan, inf;
    double mean, m2, abs_max; /* of the finite numbers; m2 = sum of (x - mean)^2 */
} Moments;

enum {
    MOST_BINS = 2048, /* one for each exponent of float64 */
    STRANDS = 4,
    PADDING = 64,
};

typedef struct {
    int64_t zeros;
    /* Counters by the biased exponent, which includes zeros in the lowest bin. Neighbours in memory
       go to different strands: mostly their exponents are the same, and a counter could only go up
       once the addition before has reached memory. The padding keeps the strands of one exponent
       from sharing the low bits of their addresses, which processors take for the same place. */
    uint64_t bins[STRANDS][MOST_BINS + PADDING];
} Histogram;

/* Return how many of the bins numbers of this format fall into: the first ones. */
int count_bins(enum Format format);

/* Return e for the bin of the numbers with 2^(e-1) <= |x| < 2^e. */
int to_exponent(int bin, enum Format format);

/* Return the moments of ``count`` numbers, which need not be aligned, and where ``histogram`` is
   not NULL fill it. */
Moments measure(const void *numbers, int64_t count, enum Format format, Histogram *histogram);
