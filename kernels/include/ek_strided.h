/* The loops that strided copies share. */
#ifndef EK_STRIDED_H
#define EK_STRIDED_H

#include "ek_copy_run.h"
#include "ek_movement.h"

EK_INLINE void ek_strided(const ek_strided_params *p, const uint8_t *input, uint8_t *output) {
  const int32_t run = p->run, inner = p->dims[4];
  const int32_t in_step = p->in_stride[4], out_step = p->out_stride[4];
  int32_t x0 = p->in_start, y0 = p->out_start;
  for (int32_t a = 0; a < p->dims[0]; ++a, x0 += p->in_stride[0], y0 += p->out_stride[0]) {
    int32_t x1 = x0, y1 = y0;
    for (int32_t b = 0; b < p->dims[1]; ++b, x1 += p->in_stride[1], y1 += p->out_stride[1]) {
      int32_t x2 = x1, y2 = y1;
      for (int32_t c = 0; c < p->dims[2]; ++c, x2 += p->in_stride[2], y2 += p->out_stride[2]) {
        int32_t x3 = x2, y3 = y2;
        for (int32_t d = 0; d < p->dims[3]; ++d, x3 += p->in_stride[3], y3 += p->out_stride[3]) {
          int32_t x = x3, y = y3;
          for (int32_t i = 0; i < inner; ++i, x += in_step, y += out_step) {
            ek_copy_run(output + y, input + x, run);
          }
        }
      }
    }
  }
}

#endif
