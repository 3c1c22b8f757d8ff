/* 3x3 convolution of stride 1 by exact Winograd F(4x4,3x3), int8 weights that are transformed by the
 * kernel, two output channels at a time (ek_dsp_tiles.h). */
#include "ek_dsp_winograd_f4.h"

static void transform_weights(const int8_t *w, int32_t in_c, int32_t pairs, int32_t channel,
                              uint32_t *dst) {
  ek_winograd_f4_weights_dsp(w, in_c, dst + channel, 8 * pairs);
}

int32_t ek_conv2d_s8_winograd_f4_lean_dsp_scratch_bytes(const ek_tiles_params *p) {
  return ek_tiles_scratch_bytes(p, EK_F4_SIZE, EK_F4_STREAMS, EK_F4_STREAMS, 1);
}

void ek_conv2d_s8_winograd_f4_lean_dsp(const ek_tiles_params *p, const int8_t *input,
                                       const int8_t *weights, const ek_dsp_quant *quant,
                                       int8_t *output, void *scratch) {
  static const ek_tile_scheme scheme =
      EK_F4_SCHEME(0, ek_winograd_f4_rows_lean_dsp, transform_weights);
  ek_tiles_conv(p, &scheme, input, weights, quant, output, scratch, 1);
}
