/* int16 MEAN and SUM over any axes. */
#include "ek_s16.h"

static uint32_t total(const ek_axes *a, const int16_t *x0) {
  const int32_t n = a->reduce[2], step = a->reduce_stride[2];
  uint32_t sum = 0;
  for (int32_t i = 0; i < a->reduce[0]; ++i, x0 += a->reduce_stride[0]) {
    const int16_t *x1 = x0;
    for (int32_t j = 0; j < a->reduce[1]; ++j, x1 += a->reduce_stride[1]) {
      const int16_t *x = x1;
      for (int32_t k = 0; k < n; ++k, x += step) sum += (uint32_t)*x;
    }
  }
  return sum;
}

void ek_sum_s16_ref(const ek_sum_params *p, const int16_t *input, int16_t *output) {
  const ek_axes *a = &p->axes;
  for (int32_t i = 0; i < a->keep[0]; ++i) {
    for (int32_t j = 0; j < a->keep[1]; ++j) {
      const int16_t *x = input + i * a->keep_stride[0] + j * a->keep_stride[1];
      for (int32_t k = 0; k < a->keep[2]; ++k, x += a->keep_stride[2]) {
        const int32_t acc = (int32_t)(total(a, x) - (uint32_t)p->zero_sum);
        *output++ = ek_finish_s16(ek_requant(acc, p->mult, p->shift), -32768, 32767);
      }
    }
  }
}
