/* 3x3 convolution without columns: some input rows at a time, padded, as blocks of sixteen channels. */
#include "ek_mve_conv.h"

EK_INLINE int32_t row_blocks(const ek_mve_conv_params *p) { return (p->in_c + 15) >> 4; }
/* Bytes of one block of a row; of all. */
EK_INLINE int32_t block_bytes(const ek_mve_conv_params *p) {
  return 16 * ((p->out_w - 1) * p->stride_w + 3);
}

int32_t ek_conv2d_s8_rows3_mve_scratch_bytes(const ek_mve_conv_params *p) {
  return ((p->strip - 1) * p->stride_h + 3) * row_blocks(p) * block_bytes(p);
}

static void block_row(const ek_mve_conv_params *p, const int8_t *input, int32_t iy, int8_t *to) {
  const int32_t bytes = block_bytes(p), left = 16 * p->pad_left;
  if (iy < 0 || iy >= p->in_h) {
    ek_mve_fill(to, p->in_zp, row_blocks(p) * bytes);
    return;
  }
  const int8_t *from = input + iy * p->in_w * p->in_c;
  const int32_t inside = ek_min((bytes - left) >> 4, p->in_w);
  const int32_t right = bytes - left - 16 * inside;
  for (int32_t c = 0; c < p->in_c; c += 16, to += bytes) {
    if (left) ek_mve_fill(to, p->in_zp, left);
    if (p->in_c == 16) {
      ek_mve_copy(to + left, from, 16 * inside);
    } else {
      ek_mve_copy_pieces(to + left, 16, from + c, p->in_c, inside, ek_min(16, p->in_c - c));
    }
    if (right) ek_mve_fill(to + left + 16 * inside, p->in_zp, right);
  }
}

void ek_conv2d_s8_rows3_mve(const ek_mve_conv_params *p, const int8_t *input, const int32_t *w,
                            int8_t *output, void *scratch) {
  const int32_t blocks = row_blocks(p), bytes = block_bytes(p);
  int8_t *rows = scratch;
  for (int32_t first = 0; first < p->out_h; first += p->strip) {
    const int32_t count = ek_min(p->strip, p->out_h - first);
    const int32_t top = first * p->stride_h - p->pad_top;
    for (int32_t r = 0; r < (count - 1) * p->stride_h + 3; ++r) {
      block_row(p, input, top + r, rows + r * blocks * bytes);
    }
    for (int32_t y = 0; y < count; ++y) {
      ek_mve_mac a = {.w = w, .quads = p->out_c >> 2, .blocks = blocks, .x_step = bytes};
      a.x = rows + y * p->stride_h * blocks * bytes;
      a.out = output + (first + y) * p->out_w * p->out_c;
      ek_mve_line(p->mac, &a, p->out_w, 16 * p->stride_w, p->out_c, 1);
    }
  }
}
