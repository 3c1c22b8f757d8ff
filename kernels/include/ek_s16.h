/* int16 activations, symmetric (zero point 0), with int8 weights: TensorFlow Lite's 16x8 scheme.
 *
 * Parameters are those of the int8 kernels; zero points in them are 0, so padding adds nothing and nothing
 * is folded into biases. wide 1: the bias is int64, sums are taken in 64 bits and leave by a multiplier
 * of 16 bits with a single rounding, (sum * mult + 2^(shift - 1)) >> shift, mult and shift being what
 * MultiplyByQuantizedMultiplier of 64-bit sums makes of its own. wide 0: sums wrap modulo 2^32 and leave
 * as those of int8 do (a convolution with an int32 bias).
 */
#ifndef EK_S16_H
#define EK_S16_H

#include "ek_conv.h"
#include "ek_elementwise.h"
#include "ek_pool.h"
#include "ek_reduce.h"

void ek_conv2d_s16_ref(const ek_conv_params *p, const int16_t *input, const int8_t *weights,
                       const int64_t *bias, const int32_t *mult, const int8_t *shift,
                       int16_t *output, int wide);

/* weights: [kernel_h][kernel_w][out_c]; always wide. */
void ek_depthwise_s16_ref(const ek_depthwise_params *p, const int16_t *input, const int8_t *weights,
                          const int64_t *bias, const int32_t *mult, const int8_t *shift,
                          int16_t *output);

/* Always wide. */
void ek_fully_connected_s16_ref(const ek_fc_params *p, const int16_t *input, const int8_t *weights,
                                const int64_t *bias, const int32_t *mult, const int8_t *shift,
                                int16_t *output);

void ek_add_s16_ref(const ek_add_params *p, const int16_t *in1, const int16_t *in2,
                    int16_t *output);
void ek_sub_s16_ref(const ek_add_params *p, const int16_t *in1, const int16_t *in2,
                    int16_t *output);

void ek_average_pool_s16_ref(const ek_pool_params *p, const int16_t *input, int16_t *output);
void ek_max_pool_s16_ref(const ek_pool_params *p, const int16_t *input, int16_t *output);
void ek_sum_s16_ref(const ek_sum_params *p, const int16_t *input, int16_t *output);

/* acc + sum w * x. No more than 511 products of 2^22 fit 32 bits. */
EK_INLINE int64_t ek_dot_s16(int64_t acc, const int16_t *x, const int8_t *w, int32_t n) {
  while (n > 0) {
    const int32_t run = ek_min(n, 256);
    int32_t sum = 0;
    for (int32_t i = 0; i < run; ++i) sum += (int32_t)w[i] * x[i];
    acc += sum;
    x += run;
    w += run;
    n -= run;
  }
  return acc;
}

EK_INLINE int16_t ek_finish_s16(int32_t y, int32_t lo, int32_t hi) {
  return (int16_t)ek_clamp(y, lo, hi);
}

/* What a 64-bit sum becomes; the product of 48 bits and 15 fits, what is left is cut to 32 bits. */
EK_INLINE int16_t ek_output_s16(int64_t acc, int32_t mult, int shift, int32_t lo, int32_t hi) {
  const int64_t y = (acc * mult + ((int64_t)1 << (shift - 1))) >> shift;
  return ek_finish_s16((int32_t)(uint32_t)(uint64_t)y, lo, hi);
}

#endif
