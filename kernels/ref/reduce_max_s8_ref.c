/* int8 maximum over any axes. */
#include "ek_reduce.h"

static int32_t largest(const ek_axes *a, const int8_t *x0) {
  const int32_t n = a->reduce[2], step = a->reduce_stride[2];
  int32_t best = -128;
  for (int32_t i = 0; i < a->reduce[0]; ++i, x0 += a->reduce_stride[0]) {
    const int8_t *x1 = x0;
    for (int32_t j = 0; j < a->reduce[1]; ++j, x1 += a->reduce_stride[1]) {
      const int8_t *x = x1;
      for (int32_t k = 0; k < n; ++k, x += step) best = ek_max(best, *x);
    }
  }
  return best;
}

void ek_reduce_max_s8_ref(const ek_axes *p, const int8_t *input, int8_t *output) {
  for (int32_t i = 0; i < p->keep[0]; ++i) {
    for (int32_t j = 0; j < p->keep[1]; ++j) {
      const int8_t *x = input + i * p->keep_stride[0] + j * p->keep_stride[1];
      for (int32_t k = 0; k < p->keep[2]; ++k, x += p->keep_stride[2]) {
        *output++ = (int8_t)largest(p, x);
      }
    }
  }
}
