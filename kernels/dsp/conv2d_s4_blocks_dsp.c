/* Convolution, 4-bit weights: a few output channels are unpacked into scratch and computed at every
 * pixel, then the next few (ek_dsp_lowbit.h). */
#include "ek_dsp_conv.h"
#include "ek_dsp_lowbit.h"
#include "ek_lowbit.h"

/* Unpacked weights of a block of channels; always whole units of codes. */
EK_INLINE int32_t weight_bytes(const ek_conv_params *p) {
  return (p->out_c + 1) / 2 * 8 * ek_dsp_blocks(p);
}

int32_t ek_conv2d_s4_blocks_dsp_scratch_bytes(const ek_conv_blocks_params *p) {
  return weight_bytes(&p->block) + ek_dsp_conv_scratch_bytes(&p->block);
}

void ek_conv2d_s4_blocks_dsp(const ek_conv_blocks_params *p, const int8_t *input,
                             const uint8_t *weights, const ek_dsp_quant *quant, int8_t *output,
                             void *scratch) {
  const int32_t out_c = p->out_c, most = weight_bytes(&p->block);
  int8_t *const w = (int8_t *)scratch;
  for (int32_t o = 0; o < out_c; o += p->block.out_c) {
    const ek_conv_params *some = out_c - o < p->block.out_c ? &p->last : &p->block;
    ek_unpack_params u;
    u.records = 1;
    u.head = 0;
    u.codes = weight_bytes(some);
    u.tail = 0;
    u.form = EK_FORM_PAIRS;
    u.bits = 4;
    ek_unpack_s4_ref(&u, weights, w);
    weights += u.codes / 2;
    ek_dsp_conv(some, input, w, quant + o, output + o, out_c, w + most, 1, 8, 1,
                ek_mac_s8_2x4_halfword_dsp, ek_conv_columns_s8_halfword_dsp);
  }
}
