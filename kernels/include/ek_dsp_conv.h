/* The body of the dsp convolution kernels: columns of four output pixels, then all channels. */
#ifndef EK_DSP_CONV_H
#define EK_DSP_CONV_H

#include "ek_dsp_quant.h"

/* Small loops stay functions of their own: inlined into one another they spill on every turn. */
#define EK_DSP_LOOP static __attribute__((noinline))

/* Four input bytes as one column's two words of a block. */
EK_INLINE void ek_dsp_put(uint32_t *dst, uint32_t in, int halfword) {
  if (halfword) {
    dst[0] = ek_sxtb16_ror8(in);
    dst[4] = ek_rev16(in) ^ 0x007f007fu;
  } else {
    dst[0] = ek_sxtb16(in);
    dst[4] = ek_sxtb16_ror8(in);
  }
}

/* n blocks of input bytes into a column; returns where the column continues. */
EK_DSP_LOOP uint32_t *ek_dsp_widen(uint32_t *dst, const int8_t *src, int32_t n, int halfword) {
  for (; n >= 4; n -= 4, src += 16, dst += 32) {
    ek_dsp_put(dst, ek_load32(src), halfword);
    ek_dsp_put(dst + 8, ek_load32(src + 4), halfword);
    ek_dsp_put(dst + 16, ek_load32(src + 8), halfword);
    ek_dsp_put(dst + 24, ek_load32(src + 12), halfword);
  }
  for (; n > 0; --n, src += 4, dst += 8) ek_dsp_put(dst, ek_load32(src), halfword);
  return dst;
}

/* n blocks of padding. */
EK_DSP_LOOP uint32_t *ek_dsp_fill(uint32_t *dst, uint32_t four_zp, int32_t n, int halfword) {
  uint32_t word[8];
  ek_dsp_put(word, four_zp, halfword);
  for (; n > 0; --n, dst += 8) {
    dst[0] = word[0];
    dst[4] = word[4];
  }
  return dst;
}

EK_INLINE int32_t ek_dsp_blocks(const ek_conv_params *p) {
  return (p->kernel_h * p->kernel_w * p->in_c + 3) / 4;
}

EK_INLINE int32_t ek_dsp_conv_scratch_bytes(const ek_conv_params *p) {
  const int32_t blocks = ek_dsp_blocks(p);
  return blocks * (p->in_c % 4 == 0 ? 32 : 36);
}

/* Taps along one axis that fall inside the input: [*from, *to). */
EK_INLINE void ek_dsp_taps(int32_t start, int32_t size, int32_t taps, int32_t *from, int32_t *to) {
  *from = start < 0 ? ek_min(-start, taps) : 0;
  *to = ek_max(ek_min(size - start, taps), *from);
}

EK_INLINE void ek_dsp_copy(int8_t *dst, const int8_t *src, int32_t n) {
  for (; n >= 4; n -= 4, src += 4, dst += 4) ek_store32(dst, ek_load32(src));
  for (; n > 0; --n) *dst++ = *src++;
}

/* One output pixel's input as a column, when in_c is a multiple of 4: straight from the input. */
EK_DSP_LOOP void ek_dsp_column_words(const ek_conv_params *p, const int8_t *input, int32_t iy,
                                   int32_t ix, uint32_t four_zp, uint32_t *dst, int halfword) {
  const int32_t c4 = p->in_c / 4;
  const int32_t row = p->kernel_w * c4;
  int32_t from, to;
  ek_dsp_taps(ix, p->in_w, p->kernel_w, &from, &to);
  for (int32_t ky = 0; ky < p->kernel_h; ++ky, iy += p->dilation_h) {
    if (iy < 0 || iy >= p->in_h) {
      dst = ek_dsp_fill(dst, four_zp, row, halfword);
    } else if (p->dilation_w == 1) {
      const int8_t *src = input + (iy * p->in_w + ix + from) * p->in_c;
      if (from > 0) dst = ek_dsp_fill(dst, four_zp, from * c4, halfword);
      dst = ek_dsp_widen(dst, src, (to - from) * c4, halfword);
      if (to < p->kernel_w) dst = ek_dsp_fill(dst, four_zp, (p->kernel_w - to) * c4, halfword);
    } else {
      for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
        const int32_t x = ix + kx * p->dilation_w;
        if (x < 0 || x >= p->in_w) {
          dst = ek_dsp_fill(dst, four_zp, c4, halfword);
        } else {
          dst = ek_dsp_widen(dst, input + (iy * p->in_w + x) * p->in_c, c4, halfword);
        }
      }
    }
  }
}

/* The same through a byte buffer, for any in_c. bytes: 4 * blocks, what follows the last tap meets
 * zero weights only. */
EK_DSP_LOOP void ek_dsp_column_bytes(const ek_conv_params *p, const int8_t *input, int32_t iy,
                                   int32_t ix, int8_t *bytes, uint32_t *dst, int halfword) {
  const int32_t c = p->in_c;
  const int32_t row = p->kernel_w * c;
  int32_t from, to;
  int8_t *b = bytes;
  ek_dsp_taps(ix, p->in_w, p->kernel_w, &from, &to);
  for (int32_t ky = 0; ky < p->kernel_h; ++ky, iy += p->dilation_h, b += row) {
    const int32_t src = (iy * p->in_w + ix) * c; /* may lie before the input: an offset only */
    if (iy < 0 || iy >= p->in_h) {
      memset(b, p->in_zp, (size_t)row);
    } else if (p->dilation_w == 1) {
      if (to - from < p->kernel_w) memset(b, p->in_zp, (size_t)row);
      ek_dsp_copy(b + from * c, input + (src + from * c), (to - from) * c);
    } else {
      for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
        const int32_t x = ix + kx * p->dilation_w;
        if (x < 0 || x >= p->in_w) {
          memset(b + kx * c, p->in_zp, (size_t)c);
        } else {
          ek_dsp_copy(b + kx * c, input + (src + kx * p->dilation_w * c), c);
        }
      }
    }
  }
  (void)ek_dsp_widen(dst, bytes, ek_dsp_blocks(p), halfword);
}

typedef void (*ek_dsp_mac_2x4)(int32_t *acc, const int8_t *w, const uint32_t *cols,
                               uint32_t blocks);
typedef void (*ek_dsp_columns)(const ek_conv_columns *p);

/* How many pairs of channels, from the first on, ek_conv_columns_* may take. */
EK_INLINE int32_t ek_dsp_fast_pairs(const ek_conv_params *p, const ek_dsp_quant *quant) {
  int32_t n = 0;
  if (p->act_min != -128 || p->act_max != 127) return 0;
  while (2 * n + 1 < p->out_c && quant[2 * n].exp <= EK_DSP_MAX_EXP &&
         quant[2 * n + 1].exp <= EK_DSP_MAX_EXP) {
    ++n;
  }
  return n;
}

/* n pixels of the channels from c on, any requantization and clamp. */
EK_DSP_LOOP void ek_dsp_conv_rest(const ek_conv_params *p, int32_t step, int32_t c, int n,
                                  const int8_t *w, const ek_dsp_quant *q, int8_t *out,
                                  const uint32_t *cols, int acc_shift, int weight_bytes,
                                  ek_dsp_mac_2x4 mac) {
  const int32_t blocks = ek_dsp_blocks(p);
  for (; c < p->out_c; c += 2, w += 8 * weight_bytes * blocks, q += 2, out += 2) {
    int32_t acc[8];
    acc[0] = acc[1] = acc[2] = acc[3] = q[0].bias;
    acc[4] = acc[5] = acc[6] = acc[7] = q[1].bias;
    mac(acc, w, cols, (uint32_t)blocks);
    const int both = ek_min(2, p->out_c - c);
    for (int i = 0; i < both; ++i) {
      ek_dsp_store(acc + 4 * i, n, acc_shift, q + i, p->out_zp, p->act_min, p->act_max, out + i,
                   step);
    }
  }
}

/* The whole convolution, step bytes from output pixel to output pixel; halfword, acc_shift (sums are
 * 2^acc_shift times as large), weight_bytes, mac and columns are constants of the caller. */
EK_INLINE void ek_dsp_conv(const ek_conv_params *p, const int8_t *input, const int8_t *weights,
                           const ek_dsp_quant *quant, int8_t *output, int32_t step, void *scratch,
                           int halfword, int acc_shift, int weight_bytes, ek_dsp_mac_2x4 mac,
                           ek_dsp_columns columns) {
  const int32_t out_c = p->out_c;
  const int32_t blocks = ek_dsp_blocks(p);
  const int32_t pixels = p->out_h * p->out_w;
  const uint32_t four_zp = ((uint32_t)p->in_zp & 0xffu) * 0x01010101u;
  uint32_t *cols = (uint32_t *)scratch;
  int8_t *bytes = (int8_t *)(cols + 8 * blocks);
  const int32_t fast = ek_dsp_fast_pairs(p, quant);
  ek_conv_columns four = {weights, quant, output, cols, fast, step, blocks,
                         p->out_zp != -128};
  int32_t iy = -p->pad_top;
  int32_t ix = -p->pad_left;
  int32_t column = 0;
  if (p->in_c % 4 != 0) memset(bytes + 4 * (blocks - 1), 0, 4);
  for (int32_t done = 0; done < pixels; done += 4) {
    const int n = (int)ek_min(4, pixels - done);
    for (int i = 0; i < 4; ++i) {
      if (p->in_c % 4 == 0) {
        ek_dsp_column_words(p, input, iy, ix, four_zp, cols + i, halfword);
      } else {
        ek_dsp_column_bytes(p, input, iy, ix, bytes, cols + i, halfword);
      }
      if (i + 1 < n || n == 4) { /* the columns beyond the last pixel repeat it */
        ix += p->stride_w;
        if (++column == p->out_w) {
          column = 0;
          ix = -p->pad_left;
          iy += p->stride_h;
        }
      }
    }
    int32_t c = 0;
    if (n == 4 && fast > 0) {
      four.out = output + done * step;
      columns(&four);
      c = 2 * fast;
    }
    if (c < out_c) {
      ek_dsp_conv_rest(p, step, c, n, weights + 4 * weight_bytes * c * blocks, quant + c,
                       output + done * step + c, cols, acc_shift, weight_bytes, mac);
    }
  }
}

#endif
