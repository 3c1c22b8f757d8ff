/* Fully connected, 8 outputs at a time, int8 weights in the halfword form (ek_dsp.h). */
#include "ek_dsp_fc.h"

int32_t ek_fully_connected_s8_halfword_dsp_scratch_bytes(const ek_fc_dsp_params *p) {
  (void)p;
  return 0;
}

void ek_fully_connected_s8_halfword_dsp(const ek_fc_dsp_params *p, const int8_t *input,
                                        const int8_t *weights, const int32_t *bias,
                                        const ek_dsp_quant *quant, int8_t *output, void *scratch) {
  (void)scratch;
  ek_dsp_fc(p, input, weights, bias, quant, output, 8, ek_mac_s8_8x1_halfword_dsp);
}
