/* What the Helium convolutions share: groups of pixels in a line, rows with padding. */
#ifndef EK_MVE_CONV_H
#define EK_MVE_CONV_H

#include "ek_mve.h"

/* n pixels in a line, px bytes of input apart, out_px of output. What is left over is computed together
 * with pixels before it once more; fewer than four pixels one by one, four times each. */
EK_INLINE void ek_mve_line(ek_mve_mac_fn mac, ek_mve_mac *a, int32_t n, int32_t px, int32_t out_px,
                           int rows) {
  if (n < 4) {
    a->x_step = a->out_step = 0;
    a->x_group = px;
    a->out_group = out_px;
    a->groups = n;
    mac(a);
    return;
  }
  if (!rows) a->x_step = px;
  a->x_group = 4 * px;
  a->out_step = out_px;
  a->out_group = 4 * out_px;
  a->groups = n >> 2;
  mac(a);
  if (n & 3) {
    a->x += (n - 4) * px;
    a->out += (n - 4) * out_px;
    a->groups = 1;
    mac(a);
  }
}

#endif
