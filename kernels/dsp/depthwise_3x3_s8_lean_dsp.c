/* Depthwise 3x3, stride 1, multiplier 1, the short line for requantization (ek_dsp_line.h), four
 * channels at a time for the least scratch. */
#include "ek_dsp_depthwise_body.h"

int32_t ek_depthwise_3x3_s8_lean_dsp_scratch_bytes(const ek_depthwise_params *p) {
  return ek_dsp_depthwise_scratch_bytes(p, 0);
}

void ek_depthwise_3x3_s8_lean_dsp(const ek_depthwise_params *p, const int8_t *input,
                                   const int32_t *table, int8_t *output, void *scratch) {
  ek_dsp_depthwise(p, input, table, output, scratch, EK_DEPTHWISE_SHORT_WORDS,
                   0, ek_depthwise_rows_s8_short_dsp);
}
