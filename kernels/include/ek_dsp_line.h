/* Requantization as one line: the accumulator is 256 times the sum, and
 *   y = sat8((floor(acc * m / 2^32) + c) >> k).
 *
 * gemmlowp's double rounding of a sum x, floor((floor(x * mult / 2^31 + 1/2) + half - (x < 0)) / 2^e),
 * is floor of that line for x >= 0, because floors nest; k > e leaves the line the fraction bits it
 * needs. Where every negative sum ends at the lower clamp anyway (ReLU, output zero point -128) that is
 * three instructions with the store: SMMLA, SSAT with a constant shift, STRB. Elsewhere *d* is added for
 * negative sums, and the shift is the channel's own. Numbers are chosen, and compared with the
 * reference at all 255 steps of the output, when the code is generated
 * (targets/mcu/variants/dsp_line.py).
 */
#ifndef EK_DSP_LINE_H
#define EK_DSP_LINE_H

#include "ek_conv.h"

#define EK_LINE_SHIFT 12 /* k of the short form */

/* c of the short form for output zero point -128, when m is a multiplier of 2^30 .. 2^31 - 1 shifted right
 * by e - 5: (-128 << 12) + (1 << 11) + (1 << (11 - e)). For m = 0 the output is -128. */
#define EK_LINE_BASE (-0x7f800)
EK_INLINE int32_t ek_line_constant(int32_t m) {
  return EK_LINE_BASE + (m == 0 ? 0 : (int32_t)(128u >> __builtin_clz((uint32_t)m)));
}

/* Two output channels x three columns, all pairs of channels of three output pixels. stream, for each
 * pair: biases, 256-fold, {b0, b0, b0, b1, b1, b1}; *blocks* times 4 weights of each channel; then, short
 * form: {m, c} of each channel; long form: {m, c, d, k} of each. The compact form has
 * biases {b0, b1} and, in the end, {m0, m1}. Weights are in the halfword form of
 * ek_dsp.h. cols: per block {second, third and fourth ... input of three columns}, see ek_dsp_triple. */
typedef struct {
  const int8_t *stream;
  const int8_t *end; /* of the stream */
  int8_t *out;       /* first pixel, first channel */
  const uint32_t *cols;
  int32_t step; /* bytes from pixel to pixel */
  int32_t blocks;
} ek_conv_triples;
void ek_conv_triples_s8_short_dsp(const ek_conv_triples *p);
void ek_conv_triples_s8_long_dsp(const ek_conv_triples *p);
void ek_conv_triples_s8_compact_dsp(const ek_conv_triples *p);

/* Convolution, groups 1, dilation 1, even out_c: windows read as kernel_h runs of 4 * row_words bytes.
 * copy 0: from the input itself (no padding, runs of whole words); copy 1: from a padded copy in
 * scratch, where weights of 0 meet what a run holds beyond its window. With copy 0, a kernel of one
 * pixel, stride 1 and in_c = out_c, output may be the input. */
typedef struct {
  ek_conv_params conv;
  int32_t row_words;
  int32_t copy;
} ek_conv_rows_params;
void ek_conv2d_s8_rows_short_dsp(const ek_conv_rows_params *p, const int8_t *input,
                                 const int8_t *stream, int8_t *output, void *scratch);
int32_t ek_conv2d_s8_rows_short_dsp_scratch_bytes(const ek_conv_rows_params *p);
void ek_conv2d_s8_rows_long_dsp(const ek_conv_rows_params *p, const int8_t *input,
                                const int8_t *stream, int8_t *output, void *scratch);
int32_t ek_conv2d_s8_rows_long_dsp_scratch_bytes(const ek_conv_rows_params *p);
void ek_conv2d_s8_rows_compact_dsp(const ek_conv_rows_params *p, const int8_t *input,
                                   const int8_t *stream, int8_t *output, void *scratch);
int32_t ek_conv2d_s8_rows_compact_dsp_scratch_bytes(const ek_conv_rows_params *p);

/* Three windows side by side: rows runs of words words each, pitch bytes from run to run, written as
 * per word {odd inputs of three columns, even inputs of three columns} in the halfword form. */
typedef struct {
  uint32_t *dst;
  const int8_t *src[3];
  int32_t words; /* at least 1 */
  int32_t rows;  /* at least 1 */
  int32_t pitch;
} ek_triple_columns;
void ek_triple_columns_s8_dsp(const ek_triple_columns *p);

/* ADD of two tensors of one shape: sat8((floor(x * a / 2^8) + floor(y * b / 2^8) + c) >> 20), where the
 * generator found a, b and c that are right for all 65,536 pairs of inputs. output may be either input. */
typedef struct {
  int32_t count;
  int32_t a, b, c;
} ek_add_line_params;
void ek_add_s8_line_dsp(const ek_add_line_params *p, const int8_t *x, const int8_t *y,
                        int8_t *output);
int32_t ek_add_s8_line_dsp_scratch_bytes(const ek_add_line_params *p);

#endif
