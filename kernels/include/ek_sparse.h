/* Block-sparse weights: of each output channel only the blocks of four consecutive weights that are not
 * all zero.
 *
 * A layer's weights are rows of in_c (times kernel pixels) values, cut into blocks of four with zeros
 * behind the last. counts: stored blocks of each output. gaps: for each of them how many blocks it lies
 * behind the one stored before it, or, the output's first, from its row's start on; where that is more
 * than 255, a block of zeros stands between. weights: four of each block.
 */
#ifndef EK_SPARSE_H
#define EK_SPARSE_H

#include "ek_conv.h"
#include "ek_dsp.h"

typedef struct {
  const uint16_t *counts;
  const uint8_t *gaps;
  const int8_t *weights; /* 4-byte aligned */
} ek_sparse;

/* Fully connected, or a convolution of one pixel and stride 1, whose rows are its pixels. The last block
 * of a row is only read as far as in_c. */
void ek_rows_s8_sparse_ref(const ek_fc_params *p, const int8_t *input, const ek_sparse *w,
                           const int32_t *bias, const int32_t *mult, const int8_t *shift,
                           int8_t *output);

/* The same for cores with the DSP extension; weights in the halfword form of ek_dsp.h. scratch: the input
 * widened, 8 bytes a block. */
void ek_fully_connected_s8_sparse_dsp(const ek_fc_params *p, const int8_t *input,
                                      const ek_sparse *w, const ek_dsp_quant *quant,
                                      int8_t *output, void *scratch);
int32_t ek_fully_connected_s8_sparse_dsp_scratch_bytes(const ek_fc_params *p);

/* Any convolution of one group: columns of four output pixels as ek_conv2d_s8_halfword_dsp has them, a
 * channel at a time. */
void ek_conv2d_s8_sparse_dsp(const ek_conv_params *p, const int8_t *input, const ek_sparse *w,
                             const ek_dsp_quant *quant, int8_t *output, void *scratch);
int32_t ek_conv2d_s8_sparse_dsp_scratch_bytes(const ek_conv_params *p);

/* At least one block of one output by four columns; gaps and weights are moved behind them. */
typedef struct {
  const uint32_t *columns;
  const uint8_t *gaps;
  const uint32_t *weights;
  const uint32_t *end; /* of the weights */
} ek_sparse_run;
void ek_mac_s8_1x4_sparse_dsp(int32_t *acc, ek_sparse_run *run);

#endif
