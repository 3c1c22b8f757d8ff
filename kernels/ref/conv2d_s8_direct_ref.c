/* int8 convolution: groups, dilation, any padding. No copy of the input, no scratch. */
#include "ek_conv_direct.h"

int32_t ek_conv2d_s8_direct_ref_scratch_bytes(const ek_conv_params *p) {
  (void)p;
  return 0;
}

void ek_conv2d_s8_direct_ref(const ek_conv_params *p, const int8_t *input, const int8_t *weights,
                             const int32_t *bias, const int32_t *mult, const int8_t *shift,
                             int8_t *output, void *scratch) {
  (void)scratch;
  const int32_t group_in = p->in_c / p->groups;
  const int32_t group_out = p->out_c / p->groups;
  const int32_t group_weights = group_out * p->kernel_h * p->kernel_w * group_in;
  const int32_t last_y = p->in_h - 1 - (p->kernel_h - 1) * p->dilation_h;
  const int32_t last_x = p->in_w - 1 - (p->kernel_w - 1) * p->dilation_w;
  int32_t y = -p->pad_top;
  for (int32_t oy = 0; oy < p->out_h; ++oy, y += p->stride_h) {
    int32_t x = -p->pad_left;
    for (int32_t ox = 0; ox < p->out_w; ++ox, x += p->stride_w) {
      const int inside = y >= 0 && y <= last_y && x >= 0 && x <= last_x;
      const int8_t *w = weights;
      int32_t first_in = 0, first_out = 0;
      for (int32_t g = 0; g < p->groups; ++g) {
        if (inside) {
          ek_pixel_inside(p, input + (y * p->in_w + x) * p->in_c + first_in, w, bias + first_out,
                          mult + first_out, shift + first_out, output, group_in, group_out);
        } else {
          ek_pixel_border(p, input + first_in, y, x, w, bias + first_out, mult + first_out,
                          shift + first_out, output, group_in, group_out);
        }
        w += group_weights;
        first_in += group_in;
        first_out += group_out;
        output += group_out;
      }
    }
  }
}
