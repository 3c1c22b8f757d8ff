/* The loop that all broadcasting kernels share; inlined with its element function. */
#ifndef EK_BROADCAST_H
#define EK_BROADCAST_H

#include "ek_elementwise.h"

/* x, y: raw bytes; params: the kernel's own structure. */
typedef int8_t (*ek_binary_fn)(int32_t x, int32_t y, const void *params);

EK_INLINE void ek_broadcast_s8(const ek_broadcast *b, const int8_t *in1, const int8_t *in2,
                               int8_t *out, ek_binary_fn fn, const void *params) {
  const int32_t inner = b->dims[4], step1 = b->stride1[4], step2 = b->stride2[4];
  const int8_t *x0 = in1, *y0 = in2;
  for (int32_t i0 = 0; i0 < b->dims[0]; ++i0, x0 += b->stride1[0], y0 += b->stride2[0]) {
    const int8_t *x1 = x0, *y1 = y0;
    for (int32_t i1 = 0; i1 < b->dims[1]; ++i1, x1 += b->stride1[1], y1 += b->stride2[1]) {
      const int8_t *x2 = x1, *y2 = y1;
      for (int32_t i2 = 0; i2 < b->dims[2]; ++i2, x2 += b->stride1[2], y2 += b->stride2[2]) {
        const int8_t *x3 = x2, *y3 = y2;
        for (int32_t i3 = 0; i3 < b->dims[3]; ++i3, x3 += b->stride1[3], y3 += b->stride2[3]) {
          const int8_t *x = x3, *y = y3;
          for (int32_t i = 0; i < inner; ++i, x += step1, y += step2) {
            *out++ = fn(*x, *y, params);
          }
        }
      }
    }
  }
}

/* The same for int16. */
typedef int16_t (*ek_binary_s16_fn)(int32_t x, int32_t y, const void *params);

EK_INLINE void ek_broadcast_s16(const ek_broadcast *b, const int16_t *in1, const int16_t *in2,
                                int16_t *out, ek_binary_s16_fn fn, const void *params) {
  const int32_t inner = b->dims[4], step1 = b->stride1[4], step2 = b->stride2[4];
  const int16_t *x0 = in1, *y0 = in2;
  for (int32_t i0 = 0; i0 < b->dims[0]; ++i0, x0 += b->stride1[0], y0 += b->stride2[0]) {
    const int16_t *x1 = x0, *y1 = y0;
    for (int32_t i1 = 0; i1 < b->dims[1]; ++i1, x1 += b->stride1[1], y1 += b->stride2[1]) {
      const int16_t *x2 = x1, *y2 = y1;
      for (int32_t i2 = 0; i2 < b->dims[2]; ++i2, x2 += b->stride1[2], y2 += b->stride2[2]) {
        const int16_t *x3 = x2, *y3 = y2;
        for (int32_t i3 = 0; i3 < b->dims[3]; ++i3, x3 += b->stride1[3], y3 += b->stride2[3]) {
          const int16_t *x = x3, *y = y3;
          for (int32_t i = 0; i < inner; ++i, x += step1, y += step2) {
            *out++ = fn(*x, *y, params);
          }
        }
      }
    }
  }
}

#endif
