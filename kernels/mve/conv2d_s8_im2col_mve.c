/* Convolution over columns: windows of some output rows side by side, then as a 1x1 convolution. */
#include "ek_mve_conv.h"

/* Bytes of a padded input row; of a column; of the output of a pixel where it is not in place. */
EK_INLINE int32_t row_bytes(const ek_mve_conv_params *p) {
  return ((p->out_w - 1) * p->stride_w + p->kernel_w) * p->in_c;
}
EK_INLINE int32_t column_bytes(const ek_mve_conv_params *p) {
  return ek_mve_round16(p->kernel_h * p->kernel_w * p->in_c);
}
EK_INLINE int32_t aside_bytes(const ek_mve_conv_params *p) {
  return p->out_c & 3 ? (p->out_c + 3) & ~3 : 0;
}

int32_t ek_conv2d_s8_im2col_mve_scratch_bytes(const ek_mve_conv_params *p) {
  return p->strip * p->out_w * (column_bytes(p) + aside_bytes(p)) +
         ek_mve_round16(p->kernel_h * row_bytes(p) + 16);
}

/* The kernel_h input rows of output row y, padded. */
static void pad_rows(const ek_mve_conv_params *p, const int8_t *input, int32_t y, int8_t *rows) {
  const int32_t bytes = row_bytes(p), left = p->pad_left * p->in_c;
  const int32_t inside = ek_min(bytes - left, p->in_w * p->in_c);
  for (int32_t ky = 0; ky < p->kernel_h; ++ky, rows += bytes) {
    const int32_t iy = y * p->stride_h - p->pad_top + ky;
    if (iy < 0 || iy >= p->in_h) {
      ek_mve_fill(rows, p->in_zp, bytes);
      continue;
    }
    if (left) ek_mve_fill(rows, p->in_zp, left);
    ek_mve_copy(rows + left, input + iy * p->in_w * p->in_c, inside);
    const int32_t right = bytes - left - inside;
    if (right) ek_mve_fill(rows + left + inside, p->in_zp, right);
  }
}

void ek_conv2d_s8_im2col_mve(const ek_mve_conv_params *p, const int8_t *input, const int32_t *w,
                             int8_t *output, void *scratch) {
  const int32_t column = column_bytes(p), aside = aside_bytes(p), bytes = row_bytes(p);
  const int32_t piece = p->kernel_w * p->in_c, step = p->stride_w * p->in_c;
  int8_t *columns = scratch, *other = columns + p->strip * p->out_w * column;
  int8_t *rows = other + p->strip * p->out_w * aside;
  for (int32_t first = 0; first < p->out_h; first += p->strip) {
    const int32_t count = ek_min(p->strip, p->out_h - first), n = count * p->out_w;
    for (int32_t y = 0; y < count; ++y) {
      pad_rows(p, input, first + y, rows);
      int8_t *to = columns + y * p->out_w * column;
      for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
        for (int32_t at = 0; at < piece; at += 16) {
          ek_mve_copy_pieces(to + ky * piece + at, column, rows + ky * bytes + at, step, p->out_w,
                             ek_min(16, piece - at));
        }
      }
    }
    int8_t *out = output + first * p->out_w * p->out_c;
    ek_mve_mac a = {.w = w, .quads = (p->out_c + 3) >> 2, .blocks = column >> 4};
    a.x = columns;
    a.out = aside ? other : out;
    ek_mve_line(p->mac, &a, n, column, aside ? aside : p->out_c, 0);
    for (int32_t at = 0; aside && at < p->out_c; at += 16) {
      ek_mve_copy_pieces(out + at, p->out_c, other + at, aside, n, ek_min(16, p->out_c - at));
    }
  }
}
