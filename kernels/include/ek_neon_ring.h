/* Input rows with their padding, in a ring of as many rows as a window is high. */
#ifndef EK_NEON_RING_H
#define EK_NEON_RING_H

#include "ek_neon_simd.h"

enum { EK_NEON_SLACK = 16 }; /* bytes that may be read behind a row's last one */

typedef struct {
  const int8_t *input;
  int8_t *rows;
  int32_t in_h, in_row; /* input rows, bytes of one */
  int32_t height, row;  /* rows of the ring, bytes of one with slack */
  int32_t left, inside, right;
  int32_t in_zp;
  int32_t next; /* the first input row that is not in the ring; above the input it is negative */
} ek_neon_ring;

EK_INLINE int32_t ek_neon_ring_row(int32_t columns, int32_t in_c) {
  return (columns * in_c + EK_NEON_SLACK + 15) & ~15;
}

/* columns: of the padded row, the first pad_left of them left of the input. */
EK_INLINE ek_neon_ring ek_neon_ring_start(const int8_t *input, void *scratch, int32_t in_h,
                                          int32_t in_w, int32_t in_c, int32_t height,
                                          int32_t columns, int32_t pad_left, int32_t in_zp) {
  ek_neon_ring r;
  const int32_t inside = ek_min(in_w, columns - pad_left);
  r.input = input;
  r.rows = scratch;
  r.in_h = in_h;
  r.in_row = in_w * in_c;
  r.height = height;
  r.row = ek_neon_ring_row(columns, in_c);
  r.left = pad_left * in_c;
  r.inside = inside * in_c;
  r.right = r.row - r.left - r.inside;
  r.in_zp = in_zp;
  r.next = INT32_MIN;
  return r;
}

EK_INLINE int32_t ek_neon_ring_slot(const ek_neon_ring *r, int32_t y) {
  const int32_t slot = y % r->height;
  return slot < 0 ? slot + r->height : slot;
}

/* Input rows y .. y + height - 1 are in the ring afterwards. */
EK_INLINE void ek_neon_ring_fill(ek_neon_ring *r, int32_t y) {
  const int32_t last = y + r->height;
  for (int32_t i = ek_max(y, r->next); i < last; ++i) {
    int8_t *to = r->rows + ek_neon_ring_slot(r, i) * r->row;
    if (i < 0 || i >= r->in_h) {
      ek_neon_fill(to, r->in_zp, r->row);
      continue;
    }
    ek_neon_fill(to, r->in_zp, r->left);
    ek_neon_copy(to + r->left, r->input + i * r->in_row, r->inside);
    ek_neon_fill(to + r->left + r->inside, r->in_zp, r->right);
  }
  r->next = last;
}

#endif
