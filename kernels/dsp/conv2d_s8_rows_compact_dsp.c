/* Convolution, windows as runs of words, the short line for requantization from eight bytes a
 * channel (ek_dsp_line.h). */
#include "ek_dsp_rows.h"

int32_t ek_conv2d_s8_rows_compact_dsp_scratch_bytes(const ek_conv_rows_params *p) {
  return ek_rows_scratch_bytes(p);
}

void ek_conv2d_s8_rows_compact_dsp(const ek_conv_rows_params *p, const int8_t *input,
                                 const int8_t *stream, int8_t *output, void *scratch) {
  ek_dsp_conv_rows(p, input, stream, output, scratch, 16, ek_conv_triples_s8_compact_dsp);
}
