/* Convolution by im2col of four output pixels, int8 weights in the halfword form (ek_dsp.h). */
#include "ek_dsp_conv.h"

int32_t ek_conv2d_s8_halfword_dsp_scratch_bytes(const ek_conv_params *p) {
  return ek_dsp_conv_scratch_bytes(p);
}

void ek_conv2d_s8_halfword_dsp(const ek_conv_params *p, const int8_t *input, const int8_t *weights,
                               const ek_dsp_quant *quant, int8_t *output, void *scratch) {
  ek_dsp_conv(p, input, weights, quant, output, p->out_c, scratch, 1, 8, 1,
              ek_mac_s8_2x4_halfword_dsp, ek_conv_columns_s8_halfword_dsp);
}
