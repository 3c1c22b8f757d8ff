/* Kernels for cores with the DSP extension (Cortex-M4, M7, M33, M55): SMLAD over 16-bit pairs.
 *
 * Inputs, parameters and results are those of the reference kernels (ek_conv.h); weights are packed
 * and requantization is prepared when the code is generated (targets/mcu/variants/dsp_common.py).
 *
 * Two forms of the multiplication, for weights that stay int8 in flash:
 *  - *pairs*: a word of four weights becomes two pairs of halfwords (SXTB16, twice);
 *  - *halfword*: odd weights are used in place. A stored halfword is 256 * h + l for neighbouring
 *    weights l, h; multiplied by the odd inputs xh it gives 256 * h * xh + l * xh. With the input's
 *    second word made of 256 * xl - xh + 127, l times it completes 256 * (l * xl + h * xh) + 127 * l,
 *    and the last term is folded into the bias. The accumulator is 256 times the sum, modulo 2^32:
 *    exact while the sum itself stays below 2^23 in size, which the generator checks.
 */
#ifndef EK_DSP_H
#define EK_DSP_H

#include "ek_conv.h"
#include "ek_pool.h"

/* Requantization of one output channel, and its bias (input offset folded in; 256-fold less
 * 127 * sum of l in the halfword form).
 * exp 1 .. 22: a right shift by exp with mult = 2 * multiplier modulo 2^32 and
 * round = (2 * out_zp + 1) << (exp - 1), see ek_dsp_requant; else exp = EK_DSP_GENERAL + shift, mult
 * is the multiplier (any pair that ek_requant takes), and round is not used. */
typedef struct {
  int32_t mult;
  int32_t round;
  int32_t exp;
  int32_t bias;
} ek_dsp_quant;

#define EK_DSP_MAX_EXP 22
#define EK_DSP_GENERAL 128

/* Multiply-accumulate cores. cols: per block of four inputs, words [2][4 columns]; see above. */

/* 2 channels x 4 columns. acc: [2][4]; w: per block, 4 bytes of each channel. */
void ek_mac_s8_2x4_pairs_dsp(int32_t *acc, const int8_t *w, const uint32_t *cols, uint32_t blocks);
void ek_mac_s8_2x4_halfword_dsp(int32_t *acc, const int8_t *w, const uint32_t *cols,
                                uint32_t blocks);

/* Pairs of channels of four output pixels whose requantization is fast (exp <= EK_DSP_MAX_EXP) and
 * whose clamp is all of int8: sums, requantization and stores. */
typedef struct {
  const int8_t *weights; /* per pair, then per block: 4 bytes of each channel */
  const ek_dsp_quant *quant;
  int8_t *out; /* first pixel, first channel */
  const uint32_t *cols;
  int32_t pairs; /* at least 1 */
  int32_t step;  /* bytes from pixel to pixel */
  int32_t blocks;
  int32_t linear; /* s16 only: 0 when results below zero clamp to -128 anyway */
} ek_conv_columns;
void ek_conv_columns_s8_pairs_dsp(const ek_conv_columns *p);
void ek_conv_columns_s8_halfword_dsp(const ek_conv_columns *p);
void ek_conv_columns_s16_dsp(const ek_conv_columns *p); /* wide weights, see ek_conv2d_s8_wide_dsp */

/* 8 channels x 1 column of raw input bytes. w: per block, 4 bytes of each channel. */
void ek_mac_s8_8x1_pairs_dsp(int32_t *acc, const int8_t *w, const int8_t *x, uint32_t blocks);
void ek_mac_s8_8x1_halfword_dsp(int32_t *acc, const int8_t *w, const int8_t *x, uint32_t blocks);

/* Convolution, groups 1: im2col of four output pixels, then 2 channels at a time.
 * weights: [out_c / 2, rounded up][blocks][2][4] with blocks = kernel_h * kernel_w * in_c / 4,
 * rounded up; quant: one an output channel, padded to an even number. */
void ek_conv2d_s8_pairs_dsp(const ek_conv_params *p, const int8_t *input, const int8_t *weights,
                            const ek_dsp_quant *quant, int8_t *output, void *scratch);
int32_t ek_conv2d_s8_pairs_dsp_scratch_bytes(const ek_conv_params *p);
void ek_conv2d_s8_halfword_dsp(const ek_conv_params *p, const int8_t *input, const int8_t *weights,
                               const ek_dsp_quant *quant, int8_t *output, void *scratch);
int32_t ek_conv2d_s8_halfword_dsp_scratch_bytes(const ek_conv_params *p);

/* The same with int16 weights, doubled, and doubled biases.
 * weights: [out_c / 2, rounded up][blocks][inputs 0 and 2, inputs 1 and 3][2 channels][2]. */
void ek_conv2d_s8_wide_dsp(const ek_conv_params *p, const int8_t *input, const int16_t *weights,
                           const ek_dsp_quant *quant, int8_t *output, void *scratch);
int32_t ek_conv2d_s8_wide_dsp_scratch_bytes(const ek_conv_params *p);

/* Depthwise convolution, multiplier 1: taps in pairs, four channels a word.
 * weights: words of two int16, [channels / 4, rounded up][taps / 2, rounded up][4 channels];
 * quant: one a channel, padded to a multiple of 4. */
void ek_depthwise_s8_pairs_dsp(const ek_depthwise_params *p, const int8_t *input,
                               const uint32_t *weights, const ek_dsp_quant *quant, int8_t *output,
                               void *scratch);
int32_t ek_depthwise_s8_pairs_dsp_scratch_bytes(const ek_depthwise_params *p);

/* One output pixel of a depthwise convolution, whole groups of four channels whose requantization
 * is fast (exp <= EK_DSP_MAX_EXP) and whose clamp is all of int8. */
typedef struct {
  const int8_t *const *tap; /* pointers to the taps of channel 0, an even number */
  const int8_t *const *end;
  const uint32_t *weights;
  const ek_dsp_quant *quant;
  int8_t *out;
  int32_t groups; /* at least 1 */
} ek_depthwise_pixel;
void ek_depthwise_pixel_s8_pairs_dsp(const ek_depthwise_pixel *p);

/* Fully connected: 8 outputs at a time, the input widened on the fly (no scratch).
 * weights: [out_c / 8, rounded up][in_c / 4, rounded up][8][4]; bias: padded to a multiple of 8.
 * quant: one for the layer (quant_step 0), or one an output (quant_step 1); its bias is not used. */
typedef struct {
  ek_fc_params fc;
  int32_t quant_step;
} ek_fc_dsp_params;
void ek_fully_connected_s8_pairs_dsp(const ek_fc_dsp_params *p, const int8_t *input,
                                     const int8_t *weights, const int32_t *bias,
                                     const ek_dsp_quant *quant, int8_t *output, void *scratch);
int32_t ek_fully_connected_s8_pairs_dsp_scratch_bytes(const ek_fc_dsp_params *p);
void ek_fully_connected_s8_halfword_dsp(const ek_fc_dsp_params *p, const int8_t *input,
                                        const int8_t *weights, const int32_t *bias,
                                        const ek_dsp_quant *quant, int8_t *output, void *scratch);
int32_t ek_fully_connected_s8_halfword_dsp_scratch_bytes(const ek_fc_dsp_params *p);

/* ADD of two tensors of one shape. The operand with the larger scale (half) is scaled by exactly one
 * half in TFLite's arithmetic, a shift; only the other one (mul) and the sum need multipliers.
 *   half_offset = -half_zp << 19, mul_offset = -mul_zp << 20
 *   mul_mult, mul_exp: as in ek_dsp_quant, exp at least 1; mult 0, exp 1 for a second exact half
 *   out_mult, out_exp, out_round: as in ek_dsp_quant, always of the fast kind
 * output may be either input. */
typedef struct {
  int32_t count;
  int32_t half_offset;
  int32_t mul_offset, mul_mult, mul_exp;
  int32_t out_mult, out_round, out_exp;
  int32_t act_min, act_max;
} ek_add_dsp_params;
void ek_add_s8_dsp(const ek_add_dsp_params *p, const int8_t *half, const int8_t *mul,
                   int8_t *output);
int32_t ek_add_s8_dsp_scratch_bytes(const ek_add_dsp_params *p);

/* The same through a table of the 256 values of the scaled operand, made in scratch first. */
void ek_add_s8_table_dsp(const ek_add_dsp_params *p, const int8_t *half, const int8_t *mul,
                         int8_t *output, void *scratch);
int32_t ek_add_s8_table_dsp_scratch_bytes(const ek_add_dsp_params *p);

/* Average over windows of at most 256 inputs: two channels a halfword pair. */
void ek_average_pool_s8_dsp(const ek_pool_params *p, const int8_t *input, int8_t *output);
int32_t ek_average_pool_s8_dsp_scratch_bytes(const ek_pool_params *p);

#endif
