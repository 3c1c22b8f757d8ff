/* The body of the conv2d_s8_rows kernels: three output pixels at a time. */
#ifndef EK_DSP_ROWS_H
#define EK_DSP_ROWS_H

#include "ek_dsp_line.h"
#include "ek_simd.h"

EK_INLINE int32_t ek_rows_column_bytes(const ek_conv_rows_params *p) {
  return 24 * p->conv.kernel_h * p->row_words;
}

/* The padded copy: as many rows and columns as windows read, and what the last run reads beyond. */
EK_INLINE int32_t ek_rows_pitch(const ek_conv_params *c) {
  return ((c->out_w - 1) * c->stride_w + c->kernel_w) * c->in_c;
}
EK_INLINE int32_t ek_rows_scratch_bytes(const ek_conv_rows_params *p) {
  const ek_conv_params *c = &p->conv;
  const int32_t rows = (c->out_h - 1) * c->stride_h + c->kernel_h;
  return ek_rows_column_bytes(p) + (p->copy ? rows * ek_rows_pitch(c) + 4 : 0);
}

static __attribute__((noinline, unused)) void ek_rows_copy(const ek_conv_params *c,
                                                           const int8_t *input, int8_t *image) {
  const int32_t rows = (c->out_h - 1) * c->stride_h + c->kernel_h;
  const int32_t pitch = ek_rows_pitch(c);
  const int32_t width = ek_min(c->in_w * c->in_c, pitch - c->pad_left * c->in_c);
  memset(image, c->in_zp, (size_t)(rows * pitch + 4));
  for (int32_t y = ek_max(-c->pad_top, 0); y < c->in_h && y + c->pad_top < rows; ++y) {
    if (width > 0) {
      memcpy(image + (y + c->pad_top) * pitch + c->pad_left * c->in_c, input + y * c->in_w * c->in_c,
             (size_t)width);
    }
  }
}

/* One column of the three, beginning at dst. */
static __attribute__((noinline, unused)) void ek_rows_column(const ek_triple_columns *t,
                                                             const int8_t *src, int column) {
  uint32_t *dst = t->dst + column;
  for (int32_t r = 0; r < t->rows; ++r, src += t->pitch) {
    for (int32_t i = 0; i < t->words; ++i, dst += 6) {
      const uint32_t in = ek_load32(src + 4 * i);
      dst[0] = ek_sxtb16_ror8(in);
      dst[3] = ek_rev16(in) ^ 0x007f007fu;
    }
  }
}

/* The columns of the pixels before, n columns to the left. */
static __attribute__((noinline, unused)) void ek_rows_shift(const ek_triple_columns *t, int n) {
  uint32_t *dst = t->dst;
  for (int32_t i = 2 * t->rows * t->words; i > 0; --i, dst += 3) {
    dst[0] = dst[n];
    dst[1] = dst[2];
  }
}

/* triples: ek_conv_triples_s8_short_dsp or its sibling, stream_bytes: of all pairs of channels. */
EK_INLINE void ek_dsp_conv_rows(const ek_conv_rows_params *p, const int8_t *input,
                                const int8_t *stream, int8_t *output, void *scratch,
                                int32_t pair_bytes, void (*triples)(const ek_conv_triples *)) {
  const ek_conv_params *c = &p->conv;
  const int32_t blocks = c->kernel_h * p->row_words;
  const int32_t pixels = c->out_h * c->out_w;
  const int32_t step = c->stride_w * c->in_c;
  uint32_t *cols = (uint32_t *)scratch;
  const int8_t *src = input;
  int32_t pitch = c->in_w * c->in_c;
  if (p->copy) {
    int8_t *image = (int8_t *)scratch + ek_rows_column_bytes(p);
    ek_rows_copy(c, input, image);
    src = image;
    pitch = ek_rows_pitch(c);
  }
  /* from the last window of a row to the first of the next */
  const int32_t turn = c->stride_h * pitch - (c->out_w - 1) * step;
  ek_triple_columns t = {cols, {src, src, src}, p->row_words, c->kernel_h, pitch};
  ek_conv_triples m = {stream, stream + c->out_c / 2 * (pair_bytes + 8 * blocks), output, cols,
                       c->out_c, blocks};
  int32_t left = c->out_w; /* windows left in this row */
  int32_t n = pixels;
  for (; n >= 3; n -= 3, m.out += 3 * c->out_c) {
    for (int i = 0; i < 3; ++i) {
      t.src[i] = src;
      src += --left > 0 ? step : turn;
      if (left == 0) left = c->out_w;
    }
    ek_triple_columns_s8_dsp(&t);
    triples(&m);
  }
  if (n == 0) return;
  if (pixels > 3) { /* the pixels before once more: the same bytes in the same place */
    ek_rows_shift(&t, n);
    m.out -= (3 - n) * c->out_c;
    for (int i = 3 - n; i < 3; ++i) {
      ek_rows_column(&t, src, i);
      src += --left > 0 ? step : turn;
    }
    triples(&m);
    return;
  }
  m.step = 0; /* three times the same pixel */
  for (; n > 0; --n, m.out += c->out_c) {
    for (int i = 0; i < 3; ++i) ek_rows_column(&t, src, i);
    src += --left > 0 ? step : turn;
    triples(&m);
  }
}

#endif
