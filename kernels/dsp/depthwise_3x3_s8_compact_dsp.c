/* Depthwise 3x3, stride 1, multiplier 1, the short line for requantization; the table of constants is made
 * from 17 bytes a channel (ek_dsp_depthwise.h).
 */
#include "ek_dsp_depthwise_body.h"

int32_t ek_depthwise_3x3_s8_compact_dsp_scratch_bytes(const ek_depthwise_params *p) {
  return 4 * EK_DEPTHWISE_SHORT_WORDS * p->in_c + ek_dsp_depthwise_scratch_bytes(p, EK_DEPTHWISE_GROUP_BYTES);
}

void ek_depthwise_3x3_s8_compact_dsp(const ek_depthwise_params *p, const int8_t *input,
                                     const int8_t *weights, const int32_t *lines, int8_t *output,
                                     void *scratch) {
  int32_t *const table = (int32_t *)scratch;
  const int32_t n = p->in_c;
  int32_t *t = table;
  for (int32_t c = 0; c < n; ++c, ++weights, lines += 2) {
    for (int32_t i = 0; i < 3; ++i) {
      const int8_t *w = weights + i * n;
      *t++ = (int32_t)ek_pair16(w[0] * 256, w[3 * n] * 256);
      *t++ = (int32_t)ek_pair16(w[3 * n] * 256, w[6 * n] * 256);
    }
    *t++ = lines[1];
    *t++ = ek_line_constant(lines[1]);
    *t++ = lines[0];
    *t++ = lines[0];
  }
  ek_dsp_depthwise(p, input, table, output, t, EK_DEPTHWISE_SHORT_WORDS,
                   EK_DEPTHWISE_GROUP_BYTES, ek_depthwise_rows_s8_short_dsp);
}
