/* Int16 dot products with SMLAD: about 3,900 instructions a round. */
#include "bare.h"

VECTORS;

static int16_t a[2048], b[2048];
static volatile int32_t sink;

__attribute__((noinline)) int32_t dot(const uint32_t *x, const uint32_t *y, int words)
{
    int32_t sum = 0;
    for (int i = 0; i < words; i += 4) {
        for (int k = 0; k < 4; k++) {
            __asm__ volatile("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(x[i + k]), "r"(y[i + k]));
        }
    }
    return sum;
}

void Reset(void)
{
    for (int i = 0; i < 2048; i++) {
        a[i] = (int16_t)(i * 37);
        b[i] = (int16_t)(i * 91);
    }
    for (int i = 0; i < ROUNDS; i++) {
        sink += dot((const uint32_t *)a, (const uint32_t *)b, 1024);
    }
    leave(0);
}
