/* Kernels for 64-bit Arm cores (Advanced SIMD): parameters and packed layouts.
 *
 * Activations NHWC with N = 1, int8; weights int8, symmetric. As in ek_conv.h an output is
 * requant(bias[o] + sum w * x) over raw input bytes, the input offset folded into the bias, and a tap
 * outside the input reads in_zp.
 *
 * Requantization is the reference's double rounding, four lanes at a time: SQRDMULH, then a right
 * shift by 1 to 31 with ties away from zero (SSRA of the sign, SRSHL). bias, mult, shift: one int32 a
 * channel, rounded up to a multiple of 16 channels; shift is negative.
 */
#ifndef EK_NEON_H
#define EK_NEON_H

#include "ek_common.h"
#include "ek_pool.h"

/* How sums become bytes. PLAIN: the zero point is -128, the clamp -128 .. 127, and no result leaves 16
 * bits; then fewer instructions are exact. */
enum { EK_NEON_GENERAL = 0, EK_NEON_PLAIN = 1 };

/* What one row of output pixels is computed from. An input window is a few segments of
 * contiguous bytes, each offsets[i] bytes behind the window's first; depth bytes of a segment count, a
 * multiple of 4 (what lies behind the real ones meets weights of 0). */
typedef struct {
  const int8_t *weights;
  const int32_t *bias, *mult, *shift;
  const int32_t *offsets;
  int32_t segments, depth;
  int32_t step;  /* bytes between the windows of neighbouring pixels */
  int32_t out_c; /* bytes between neighbouring output pixels, too */
  int32_t out_zp, act_min, act_max;
  int32_t finish; /* EK_NEON_GENERAL, EK_NEON_PLAIN */
} ek_neon_rows;

typedef void (*ek_neon_rows_fn)(const ek_neon_rows *t, const int8_t *input, int32_t pixels,
                                int8_t *output);

/* Weights by blocks of 16 output channels, then one of 8 and one of 4 for what is left, rounded up.
 * A block is [segment][...] of steps along a segment:
 *   dot   (SDOT, dotprod):  [depth / 4][channel][4]
 *   mmla  (SMMLA, i8mm):    [depth / 8][channel][8], depth a multiple of 8
 *   mlal  (SMULL, SMLAL2, SADALP): 4 channels a block: [depth / 16][channel][16], what is left as
 *         [channel][8] and [channel][4]; no weight is -128 */
void ek_neon_rows_dot(const ek_neon_rows *t, const int8_t *input, int32_t pixels, int8_t *output);
void ek_neon_rows_mmla(const ek_neon_rows *t, const int8_t *input, int32_t pixels, int8_t *output);
void ek_neon_rows_mlal(const ek_neon_rows *t, const int8_t *input, int32_t pixels, int8_t *output);

enum { EK_NEON_MAX_SEGMENTS = 64 };

typedef struct {
  int32_t in_h, in_w, in_c;
  int32_t out_h, out_w, out_c;
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t dilation_h, dilation_w;
  int32_t pad_top, pad_left;
  int32_t in_zp, out_zp, act_min, act_max, finish;
  /* Bytes a segment counts. Segments are kernel rows, or single taps where columns are dilated. */
  int32_t depth;
  /* Input rows are copied, with padding, to scratch: a ring of as many as a window is high. 0: no
   * window leaves the input, and no segment is read beyond its end. */
  int32_t copy;
  ek_neon_rows_fn rows;
} ek_neon_conv_params;

void ek_conv2d_s8_neon(const ek_neon_conv_params *p, const int8_t *input, const int8_t *weights,
                       const int32_t *bias, const int32_t *mult, const int32_t *shift,
                       int8_t *output, void *scratch);
int32_t ek_conv2d_s8_neon_scratch_bytes(const ek_neon_conv_params *p);

typedef struct {
  int32_t rows, in_c, out_c;
  int32_t out_zp, act_min, act_max, finish;
  int32_t depth; /* in_c rounded up: where they differ, rows are copied to scratch */
  ek_neon_rows_fn kernel;
} ek_neon_fc_params;

void ek_fully_connected_s8_neon(const ek_neon_fc_params *p, const int8_t *input,
                                const int8_t *weights, const int32_t *bias, const int32_t *mult,
                                const int32_t *shift, int8_t *output, void *scratch);
int32_t ek_fully_connected_s8_neon_scratch_bytes(const ek_neon_fc_params *p);

/* One row of depthwise outputs: rows[ky] points to the first tap of kernel row ky of its first pixel.
 * Weights by blocks of 16 channels, rounded up with zeros (input bytes are read for all of them):
 *   any:      [tap][16], taps row by row
 *   3x3:      the same, no weight is -128
 *   3x3 dot:  [row][channel][taps 0, 1, 2 and a 0], then [row][channel][a 0 and taps 0, 1, 2] */
typedef struct {
  const int8_t *const *rows;
  const int8_t *weights;
  const int32_t *bias, *mult, *shift;
  int32_t channels, pixels;
  int32_t step, dilation; /* bytes between pixels' first taps; between taps of a row */
  int32_t kernel_h, kernel_w;
  int32_t out_zp, act_min, act_max, finish;
} ek_neon_depthwise_row;

typedef void (*ek_neon_depthwise_fn)(const ek_neon_depthwise_row *t, int8_t *output);

void ek_neon_depthwise_any(const ek_neon_depthwise_row *t, int8_t *output);
void ek_neon_depthwise_3x3(const ek_neon_depthwise_row *t, int8_t *output);
void ek_neon_depthwise_3x3_dot(const ek_neon_depthwise_row *t, int8_t *output);

/* ek_neon_conv_params, out_c = in_c, depth unused. */
typedef struct {
  int32_t in_h, in_w, in_c;
  int32_t out_h, out_w;
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t dilation_h, dilation_w;
  int32_t pad_top, pad_left;
  int32_t in_zp, out_zp, act_min, act_max, finish;
  int32_t copy;
  ek_neon_depthwise_fn row;
} ek_neon_depthwise_params;

enum { EK_NEON_MAX_ROWS = 16 }; /* rows of a depthwise kernel */

void ek_depthwise_s8_neon(const ek_neon_depthwise_params *p, const int8_t *input,
                          const int8_t *weights, const int32_t *bias, const int32_t *mult,
                          const int32_t *shift, int8_t *output, void *scratch);
int32_t ek_depthwise_s8_neon_scratch_bytes(const ek_neon_depthwise_params *p);

/* clamp((a * x + b * y + c) / 2^(16 + shift)), both shifts rounding halves up: equal to the quantized
 * addition for every pair of bytes where such a, b, c were found. */
typedef struct {
  int32_t count;
  int32_t a, b, c;
  int32_t shift;
} ek_neon_add_params;

void ek_add_s8_linear_neon(const ek_neon_add_params *p, const int8_t *in1, const int8_t *in2,
                           int8_t *output);
int32_t ek_add_s8_linear_neon_scratch_bytes(const ek_neon_add_params *p);

/* At most 256 inputs a window. */
void ek_average_pool_s8_neon(const ek_pool_params *p, const int8_t *input, int8_t *output);
int32_t ek_average_pool_s8_neon_scratch_bytes(const ek_pool_params *p);
void ek_max_pool_s8_neon(const ek_pool_params *p, const int8_t *input, int8_t *output);
int32_t ek_max_pool_s8_neon_scratch_bytes(const ek_pool_params *p);

/* MEAN and SUM over leading axes: rows of channels, at most 256 of them, one multiplier. */
typedef struct {
  int32_t rows, channels;
  int32_t zero_sum, mult, shift, out_zp;
} ek_neon_sum_params;

void ek_sum_s8_neon(const ek_neon_sum_params *p, const int8_t *input, int8_t *output);
int32_t ek_sum_s8_neon_scratch_bytes(const ek_neon_sum_params *p);

/* output[i] = table[input[i] + 128]. May run in place. */
void ek_lut_s8_neon(const int8_t *input, const int8_t *table, int8_t *output, int32_t n);

#endif
