/* Convolution over columns: windows of some output rows side by side, then as a 1x1 convolution. */
#include "ek_mve_conv.h"

/* Bytes of a padded input row; of a column; of the output of a pixel where it is not in place. */
EK_INLINE int32_t row_bytes(const ek_mve_conv_params *p) {
  return ((p->out_w - 1) * p->stride_w + p->kernel_w) * p->in_c;
}
EK_INLINE int32_t column_bytes(const ek_mve_conv_params *p) {
  return ek_mve_round16(p->kernel_h * p->kernel_w * p->in_c);
}
/* Columns there is room for: at least a group. */
EK_INLINE int32_t room(const ek_mve_conv_params *p) { return ek_max(4, p->strip * p->out_w); }
EK_INLINE int32_t aside_bytes(const ek_mve_conv_params *p) {
  return (p->out_c & 3) || p->strip * p->out_w < 4 ? (p->out_c + 3) & ~3 : 0;
}

/* Input rows under `count` rows of output. */
EK_INLINE int32_t rows_under(const ek_mve_conv_params *p, int32_t count) {
  return (count - 1) * p->stride_h + p->kernel_h;
}

int32_t ek_conv2d_s8_im2col_mve_scratch_bytes(const ek_mve_conv_params *p) {
  return room(p) * (column_bytes(p) + aside_bytes(p)) +
         ek_mve_round16(rows_under(p, p->strip) * row_bytes(p) + 16);
}

/* Input rows from row iy on, padded. */
static void pad_rows(const ek_mve_conv_params *p, const int8_t *input, int32_t iy, int32_t n,
                     int8_t *rows) {
  const int32_t bytes = row_bytes(p), left = p->pad_left * p->in_c;
  const int32_t inside = ek_min(bytes - left, p->in_w * p->in_c);
  const int32_t right = bytes - left - inside;
  if (iy < 0 || iy + n > p->in_h || left || right) ek_mve_fill(rows, p->in_zp, n * bytes);
  const int32_t first = ek_max(0, -iy), last = ek_min(n, p->in_h - iy);
  if (last <= first) return;
  const int8_t *from = input + (iy + first) * p->in_w * p->in_c;
  if (inside <= 16) {
    ek_mve_copy_pieces(rows + first * bytes + left, bytes, from, p->in_w * p->in_c, last - first,
                       inside);
    return;
  }
  for (int32_t r = first; r < last; ++r, from += p->in_w * p->in_c) {
    ek_mve_copy(rows + r * bytes + left, from, inside);
  }
}

/* Offsets within the padded rows of all bytes of a column, when they are below 256. */
static int gather_offsets(const ek_mve_conv_params *p, uint8_t *offsets) {
  const int32_t piece = p->kernel_w * p->in_c, bytes = row_bytes(p), column = column_bytes(p);
  const int32_t pieces = p->kernel_h * ((piece + 15) >> 4);
  /* A gather of sixteen bytes takes sixteen cycles, a copied piece about eight. */
  if (column > EK_MVE_GATHER || (p->kernel_h - 1) * bytes + piece > 256) return 0;
  if (8 * pieces <= 18 * (column >> 4)) return 0;
  int32_t at = 0;
  for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
    for (int32_t k = 0; k < piece; ++k) offsets[at++] = (uint8_t)(ky * bytes + k);
  }
  while (at < column) offsets[at++] = 0;
  return 1;
}

/* The columns of one row of output. */
static void make_columns(const ek_mve_conv_params *p, const int8_t *rows, int8_t *to) {
  const int32_t piece = p->kernel_w * p->in_c, column = column_bytes(p), bytes = row_bytes(p);
  for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
    for (int32_t at = 0; at < piece; at += 16) {
      ek_mve_copy_pieces(to + ky * piece + at, column, rows + ky * bytes + at,
                         p->stride_w * p->in_c, p->out_w, ek_min(16, piece - at));
    }
  }
}

void ek_conv2d_s8_im2col_mve(const ek_mve_conv_params *p, const int8_t *input, const int32_t *w,
                             int8_t *output, void *scratch) {
  const int32_t column = column_bytes(p), aside = aside_bytes(p), bytes = row_bytes(p);
  int8_t *columns = scratch, *other = columns + room(p) * column;
  int8_t *rows = other + room(p) * aside;
  uint8_t offsets[EK_MVE_GATHER] __attribute__((aligned(4)));
  const int gather = gather_offsets(p, offsets);
  for (int32_t first = 0; first < p->out_h; first += p->strip) {
    const int32_t count = ek_min(p->strip, p->out_h - first), n = count * p->out_w;
    pad_rows(p, input, first * p->stride_h - p->pad_top, rows_under(p, count), rows);
    for (int32_t y = 0; y < count; ++y) {
      const int8_t *from = rows + y * p->stride_h * bytes;
      int8_t *to = columns + y * p->out_w * column;
      if (gather) {
        ek_mve_gather_columns(to, from, p->out_w, p->stride_w * p->in_c, offsets, column >> 4);
      } else {
        make_columns(p, from, to);
      }
    }
    int8_t *out = output + first * p->out_w * p->out_c;
    ek_mve_mac a = {.w = w, .quads = (p->out_c + 3) >> 2, .blocks = column >> 4};
    a.x = columns;
    a.out = aside ? other : out;
    ek_mve_line(p->mac, &a, aside ? ek_max(n, 4) : n, column, aside ? aside : p->out_c, 0);
    for (int32_t at = 0; aside && at < p->out_c; at += 16) {
      ek_mve_copy_pieces(out + at, p->out_c, other + at, aside, n, ek_min(16, p->out_c - at));
    }
  }
}
