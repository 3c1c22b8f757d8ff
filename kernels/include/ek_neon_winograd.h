/* Exact integer Winograd F(2x2, 3x3) on 16-bit lanes: stride 1, no dilation.
 *
 * Y = A' [ (G g G') * (B' d B) ] A with 2 G in place of G, so that the transformed weights are
 * integers and the sums four times too large; multiples of four are left, a shift takes that back.
 * Inputs are centred (x - in_zp), so padding is 0 and the bias is the model's. |B' d B| <= 4 * 255,
 * |2G g 2G'| <= 9 * 128: both fit 16 bits, and sums of in_c products fit 32 for in_c up to 1024.
 * Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015).
 */
#ifndef EK_NEON_WINOGRAD_H
#define EK_NEON_WINOGRAD_H

#include "ek_common.h"

typedef struct {
  int32_t in_h, in_w, in_c; /* in_c is a multiple of 8 */
  int32_t out_h, out_w, out_c;
  int32_t pad_top, pad_left;
  int32_t in_zp, out_zp, act_min, act_max, finish;
} ek_neon_winograd_params;

/* weights: [16 positions][out_c / 16][in_c][16] int16, out_c rounded up to a multiple of 16. scratch: for
 * a row of tiles, inputs [position][tile][in_c] int16 and sums [position][tile][16] int32, tiles
 * rounded up to a multiple of 4. */
void ek_conv2d_s8_winograd_f2_neon(const ek_neon_winograd_params *p, const int8_t *input,
                                   const int16_t *weights, const int32_t *bias,
                                   const int32_t *mult, const int32_t *shift, int8_t *output,
                                   void *scratch);
int32_t ek_conv2d_s8_winograd_f2_neon_scratch_bytes(const ek_neon_winograd_params *p);

#endif
