/* The body of the depthwise_3x3 kernels: some channels at a time from top to bottom, two output rows a
 * step. What is read of the input is kept as pairs of rows, so the output may be the input.
 *
 * A column holds three words; the pairs of step j are words 0 and 1 (j even) or 1 and 2 (j odd), and word
 * 0 is written again with word 2.
 */
#ifndef EK_DSP_DEPTHWISE_BODY_H
#define EK_DSP_DEPTHWISE_BODY_H

#include "ek_dsp_depthwise.h"

EK_INLINE int32_t ek_depthwise_plane(const ek_depthwise_params *p) { return 12 * (p->out_w + 2); }

/* Channels at a time, a multiple of four; their columns take group_bytes at most. */
EK_INLINE int32_t ek_depthwise_group(const ek_depthwise_params *p, int32_t group_bytes) {
  const int32_t most = group_bytes / ek_depthwise_plane(p) / 4 * 4;
  return ek_max(ek_min(most, (p->in_c + 3) / 4 * 4), 4);
}

EK_INLINE int32_t ek_dsp_depthwise_scratch_bytes(const ek_depthwise_params *p,
                                                 int32_t group_bytes) {
  return ek_depthwise_group(p, group_bytes) * ek_depthwise_plane(p) + (p->in_w * p->in_c + 3) / 4 * 4;
}

/* The last one to three channels, byte by byte. */
static __attribute__((noinline, unused)) void ek_depthwise_tail(const ek_depthwise_pairs *t,
                                                                int32_t from, int32_t to) {
  for (int32_t c = from; c < to; ++c) {
    uint32_t *dst = t->dst + c * (t->plane / 4);
    for (int32_t x = 0; x < t->pixels; ++x, dst += 3) {
      const uint32_t pair = ek_pair16(t->row0[x * t->step + c] + ek_lo16(t->zp),
                                      t->row1[x * t->step + c] + ek_lo16(t->zp));
      dst[0] = pair;
      if (t->also != 0) dst[-2] = pair;
    }
  }
}

/* Rows y and y + 1 of the input as pairs in word *slot* of the columns. */
static __attribute__((noinline, unused)) void ek_depthwise_read(
    const ek_depthwise_params *p, ek_depthwise_pairs *t, const int8_t *input, const int8_t *padding,
    int32_t y, int slot, uint32_t *columns, int32_t channels) {
  const int32_t row = p->in_w * p->in_c;
  t->dst = columns + slot;
  t->also = slot == 2;
  t->row0 = y >= 0 && y < p->in_h ? input + y * row : padding;
  t->row1 = y >= -1 && y + 1 < p->in_h ? input + (y + 1) * row : padding;
  if (t->groups > 0) ek_depthwise_pairs_s8_dsp(t);
  if (4 * t->groups < channels) ek_depthwise_tail(t, 4 * t->groups, channels);
}

EK_INLINE void ek_dsp_depthwise(const ek_depthwise_params *p, const int8_t *input,
                                const int32_t *table, int8_t *output, void *scratch, int32_t words,
                                int32_t group_bytes, void (*rows)(const ek_depthwise_rows *)) {
  const int32_t plane = ek_depthwise_plane(p);
  const int32_t group = ek_depthwise_group(p, group_bytes);
  const int32_t out_row = p->out_w * p->in_c;
  uint32_t *columns = (uint32_t *)scratch;
  uint32_t *inner = columns + 3 * p->pad_left;
  int8_t *padding = (int8_t *)scratch + group * plane;
  const int edges = p->pad_left == 1 && p->in_w == p->out_w && p->out_w >= 4;
  const int32_t zp = -p->in_zp;
  ek_depthwise_pairs t = {columns, input, input, p->in_c, ek_min(p->in_w, p->out_w + 2 - p->pad_left),
                          plane, ek_pair16(zp, zp), 0, 0};
  ek_depthwise_rows r = {columns, output, 0, p->in_c, table, table, 1 - out_row, 0, 0};
  r.flags = (p->out_w & 1) | (edges ? 2 : 0);
  r.turns = 24 * (p->out_w / 2 - (edges ? 2 : 0));
  if (!edges) memset(columns, 0, (size_t)(group * plane)); /* else padding is not read */
  memset(padding, p->in_zp, (size_t)(p->in_w * p->in_c));
  for (int32_t c = 0; c < p->in_c; c += group, r.channel = r.end) {
    const int32_t channels = ek_min(group, p->in_c - c);
    const int8_t *in = input + c;
    t.groups = channels / 4;
    r.end = r.channel + words * channels;
    r.out = output + c;
    r.row = out_row;
    ek_depthwise_read(p, &t, in, padding, -p->pad_top, 0, inner, channels);
    for (int32_t y = 0; y < p->out_h; y += 2, r.out += 2 * out_row) {
      const int odd = (int)(y / 2 & 1);
      ek_depthwise_read(p, &t, in, padding, y - p->pad_top + 2, 1 + odd, inner, channels);
      r.columns = columns + odd;
      if (y + 1 == p->out_h) r.row = 0;
      rows(&r);
    }
  }
}

#endif
