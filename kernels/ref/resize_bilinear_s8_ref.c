/* int8 bilinear resizing in 1/1024 pixels; the result is divided towards zero after adding half. */
#include "ek_resize.h"

void ek_resize_bilinear_s8_ref(const ek_resize_params *p, const int8_t *input, const int16_t *rows,
                               const int16_t *columns, int8_t *output) {
  const int32_t channels = p->pixel, out_w = p->out_w, half = 1 << 19;
  for (int32_t y = 0; y < p->out_h; ++y, rows += 3) {
    const int8_t *top = input + rows[0] * p->in_w * channels;
    const int8_t *bottom = input + rows[1] * p->in_w * channels;
    const int32_t down = rows[2], up = 1024 - down;
    const int16_t *column = columns;
    for (int32_t x = 0; x < out_w; ++x, column += 3) {
      const int32_t left = column[0] * channels, right = column[1] * channels;
      const int32_t w11 = down * column[2], w10 = down * (1024 - column[2]);
      const int32_t w01 = up * column[2], w00 = up * (1024 - column[2]);
      for (int32_t c = 0; c < channels; ++c) {
        const int32_t sum = w00 * top[left + c] + w01 * top[right + c] + w10 * bottom[left + c] +
                            w11 * bottom[right + c];
        const int32_t rounded = sum > 0 ? (sum + half) >> 20 : -((half - sum) >> 20);
        *output++ = ek_sat_s8(rounded);
      }
    }
  }
}
