/* Weights of 4-bit numbers for cores with the DSP extension, unpacked in registers.
 *
 * A word holds eight weights of an output. In the byte 16 * a + b the high half a is a signed number and
 * the low half is b + 8, which is never negative: SXTB16 makes {16 * a + b + 8} of two bytes, AND makes
 * {b + 8}. Multiplied by {xa} and {16 * xb - xa} the two give
 *   16 * (a * xa + b * xb) + 128 * xb,
 * one instruction a pair of weights for unpacking and one for multiplying. What is too much, 128 times the
 * sum of all xb, is the same for every output. The accumulator is 16 times the sum: exact while the sum
 * stays below 2^27 in size, which the generator checks. Codes that a table gives their values have kernels
 * of their own.
 */
#ifndef EK_DSP_LOWBIT_H
#define EK_DSP_LOWBIT_H

#include "ek_dsp_quant.h"

/* 6 outputs x 1 column. w: per block, a word of each output, its bytes {weights 0 and 1, 4 and 5, 2 and
 * 3, 6 and 7}; x: per block the words {x0 x2}, {16 x1 - x0, 16 x3 - x2}, {x4 x6}, {16 x5 - x4,
 * 16 x7 - x6}. */
void ek_mac_s4_6x1_dsp(int32_t *acc, const uint8_t *w, const uint32_t *x, uint32_t blocks);
/* The same from the input's bytes, 8 a block. */
void ek_mac_s4_6x1_bytes_dsp(int32_t *acc, const uint8_t *w, const int8_t *in, uint32_t blocks);

/* Fully connected, 6 outputs at a time. weights: [out_c / 6, rounded up][in_c / 8, rounded up][6] words;
 * bias: [out_c]; quant as in ek_fully_connected_s8_pairs_dsp. The lean one has no scratch, the other one
 * the input as above. */
void ek_fully_connected_s4_dsp(const ek_fc_dsp_params *p, const int8_t *input,
                               const uint8_t *weights, const int32_t *bias,
                               const ek_dsp_quant *quant, int8_t *output, void *scratch);
int32_t ek_fully_connected_s4_dsp_scratch_bytes(const ek_fc_dsp_params *p);
void ek_fully_connected_s4_lean_dsp(const ek_fc_dsp_params *p, const int8_t *input,
                                    const uint8_t *weights, const int32_t *bias,
                                    const ek_dsp_quant *quant, int8_t *output, void *scratch);
int32_t ek_fully_connected_s4_lean_dsp_scratch_bytes(const ek_fc_dsp_params *p);

/* Fully connected, 4-bit codes of a table: as ek_fully_connected_w4_ref (ek_lowbit.h). scratch: 256 words
 * of pairs, and the input. */
void ek_fully_connected_w4_dsp(const ek_fc_params *p, const int8_t *input, const uint8_t *weights,
                               const int8_t *table, const int32_t *bias, const int32_t *mult,
                               const int8_t *shift, int8_t *output, void *scratch);
int32_t ek_fully_connected_w4_dsp_scratch_bytes(const ek_fc_params *p);

/* Convolution, groups 1, as ek_conv2d_s8_halfword_dsp, so many output channels (even) at a time: their
 * weights are unpacked into scratch, in front of the columns. weights: codes of ek_lowbit.h, of which
 * ek_conv2d_s8_halfword_dsp's layout becomes; each block of channels begins with a whole word. */
typedef struct {
  ek_conv_params block, last; /* the convolution with a block's output channels, and with the last one's */
  int32_t out_c;              /* of all blocks */
} ek_conv_blocks_params;
void ek_conv2d_s4_blocks_dsp(const ek_conv_blocks_params *p, const int8_t *input,
                             const uint8_t *weights, const ek_dsp_quant *quant, int8_t *output,
                             void *scratch);
int32_t ek_conv2d_s4_blocks_dsp_scratch_bytes(const ek_conv_blocks_params *p);

/* x of one block, from 8 inputs in two words; returns sum plus the odd inputs. */
EK_INLINE int32_t ek_s4_inputs(uint32_t *x, uint32_t first, uint32_t second, int32_t sum) {
  const uint32_t odd = ek_sxtb16_ror8(first), odd2 = ek_sxtb16_ror8(second);
  x[0] = ek_sxtb16(first);
  x[1] = ek_ssub16((odd & 0x0fff0fffu) << 4, x[0]);
  x[2] = ek_sxtb16(second);
  x[3] = ek_ssub16((odd2 & 0x0fff0fffu) << 4, x[2]);
  return ek_smlad(ek_sadd16(odd, odd2), 0x00010001u, sum);
}

/* What the sums of n outputs start with. odd: the sum of the odd inputs. */
EK_INLINE void ek_s4_start(int32_t *acc, const int32_t *bias, int n, int32_t odd) {
  for (int i = 0; i < 6; ++i) {
    acc[i] = i < n ? ek_add_wrap(ek_shl(bias[i], 4), ek_shl(-odd, 7)) : 0;
  }
}

/* Requantize n outputs; returns the next entry of the table. */
EK_INLINE const ek_dsp_quant *ek_s4_finish(const ek_fc_dsp_params *p, const int32_t *acc, int n,
                                           const ek_dsp_quant *q, int8_t *out) {
  if (p->quant_step == 0) {
    ek_dsp_store(acc, n, 4, q, p->fc.out_zp, p->fc.act_min, p->fc.act_max, out, 1);
    return q;
  }
  for (int i = 0; i < n; ++i) {
    ek_dsp_store(acc + i, 1, 4, q + i, p->fc.out_zp, p->fc.act_min, p->fc.act_max, out + i, 1);
  }
  return q + n;
}

#endif
