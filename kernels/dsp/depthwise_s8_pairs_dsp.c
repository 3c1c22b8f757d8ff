/* Depthwise convolution, multiplier 1: taps in pairs for SMLAD, four channels a word.
 *
 * Every output pixel gets a table of pointers to its taps; taps outside the input point at a row of
 * padding, so the inner loop knows no borders. Two words of four channels become, by PKHBT/PKHTB and
 * SXTB16, four pairs (tap, next tap) of one channel each: 15 instructions for 8 multiplications.
 */
#include "ek_dsp_quant.h"

/* Channels, rounded up to whole words: the row of padding. */
EK_INLINE int32_t padded(int32_t channels) { return (channels + 3) & ~3; }

/* Tap pointers, one more when their number is odd. */
EK_INLINE int32_t table_size(const ek_depthwise_params *p) {
  return (p->kernel_h * p->kernel_w + 1) & ~1;
}

int32_t ek_depthwise_s8_pairs_dsp_scratch_bytes(const ek_depthwise_params *p) {
  return table_size(p) * 8 + padded(p->in_c); /* 8 bytes a pointer: one figure for every host */
}

/* Four channels of all taps. */
EK_INLINE void taps_of_four(const int8_t *const *tap, const int8_t *const *end, int32_t c,
                            const uint32_t *w, int32_t *acc) {
  int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
  do {
    const uint32_t x = ek_load32(tap[0] + c);
    const uint32_t y = ek_load32(tap[1] + c);
    const uint32_t low = ek_pkhbt_lsl16(x, y);
    const uint32_t high = ek_pkhtb_asr16(y, x);
    a0 = ek_smlad(ek_sxtb16(low), w[0], a0);
    a1 = ek_smlad(ek_sxtb16_ror8(low), w[1], a1);
    a2 = ek_smlad(ek_sxtb16(high), w[2], a2);
    a3 = ek_smlad(ek_sxtb16_ror8(high), w[3], a3);
    tap += 2;
    w += 4;
  } while (tap != end);
  acc[0] = a0;
  acc[1] = a1;
  acc[2] = a2;
  acc[3] = a3;
}

/* The last one to three channels, byte by byte. */
static void taps_of_rest(const int8_t *const *tap, const int8_t *const *end, int32_t c, int n,
                         const uint32_t *w, int32_t *acc) {
  for (; tap != end; tap += 2, w += 4) {
    for (int i = 0; i < n; ++i) {
      acc[i] = ek_smlad(ek_pair16(tap[0][c + i], tap[1][c + i]), w[i], acc[i]);
    }
  }
}

void ek_depthwise_s8_pairs_dsp(const ek_depthwise_params *p, const int8_t *input,
                               const uint32_t *weights, const ek_dsp_quant *quant, int8_t *output,
                               void *scratch) {
  const int32_t channels = p->in_c;
  const int32_t table = table_size(p);
  const int8_t **tap = (const int8_t **)scratch;
  int8_t *padding = (int8_t *)(tap + table);
  memset(padding, p->in_zp, (size_t)padded(channels));
  tap[table - 1] = padding; /* the tap that makes their number even has zero weights */
  for (int32_t oy = 0; oy < p->out_h; ++oy) {
    for (int32_t ox = 0; ox < p->out_w; ++ox) {
      const int32_t x0 = ox * p->stride_w - p->pad_left;
      int32_t iy = oy * p->stride_h - p->pad_top;
      int32_t t = 0;
      for (int32_t ky = 0; ky < p->kernel_h; ++ky, iy += p->dilation_h) {
        int32_t ix = x0;
        for (int32_t kx = 0; kx < p->kernel_w; ++kx, ix += p->dilation_w) {
          const int inside = iy >= 0 && iy < p->in_h && ix >= 0 && ix < p->in_w;
          tap[t++] = inside ? input + (iy * p->in_w + ix) * channels : padding;
        }
      }
      const uint32_t *w = weights;
      const ek_dsp_quant *q = quant;
      for (int32_t c = 0; c < channels; c += 4, q += 4, w += 2 * table) {
        const int n = (int)ek_min(4, channels - c);
        int32_t acc[4] = {q[0].bias, q[1].bias, q[2].bias, q[3].bias};
        if (n == 4) {
          taps_of_four(tap, tap + table, c, w, acc);
        } else {
          taps_of_rest(tap, tap + table, c, n, w, acc);
        }
        for (int i = 0; i < n; ++i) {
          ek_dsp_store(acc + i, 1, 0, q + i, p->out_zp, p->act_min, p->act_max, output + i, 1);
        }
        output += n;
      }
    }
  }
}
