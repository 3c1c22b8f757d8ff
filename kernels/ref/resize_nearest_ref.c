/* Nearest-neighbour resizing of pixels of any type. */
#include "ek_copy_run.h"
#include "ek_resize.h"

void ek_resize_nearest_ref(const ek_resize_params *p, const void *input, const int16_t *rows,
                           const int16_t *columns, void *output) {
  const int32_t pixel = p->pixel, out_w = p->out_w;
  uint8_t *out = output;
  for (int32_t y = 0; y < p->out_h; ++y) {
    const uint8_t *line = (const uint8_t *)input + rows[y] * p->in_w * pixel;
    for (int32_t x = 0; x < out_w; ++x, out += pixel) {
      ek_copy_run(out, line + columns[x] * pixel, pixel);
    }
  }
}
