/* BATCH_MATMUL of two activations, int8. */
#ifndef EK_MATMUL_H
#define EK_MATMUL_H

#include "ek_common.h"

/* Strides in elements; a transposed operand is one with its strides exchanged, a broadcast batch
 * dimension one with stride 0. */
typedef struct {
  int32_t batch[3], x_batch_stride[3], y_batch_stride[3];
  int32_t m, k, n;
  int32_t x_row, x_col; /* x[i][l] at i * x_row + l * x_col */
  int32_t y_row, y_col; /* y[l][j] at l * y_row + j * y_col */
  int32_t x_zp, y_zp, out_zp;
  int32_t mult, shift;
} ek_matmul_params;

void ek_batch_matmul_s8_ref(const ek_matmul_params *p, const int8_t *x, const int8_t *y,
                            int8_t *output);

#endif
