/* Convolution, depthwise convolution, transpose convolution, fully connected: parameters and
 * reference kernels. Activations NHWC with N = 1, int8; weights int8, symmetric.
 *
 * The input offset is folded into the bias when the code is generated:
 *   bias[o] = bias_model[o] - in_zp * sum(weights of o)      (modulo 2^32)
 * so that an output is requant(bias[o] + sum w * x) over raw input bytes x. A tap outside the input
 * counts as x = in_zp: its product is then what the fold took away.
 *
 * mult, shift: one pair an output channel (see ek_requant). scratch may be NULL where a kernel's
 * *_scratch_bytes is 0. Accumulators wrap modulo 2^32, as those of the compiled oracle do.
 */
#ifndef EK_CONV_H
#define EK_CONV_H

#include "ek_common.h"

typedef struct {
  int32_t in_h, in_w, in_c;
  int32_t out_h, out_w, out_c;
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t dilation_h, dilation_w;
  int32_t pad_top, pad_left; /* padding below and to the right follows from out_h, out_w */
  int32_t groups;            /* weights are OHWI with I = in_c / groups */
  int32_t in_zp;             /* zero point of the input: what padding reads as */
  int32_t out_zp;            /* zero point of the output */
  int32_t act_min, act_max;  /* clamp of the output, quantized */
} ek_conv_params;

typedef struct {
  int32_t in_h, in_w, in_c;
  int32_t out_h, out_w, out_c; /* out_c = in_c * multiplier */
  int32_t multiplier;
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t dilation_h, dilation_w;
  int32_t pad_top, pad_left;
  int32_t in_zp;
  int32_t out_zp;
  int32_t act_min, act_max;
} ek_depthwise_params;

typedef struct {
  int32_t rows;   /* input rows, each of in_c values */
  int32_t in_c;
  int32_t out_c;
  int32_t out_zp;
  int32_t act_min, act_max;
} ek_fc_params;

/* weights: [out_c][kernel_h][kernel_w][in_c / groups]. */
void ek_conv2d_s8_direct_ref(const ek_conv_params *p, const int8_t *input, const int8_t *weights,
                             const int32_t *bias, const int32_t *mult, const int8_t *shift,
                             int8_t *output, void *scratch);
int32_t ek_conv2d_s8_direct_ref_scratch_bytes(const ek_conv_params *p);

/* The same with windows copied side by side first. scratch: two windows, each
 * kernel_h * kernel_w * in_c / groups bytes; none where a window is one pixel of the input. */
void ek_conv2d_s8_im2col_ref(const ek_conv_params *p, const int8_t *input, const int8_t *weights,
                             const int32_t *bias, const int32_t *mult, const int8_t *shift,
                             int8_t *output, void *scratch);
int32_t ek_conv2d_s8_im2col_ref_scratch_bytes(const ek_conv_params *p);

/* weights: [kernel_h][kernel_w][out_c]. border_bias: the model's own, not folded, used with
 * x - in_zp where taps are outside; it may be bias itself where no tap ever is, or in_zp is 0. */
void ek_depthwise_s8_direct_ref(const ek_depthwise_params *p, const int8_t *input,
                                const int8_t *weights, const int32_t *bias,
                                const int32_t *border_bias, const int32_t *mult,
                                const int8_t *shift, int8_t *output, void *scratch);
int32_t ek_depthwise_s8_direct_ref_scratch_bytes(const ek_depthwise_params *p);

/* weights: [out_c][kernel_h][kernel_w][in_c]; pad_*, stride_* of the forward convolution; dilation
 * and groups are 1. The bias is the model's, not folded: which taps meet an input pixel differs from
 * pixel to pixel, so the kernel subtracts in_zp itself. */
void ek_transpose_conv_s8_gather_ref(const ek_conv_params *p, const int8_t *input,
                                     const int8_t *weights, const int32_t *bias,
                                     const int32_t *mult, const int8_t *shift, int8_t *output,
                                     void *scratch);
int32_t ek_transpose_conv_s8_gather_ref_scratch_bytes(const ek_conv_params *p);

/* weights: [out_c][in_c]. One multiplier an output (per-tensor quantization repeats it). */
void ek_fully_connected_s8_ref(const ek_fc_params *p, const int8_t *input, const int8_t *weights,
                               const int32_t *bias, const int32_t *mult, const int8_t *shift,
                               int8_t *output, void *scratch);
int32_t ek_fully_connected_s8_ref_scratch_bytes(const ek_fc_params *p);

/* Weights with a zero point w_zp; bias[o] is the model's minus in_zp * sum(w - w_zp). */
void ek_fully_connected_s8_asymmetric_ref(const ek_fc_params *p, const int8_t *input,
                                          const int8_t *weights, int32_t w_zp, const int32_t *bias,
                                          const int32_t *mult, const int8_t *shift, int8_t *output);

#endif
