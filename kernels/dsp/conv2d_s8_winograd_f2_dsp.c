/* 3x3 convolution of stride 1 by exact Winograd F(2x2,3x3), int16 weights (ek_dsp_tiles.h). */
#include "ek_dsp_winograd_f2.h"

int32_t ek_conv2d_s8_winograd_f2_dsp_scratch_bytes(const ek_tiles_params *p) {
  return ek_tiles_scratch_bytes(p, EK_F2_SIZE, EK_F2_STREAMS, EK_F2_STREAMS, 0);
}

void ek_conv2d_s8_winograd_f2_dsp(const ek_tiles_params *p, const int8_t *input,
                                  const int16_t *weights, const ek_dsp_quant *quant, int8_t *output,
                                  void *scratch) {
  static const ek_tile_scheme scheme = EK_F2_SCHEME(NULL);
  ek_tiles_conv(p, &scheme, input, weights, quant, output, scratch, 0);
}
