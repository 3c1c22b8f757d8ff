/* int8 fully connected layer, weights of 4-bit codes unpacked as they are read. */
#include "ek_dot.h"
#include "ek_lowbit.h"

/* One output's sum; numbers or a table is known to the compiler. */
EK_INLINE uint32_t row_sum(uint32_t acc, const int8_t *x, const uint8_t *w, const int8_t *table,
                           int32_t n, int numbers) {
#define LOW(b) (numbers ? (int32_t)(int8_t)(uint8_t)((b) << 4) >> 4 : table[(b) & 15])
#define HIGH(b) (numbers ? (int32_t)(int8_t)(b) >> 4 : table[(b) >> 4])
  for (; n >= 8; n -= 8, x += 8, w += 4) {
    for (int k = 0; k < 4; ++k) {
      const uint8_t b = w[k];
      acc += (uint32_t)(LOW(b) * x[k]) + (uint32_t)(HIGH(b) * x[k + 4]);
    }
  }
  for (int32_t k = 0; k < n; ++k) {
    const uint8_t b = w[k & 3];
    acc += (uint32_t)((k < 4 ? LOW(b) : HIGH(b)) * x[k]);
  }
  return acc;
#undef LOW
#undef HIGH
}

void ek_fully_connected_w4_ref(const ek_fc_params *p, const int8_t *input, const uint8_t *weights,
                               const int8_t *table, const int32_t *bias, const int32_t *mult,
                               const int8_t *shift, int8_t *output) {
  const int32_t n = p->in_c, step = (n + 7) / 8 * 4;
  for (int32_t row = 0; row < p->rows; ++row, input += n) {
    const uint8_t *w = weights;
    for (int32_t o = 0; o < p->out_c; ++o, w += step) {
      const uint32_t b = (uint32_t)bias[o];
      const uint32_t acc = table == NULL ? row_sum(b, input, w, table, n, 1)
                                         : row_sum(b, input, w, table, n, 0);
      *output++ = ek_output_s8(acc, mult[o], shift[o], p->out_zp, p->act_min, p->act_max);
    }
  }
}
