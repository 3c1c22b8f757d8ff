/* int8 convolution 3x3, stride 1, by exact Winograd F(2x2, 3x3): a row of tiles at a time. */
#include "ek_neon.h"
#include "ek_neon_simd.h"
#include "ek_neon_winograd.h"

typedef int16x8_t h8;
typedef int32x4_t v4;

static int32_t tiles_of(const ek_neon_winograd_params *p) {
  return (((p->out_w + 1) >> 1) + 3) & ~3;
}

int32_t ek_conv2d_s8_winograd_f2_neon_scratch_bytes(const ek_neon_winograd_params *p) {
  return 16 * tiles_of(p) * (2 * p->in_c + 4 * 16);
}

/* Eight channels of row y, column x, centred; 0 outside the input. */
EK_INLINE h8 pixel(const ek_neon_winograd_params *p, const int8_t *row, int32_t x, int8x8_t zp) {
  if (!row || x < 0 || x >= p->in_w) return vdupq_n_s16(0);
  return vsubl_s8(vld1_s8(row + x * p->in_c), zp);
}

/* B' d B of every tile whose outputs begin at row oy, column 0. to: [16][tiles][in_c]. */
static void transform_inputs(const ek_neon_winograd_params *p, const int8_t *input, int32_t oy,
                             int32_t tiles, int16_t *to) {
  const int64_t stride = (int64_t)tiles * p->in_c;
  const int8x8_t zp = vdup_n_s8((int8_t)p->in_zp);
  for (int32_t c = 0; c < p->in_c; c += 8) {
    const int8_t *rows[4];
    for (int i = 0; i < 4; ++i) {
      const int32_t y = oy - p->pad_top + i;
      rows[i] = y < 0 || y >= p->in_h ? NULL : input + (int64_t)y * p->in_w * p->in_c + c;
    }
    int16_t *at = to + c;
    h8 left[4][2];
    for (int j = 0; j < 2; ++j) {
      h8 d[4];
      for (int i = 0; i < 4; ++i) d[i] = pixel(p, rows[i], j - p->pad_left, zp);
      left[0][j] = vsubq_s16(d[0], d[2]);
      left[1][j] = vaddq_s16(d[1], d[2]);
      left[2][j] = vsubq_s16(d[2], d[1]);
      left[3][j] = vsubq_s16(d[1], d[3]);
    }
    for (int32_t tile = 0; tile < tiles; ++tile, at += p->in_c) {
      const int32_t x = 2 * tile - p->pad_left + 2;
      h8 right[4][2];
      const int inside = x >= 0 && x + 1 < p->in_w && rows[0] && rows[1] && rows[2] && rows[3];
      for (int j = 0; j < 2; ++j) {
        h8 d[4];
        for (int i = 0; i < 4; ++i) {
          d[i] = inside ? vsubl_s8(vld1_s8(rows[i] + (x + j) * p->in_c), zp)
                        : pixel(p, rows[i], x + j, zp);
        }
        right[0][j] = vsubq_s16(d[0], d[2]);
        right[1][j] = vaddq_s16(d[1], d[2]);
        right[2][j] = vsubq_s16(d[2], d[1]);
        right[3][j] = vsubq_s16(d[1], d[3]);
      }
      int16_t *position = at;
      for (int i = 0; i < 4; ++i) {
        const h8 a = left[i][0], b = left[i][1], e = right[i][0], f = right[i][1];
        vst1q_s16(position, vsubq_s16(a, e));
        vst1q_s16(position + stride, vaddq_s16(b, e));
        vst1q_s16(position + 2 * stride, vsubq_s16(e, b));
        vst1q_s16(position + 3 * stride, vsubq_s16(b, f));
        position += 4 * stride;
        left[i][0] = e;
        left[i][1] = f;
      }
    }
  }
}

/* One channel of four tiles (lane c of v0 .. v3) by sixteen outputs (weights u, w). */
#define MAC(c, u, w)                                                                             \
  "smlal v16.4s, v" #u ".4h, v0.h[" #c "]\n smlal2 v17.4s, v" #u ".8h, v0.h[" #c "]\n"           \
  "smlal v18.4s, v" #w ".4h, v0.h[" #c "]\n smlal2 v19.4s, v" #w ".8h, v0.h[" #c "]\n"           \
  "smlal v20.4s, v" #u ".4h, v1.h[" #c "]\n smlal2 v21.4s, v" #u ".8h, v1.h[" #c "]\n"           \
  "smlal v22.4s, v" #w ".4h, v1.h[" #c "]\n smlal2 v23.4s, v" #w ".8h, v1.h[" #c "]\n"           \
  "smlal v24.4s, v" #u ".4h, v2.h[" #c "]\n smlal2 v25.4s, v" #u ".8h, v2.h[" #c "]\n"           \
  "smlal v26.4s, v" #w ".4h, v2.h[" #c "]\n smlal2 v27.4s, v" #w ".8h, v2.h[" #c "]\n"           \
  "smlal v28.4s, v" #u ".4h, v3.h[" #c "]\n smlal2 v29.4s, v" #u ".8h, v3.h[" #c "]\n"           \
  "smlal v30.4s, v" #w ".4h, v3.h[" #c "]\n smlal2 v31.4s, v" #w ".8h, v3.h[" #c "]\n"
#define PAIR(c, d)                                                                               \
  "ld1 {v4.8h-v7.8h}, [%[w]], #64\n" MAC(c, 4, 5) MAC(d, 6, 7)
#define CLEAR(r) "movi v" #r ".4s, #0\n"

/* Four tiles of one position: [4][in_c] by [in_c][16] to [4][16]. */
EK_INLINE void multiply(const int16_t *x, const int16_t *w, int32_t in_c, int32_t *to) {
  const int16_t *x1 = x + in_c, *x2 = x1 + in_c, *x3 = x2 + in_c;
  int32_t n = in_c;
  __asm__ volatile(
      CLEAR(16) CLEAR(17) CLEAR(18) CLEAR(19) CLEAR(20) CLEAR(21) CLEAR(22) CLEAR(23)
      CLEAR(24) CLEAR(25) CLEAR(26) CLEAR(27) CLEAR(28) CLEAR(29) CLEAR(30) CLEAR(31)
      "1: ldr q0, [%[x0]], #16\n"
      "ldr q1, [%[x1]], #16\n"
      "ldr q2, [%[x2]], #16\n"
      "ldr q3, [%[x3]], #16\n"
      "subs %w[n], %w[n], #8\n"
      PAIR(0, 1) PAIR(2, 3) PAIR(4, 5) PAIR(6, 7)
      "b.ne 1b\n"
      "st1 {v16.4s-v19.4s}, [%[to]], #64\n"
      "st1 {v20.4s-v23.4s}, [%[to]], #64\n"
      "st1 {v24.4s-v27.4s}, [%[to]], #64\n"
      "st1 {v28.4s-v31.4s}, [%[to]], #64\n"
      : [x0] "+&r"(x), [x1] "+&r"(x1), [x2] "+&r"(x2), [x3] "+&r"(x3), [w] "+&r"(w), [n] "+&r"(n),
        [to] "+&r"(to)
      :
      : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21",
        "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31", "cc", "memory");
}

/* A' m A of four channels of one tile: the four outputs' sums, bias added. */
EK_INLINE void transform_output(const int32_t *m, int64_t stride, v4 bias, v4 y[4]) {
  v4 top[4], bottom[4];
  for (int j = 0; j < 4; ++j) {
    const v4 a = vld1q_s32(m + j * stride), b = vld1q_s32(m + (4 + j) * stride);
    const v4 c = vld1q_s32(m + (8 + j) * stride), d = vld1q_s32(m + (12 + j) * stride);
    top[j] = vaddq_s32(vaddq_s32(a, b), c);
    bottom[j] = vsubq_s32(vsubq_s32(b, c), d);
  }
  y[0] = vsraq_n_s32(bias, vaddq_s32(vaddq_s32(top[0], top[1]), top[2]), 2);
  y[1] = vsraq_n_s32(bias, vsubq_s32(vsubq_s32(top[1], top[2]), top[3]), 2);
  y[2] = vsraq_n_s32(bias, vaddq_s32(vaddq_s32(bottom[0], bottom[1]), bottom[2]), 2);
  y[3] = vsraq_n_s32(bias, vsubq_s32(vsubq_s32(bottom[1], bottom[2]), bottom[3]), 2);
}

typedef struct {
  const int32_t *bias, *mult, *shift;
  int8_t *output;
  int32_t channels; /* that exist, at most 16 */
} block;

/* The sums of sixteen channels, [16][tiles][16], as outputs of rows oy and oy + 1. */
static void write_tiles(const ek_neon_winograd_params *p, const block *b, const int32_t *sums,
                        int32_t tiles, int32_t oy) {
  const ek_neon_out out = ek_neon_output(p->out_zp, p->act_min, p->act_max);
  const int64_t stride = (int64_t)tiles * 16, row = (int64_t)p->out_w * p->out_c;
  for (int32_t tile = 0; 2 * tile < p->out_w; ++tile, sums += 16) {
    v4 y[4][4];
    for (int q = 0; q < 4; ++q) {
      transform_output(sums + 4 * q, stride, vld1q_s32(b->bias + 4 * q), y[q]);
    }
    const int32x4x4_t m = vld1q_s32_x4(b->mult), s = vld1q_s32_x4(b->shift);
    for (int k = 0; k < 4; ++k) {
      const int32_t oyk = oy + (k >> 1), ox = 2 * tile + (k & 1);
      if (oyk >= p->out_h || ox >= p->out_w) continue;
      int8x16_t r;
      if (p->finish == EK_NEON_PLAIN) {
        r = ek_neon_narrow_plain(ek_neon_requant_plain(y[0][k], m.val[0], s.val[0]),
                                 ek_neon_requant_plain(y[1][k], m.val[1], s.val[1]),
                                 ek_neon_requant_plain(y[2][k], m.val[2], s.val[2]),
                                 ek_neon_requant_plain(y[3][k], m.val[3], s.val[3]));
      } else {
        r = ek_neon_clamp(ek_neon_narrow(ek_neon_requant(y[0][k], m.val[0], s.val[0]),
                                         ek_neon_requant(y[1][k], m.val[1], s.val[1]),
                                         ek_neon_requant(y[2][k], m.val[2], s.val[2]),
                                         ek_neon_requant(y[3][k], m.val[3], s.val[3]), &out),
                          &out);
      }
      ek_neon_store(b->output + oyk * row + ox * p->out_c, r, b->channels);
    }
  }
}

void ek_conv2d_s8_winograd_f2_neon(const ek_neon_winograd_params *p, const int8_t *input,
                                   const int16_t *weights, const int32_t *bias,
                                   const int32_t *mult, const int32_t *shift, int8_t *output,
                                   void *scratch) {
  const ek_neon_winograd_params local = *p;
  const int32_t tiles = tiles_of(p), in_c = p->in_c, blocks = (p->out_c + 15) >> 4;
  int16_t *const inputs = scratch;
  int32_t *const sums = (int32_t *)(void *)(inputs + (int64_t)16 * tiles * in_c);
  for (int32_t oy = 0; oy < local.out_h; oy += 2) {
    transform_inputs(&local, input, oy, tiles, inputs);
    for (int32_t o = 0; o < blocks; ++o) {
      const int16_t *x = inputs, *w = weights + (int64_t)o * 16 * in_c;
      int32_t *to = sums;
      for (int position = 0; position < 16; ++position) {
        for (int32_t tile = 0; tile < tiles; tile += 4, x += 4 * in_c, to += 64) {
          multiply(x, w, in_c, to);
        }
        w += (int64_t)blocks * 16 * in_c;
      }
      const block b = {bias + 16 * o, mult + 16 * o, shift + 16 * o, output + 16 * o,
                       ek_min(16, local.out_c - 16 * o)};
      write_tiles(&local, &b, sums, tiles, oy);
    }
  }
}
