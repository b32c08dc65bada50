/* What is done with one block of numbers. Included twice, for float and for double, with

     REAL      the type of the numbers
     BITS      the signed integer of the same size
     FRACTION  how many bits of it follow the exponent
     NAME(x)   x, named after the type

   Magnitudes are compared as integers: without the sign, the bits of IEEE numbers are in the order
   of their magnitudes, with the infinities above all finite ones and the NaN above these.

   The sums run in LANES independent lanes, always the same number, and no product is fused with a
   sum: compilers keep the lanes in vector registers of any width, and the same numbers give the
   same bits on any machine.
*/

#define MAGNITUDE ((BITS)((UINT64_C(1) << (8 * sizeof(BITS) - 1)) - 1))
#define INFINITE ((BITS)(MAGNITUDE >> FRACTION << FRACTION))

typedef struct {
    double sum[LANES], squares[LANES];
    BITS top[LANES];
} NAME(Lanes);

static ALWAYS_INLINE BITS NAME(read_magnitude)(const REAL *x)
{
    BITS bits;
    memcpy(&bits, x, sizeof bits);
    return bits & MAGNITUDE;
}

static ALWAYS_INLINE void NAME(add)(NAME(Lanes) *lanes, const REAL *x, int width, double shift)
{
#pragma omp simd
    for (int j = 0; j < width; j++) {
        double deviation = x[j] - shift;
        lanes->sum[j] += deviation;
        lanes->squares[j] += deviation * deviation;
    }
#pragma omp simd
    for (int j = 0; j < width; j++) {
        BITS magnitude = NAME(read_magnitude)(x + j);
        lanes->top[j] = lanes->top[j] > magnitude ? lanes->top[j] : magnitude;
    }
}

typedef struct {
    double sum, squares; /* of the deviations from the shift; NaN where a number is not finite */
    BITS top;            /* the largest magnitude, as bits */
} NAME(Sums);

CLONED static NAME(Sums) NAME(sum_up)(const REAL *x, int count, double shift)
{
    NAME(Lanes) lanes = {{0.0}, {0.0}, {0}};
    int whole = count - count % LANES;
    for (int i = 0; i < whole; i += LANES) {
        fetch_ahead(x + i);
        NAME(add)(&lanes, x + i, LANES, shift);
    }
    NAME(add)(&lanes, x + whole, count - whole, shift);
    NAME(Sums) sums = {0.0, 0.0, 0};
    for (int j = 0; j < LANES; j++) {
        sums.sum += lanes.sum[j];
        sums.squares += lanes.squares[j];
        sums.top = sums.top > lanes.top[j] ? sums.top : lanes.top[j];
    }
    return sums;
}

/* Copy the finite numbers, count the others, and return how many were copied. ``kept`` may be x. */
static int NAME(keep_finite)(const REAL *x, int count, REAL *kept, Moments *moments)
{
    int finite = 0;
    for (int i = 0; i < count; i++) {
        BITS magnitude = NAME(read_magnitude)(x + i);
        moments->nan += magnitude > INFINITE;
        moments->inf += magnitude == INFINITE;
        kept[finite] = x[i];
        finite += magnitude < INFINITE;
    }
    return finite;
}

/* Count zeros, and all numbers by exponent: the lowest bin is that of zeros and subnormals. */
CLONED static void NAME(count_exponents)(const REAL *x, int count, Histogram *histogram)
{
    int zeros = 0;
    for (int i = 0; i < count; i++)
        zeros += NAME(read_magnitude)(x + i) == 0;
    histogram->zeros += zeros;
    int whole = count - count % STRANDS;
    for (int i = 0; i < whole; i += STRANDS)
        for (int strand = 0; strand < STRANDS; strand++)
            histogram->bins[strand][NAME(read_magnitude)(x + i + strand) >> FRACTION]++;
    for (int i = whole; i < count; i++)
        histogram->bins[0][NAME(read_magnitude)(x + i) >> FRACTION]++;
}

/* Pool a block of at most BLOCK numbers; ``histogram`` may be NULL. */
static void NAME(pool)(Moments *moments, Histogram *histogram, const REAL *x, int count)
{
    REAL kept[BLOCK];
    NAME(Sums) sums = NAME(sum_up)(x, count, x[0]);
    if (sums.top >= INFINITE) {
        count = NAME(keep_finite)(x, count, kept, moments);
        if (count == 0)
            return;
        x = kept;
        sums = NAME(sum_up)(x, count, x[0]);
    }
    REAL top;
    memcpy(&top, &sums.top, sizeof top);
    merge(moments, count, x[0], sums.sum, sums.squares, top);
    if (histogram)
        NAME(count_exponents)(x, count, histogram);
}

#undef MAGNITUDE
#undef INFINITE
