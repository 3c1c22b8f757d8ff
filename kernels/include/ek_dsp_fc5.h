/* Fully connected for cores with the DSP extension: five outputs a pass. */
#ifndef EK_DSP_FC5_H
#define EK_DSP_FC5_H

#include "ek_dsp_line.h"

/* One multiplier for the layer; at least five outputs. stream, for each five outputs: biases, 256-fold;
 * in_c / 4, rounded up, times 4 weights of each in the halfword form of ek_dsp.h. The last five outputs
 * come last, whole: where out_c is no multiple of five some are computed twice. m, c, d, k: the line of
 * ek_dsp_line.h. With one row and no more outputs than inputs, output may be
 * the input. */
typedef struct {
  ek_fc_params fc;
  int32_t m, c, d, k;
} ek_fc5_params;
void ek_fully_connected_s8_fives_dsp(const ek_fc5_params *p, const int8_t *input,
                                     const int8_t *stream, int8_t *output, void *scratch);
int32_t ek_fully_connected_s8_fives_dsp_scratch_bytes(const ek_fc5_params *p);

/* passes of five outputs, from the input as words {odd inputs, even inputs} of the halfword form;
 * returns where the stream continues. */
typedef struct {
  int32_t m, c, d, k;
  const int8_t *stream;
  int8_t *out;
  const uint32_t *x;
  int32_t blocks; /* at least 1 */
  int32_t passes; /* at least 1 */
} ek_fc5_passes;
const int8_t *ek_fc5_passes_s8_dsp(const ek_fc5_passes *p);

#endif
