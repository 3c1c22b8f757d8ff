/* Convolution by im2col of four output pixels, int16 weights (ek_dsp.h). */
#include "ek_dsp_conv.h"
#include "ek_dsp_mac.h"

static void mac(int32_t *acc, const int8_t *w, const uint32_t *cols, uint32_t blocks) {
  int32_t m[8];
  ek_mac_s16 one;
  one.x = cols;
  one.w = (const uint32_t *)(const void *)w;
  one.m = m;
  one.runs[0].positions = 1;
  one.runs[0].blocks = (int32_t)(2 * blocks);
  one.runs[1].positions = 0;
  ek_mac_s16_2x4_dsp(&one);
  for (int i = 0; i < 8; ++i) acc[i] = ek_add_wrap(acc[i], m[i]);
}

int32_t ek_conv2d_s8_wide_dsp_scratch_bytes(const ek_conv_params *p) {
  return ek_dsp_conv_scratch_bytes(p);
}

void ek_conv2d_s8_wide_dsp(const ek_conv_params *p, const int8_t *input, const int16_t *weights,
                           const ek_dsp_quant *quant, int8_t *output, void *scratch) {
  ek_dsp_conv(p, input, (const int8_t *)weights, quant, output, p->out_c, scratch, 0, 1, 2, mac,
              ek_conv_columns_s16_dsp);
}
