/* Parts of the depthwise 3x3 kernels for cores with the DSP extension. */
#ifndef EK_DSP_DEPTHWISE_H
#define EK_DSP_DEPTHWISE_H

#include "ek_dsp_line.h"
#include "ek_simd.h"

/* Depthwise 3x3, stride 1, dilation 1, multiplier 1; pad_left at most 2. table: EK_DEPTHWISE_*_WORDS
 * a channel. short and lean differ in the scratch they take. output may be the input where their
 * shapes are equal. */
void ek_depthwise_3x3_s8_short_dsp(const ek_depthwise_params *p, const int8_t *input,
                                   const int32_t *table, int8_t *output, void *scratch);
int32_t ek_depthwise_3x3_s8_short_dsp_scratch_bytes(const ek_depthwise_params *p);
void ek_depthwise_3x3_s8_lean_dsp(const ek_depthwise_params *p, const int8_t *input,
                                  const int32_t *table, int8_t *output, void *scratch);
int32_t ek_depthwise_3x3_s8_lean_dsp_scratch_bytes(const ek_depthwise_params *p);
void ek_depthwise_3x3_s8_long_dsp(const ek_depthwise_params *p, const int8_t *input,
                                  const int32_t *table, int8_t *output, void *scratch);
int32_t ek_depthwise_3x3_s8_long_dsp_scratch_bytes(const ek_depthwise_params *p);

/* The short form from 17 bytes a channel: weights [3][3][channels], lines {256-fold bias, m} a channel, see
 * ek_line_constant. The table is made in scratch. */
void ek_depthwise_3x3_s8_compact_dsp(const ek_depthwise_params *p, const int8_t *input,
                                     const int8_t *weights, const int32_t *lines, int8_t *output,
                                     void *scratch);
int32_t ek_depthwise_3x3_s8_compact_dsp_scratch_bytes(const ek_depthwise_params *p);

/* A channel's constants: weights {w0 w1}, {w1 w2} of three columns, 256-fold; m, c of the line
 * (ek_dsp_line.h); the bias, 256-fold, twice; in the long form k. */
#define EK_DEPTHWISE_SHORT_WORDS 10
#define EK_DEPTHWISE_LONG_WORDS 11

/* Columns take so much scratch, or four channels' worth where that is more. */
#define EK_DEPTHWISE_GROUP_BYTES 4096

/* Two output rows. columns: by channel, out_w + 2 columns of 12 bytes, of which the first 8 from the
 * given address on are {v0 v1}, {v2 v3} of four input rows less the zero point. turns: 24 bytes for each
 * two pixels that are not at an edge. flags: 1: one pixel more; 2: the first and the last column are
 * padding, and the first and last two pixels are not in turns. */
typedef struct {
  const uint32_t *columns;
  int8_t *out;
  int32_t row;  /* bytes to the second row, 0 where it is not wanted */
  int32_t step; /* bytes from pixel to pixel */
  const int32_t *channel, *end;
  int32_t turn; /* bytes from the pixel after the last to the next channel */
  int32_t turns;
  int32_t flags;
} ek_depthwise_rows;
void ek_depthwise_rows_s8_short_dsp(const ek_depthwise_rows *p); /* k is EK_LINE_SHIFT */
void ek_depthwise_rows_s8_long_dsp(const ek_depthwise_rows *p);

/* Pairs of two input rows of four channels (times groups): {row0 row1} less zp, written every 12 bytes to
 * planes of *plane* bytes each, at dst and, where also is not 0, 8 bytes before. */
typedef struct {
  uint32_t *dst;
  const int8_t *row0, *row1;
  int32_t step; /* bytes from pixel to pixel */
  int32_t pixels; /* at least 1 */
  int32_t plane;
  uint32_t zp; /* -zp in both halves */
  int32_t also;
  int32_t groups; /* at least 1 */
} ek_depthwise_pairs;
void ek_depthwise_pairs_s8_dsp(const ek_depthwise_pairs *p);

#endif
