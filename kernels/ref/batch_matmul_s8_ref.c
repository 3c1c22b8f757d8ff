/* int8 matrix products of activations. */
#include "ek_matmul.h"

static int8_t *product(const ek_matmul_params *p, const int8_t *x, const int8_t *y, int8_t *out) {
  const int32_t k = p->k, x_step = p->x_col, y_step = p->y_row, x_zp = p->x_zp, y_zp = p->y_zp;
  for (int32_t i = 0; i < p->m; ++i, x += p->x_row) {
    const int8_t *column = y;
    for (int32_t j = 0; j < p->n; ++j, column += p->y_col) {
      const int8_t *a = x, *b = column;
      uint32_t acc = 0;
      for (int32_t l = 0; l < k; ++l, a += x_step, b += y_step) {
        acc += (uint32_t)((*a - x_zp) * (*b - y_zp));
      }
      *out++ = ek_finish_s8(ek_requant((int32_t)acc, p->mult, p->shift), p->out_zp, -128, 127);
    }
  }
  return out;
}

void ek_batch_matmul_s8_ref(const ek_matmul_params *p, const int8_t *x, const int8_t *y,
                            int8_t *output) {
  for (int32_t a = 0; a < p->batch[0]; ++a) {
    for (int32_t b = 0; b < p->batch[1]; ++b) {
      const int8_t *x0 = x + a * p->x_batch_stride[0] + b * p->x_batch_stride[1];
      const int8_t *y0 = y + a * p->y_batch_stride[0] + b * p->y_batch_stride[1];
      for (int32_t c = 0; c < p->batch[2]; ++c) {
        output = product(p, x0, y0, output);
        x0 += p->x_batch_stride[2];
        y0 += p->y_batch_stride[2];
      }
    }
  }
}
