/* Fully connected, 4-bit codes through a table of pairs: a byte of two codes is looked up once, as two
 * halfwords, and multiplied by SMLAD (ek_dsp_lowbit.h). */
#include "ek_dsp_lowbit.h"
#include "ek_dot.h"
#include "ek_simd.h"

int32_t ek_fully_connected_w4_dsp_scratch_bytes(const ek_fc_params *p) {
  return 1024 + (p->in_c + 7) / 8 * 16;
}

/* pairs[b]: the values of the low and the high code of b. */
static void make_pairs(const int8_t *table, uint32_t *pairs) {
  for (int high = 0; high < 16; ++high) {
    for (int low = 0; low < 16; ++low) *pairs++ = ek_pair16(table[low], table[high]);
  }
}

/* Inputs k and k + 4 of eight side by side, zeros behind the last. */
static void widen(const int8_t *in, int32_t n, uint32_t *x) {
  for (; n >= 8; n -= 8, in += 8, x += 4) {
    for (int k = 0; k < 4; ++k) x[k] = ek_pair16(in[k], in[k + 4]);
  }
  if (n > 0) {
    for (int k = 0; k < 4; ++k) x[k] = ek_pair16(k < n ? in[k] : 0, k + 4 < n ? in[k + 4] : 0);
  }
}

/* Two outputs, or the same one twice. */
static void sums(const uint32_t *pairs, const uint32_t *x, int32_t blocks, const uint8_t *w0,
                 const uint8_t *w1, int32_t acc[2]) {
  int32_t a = acc[0], b = acc[1];
  for (; blocks > 0; --blocks, w0 += 4, w1 += 4, x += 4) {
    const uint32_t v = ek_load32(w0), w = ek_load32(w1);
    a = ek_smlad(pairs[v & 0xffu], x[0], a);
    b = ek_smlad(pairs[w & 0xffu], x[0], b);
    a = ek_smlad(pairs[(v >> 8) & 0xffu], x[1], a);
    b = ek_smlad(pairs[(w >> 8) & 0xffu], x[1], b);
    a = ek_smlad(pairs[(v >> 16) & 0xffu], x[2], a);
    b = ek_smlad(pairs[(w >> 16) & 0xffu], x[2], b);
    a = ek_smlad(pairs[v >> 24], x[3], a);
    b = ek_smlad(pairs[w >> 24], x[3], b);
  }
  acc[0] = a;
  acc[1] = b;
}

void ek_fully_connected_w4_dsp(const ek_fc_params *p, const int8_t *input, const uint8_t *weights,
                               const int8_t *table, const int32_t *bias, const int32_t *mult,
                               const int8_t *shift, int8_t *output, void *scratch) {
  const int32_t blocks = (p->in_c + 7) / 8, step = 4 * blocks;
  uint32_t *const pairs = (uint32_t *)scratch;
  uint32_t *const x = pairs + 256;
  make_pairs(table, pairs);
  for (int32_t row = 0; row < p->rows; ++row, input += p->in_c) {
    const uint8_t *w = weights;
    widen(input, p->in_c, x);
    for (int32_t o = 0; o < p->out_c; o += 2, w += 2 * step) {
      const int32_t n = ek_min(2, p->out_c - o);
      int32_t acc[2] = {bias[o], bias[o + n - 1]};
      sums(pairs, x, blocks, w, w + (n - 1) * step, acc);
      for (int32_t i = 0; i < n; ++i) {
        *output++ = ek_output_s8((uint32_t)acc[i], mult[o + i], shift[o + i], p->out_zp, p->act_min,
                                 p->act_max);
      }
    }
  }
}
