/* int8 convolution, weights of 4-bit codes: two output channels are unpacked into scratch and then
 * computed at every pixel, so that each code is unpacked once. */
#include "ek_conv_direct.h"
#include "ek_unpack.h"

static int32_t filter_bytes(const ek_conv_params *p) { /* in whole words of codes */
  return (p->kernel_h * p->kernel_w * (p->in_c / p->groups) + 7) / 8 * 8;
}

/* Two channels, and what the first leaves of its last word, which the second overwrites. */
int32_t ek_conv2d_w4_ref_scratch_bytes(const ek_conv_params *p) { return 2 * filter_bytes(p); }

static void unpack(const uint8_t *in, const int8_t *table, int32_t n, int8_t *out) {
  for (; n > 0; n -= 8, in += 4, out += 8) {
    const uint32_t w = ek_load32(in), low = w & 0x0f0f0f0fu, high = (w >> 4) & 0x0f0f0f0fu;
    ek_store32(out, table == NULL ? ek_extend_s4(low) : ek_look_up(table, low));
    ek_store32(out + 4, table == NULL ? ek_extend_s4(high) : ek_look_up(table, high));
  }
}

void ek_conv2d_w4_ref(const ek_conv_params *p, const int8_t *input, const uint8_t *weights,
                      const int8_t *table, const int32_t *bias, const int32_t *mult,
                      const int8_t *shift, int8_t *output, void *scratch) {
  const int32_t group_in = p->in_c / p->groups, group_out = p->out_c / p->groups;
  const int32_t n = p->kernel_h * p->kernel_w * group_in, packed = filter_bytes(p) / 2;
  const int32_t last_y = p->in_h - 1 - (p->kernel_h - 1) * p->dilation_h;
  const int32_t last_x = p->in_w - 1 - (p->kernel_w - 1) * p->dilation_w;
  int8_t *const w = (int8_t *)scratch;
  int32_t channels = 1;
  for (int32_t o = 0; o < p->out_c; o += channels, weights += channels * packed) {
    const int32_t group = o / group_out;
    const int8_t *first = input + group * group_in;
    channels = ek_min(2, (group + 1) * group_out - o);
    unpack(weights, table, n, w);
    if (channels == 2) unpack(weights + packed, table, n, w + n);
    int8_t *out = output + o;
    int32_t y = -p->pad_top;
    for (int32_t oy = 0; oy < p->out_h; ++oy, y += p->stride_h) {
      int32_t x = -p->pad_left;
      for (int32_t ox = 0; ox < p->out_w; ++ox, x += p->stride_w, out += p->out_c) {
        if (y >= 0 && y <= last_y && x >= 0 && x <= last_x) {
          ek_pixel_inside(p, first + (y * p->in_w + x) * p->in_c, w, bias + o, mult + o, shift + o,
                          out, group_in, channels);
        } else {
          ek_pixel_border(p, first, y, x, w, bias + o, mult + o, shift + o, out, group_in,
                          channels);
        }
      }
    }
  }
}
