/* Winograd F(4x4,3x3) as a scheme of ek_dsp_tiles_driver.h. */
#ifndef EK_DSP_WINOGRAD_F4_H
#define EK_DSP_WINOGRAD_F4_H

#include "ek_dsp_tiles_driver.h"

void ek_winograd_f4_columns_dsp(const ek_tile_columns *p);
void ek_winograd_f4_rows_dsp(const ek_tile_rows *p);
void ek_winograd_f4_rows_lean_dsp(const ek_tile_rows *p);
void ek_winograd_f4_output_dsp(const ek_tile_output *p);
/* One channel of one tile, 2^scale times the convolution; for channels of unusual scales. */
__attribute__((cold)) void ek_winograd_f4_inverse(const int32_t *m, int32_t *out);

/* w: [3][3][in_c] of an output channel, in_c a multiple of 4; dst: words of pairs of input channels, at
 * this channel's; step: bytes from stream to stream. */
void ek_winograd_f4_weights_dsp(const int8_t *w, int32_t in_c, uint32_t *dst, int32_t step);

enum { EK_F4_SIZE = 6, EK_F4_STREAMS = 36 };

#define EK_F4_SCHEME(corner, rows_function, weights_function)                               \
  {                                                                                         \
    4, 4, EK_F4_SIZE, EK_F4_STREAMS, EK_F4_STREAMS, 6, corner, {{EK_F4_STREAMS, 1}, {0, 0}}, \
        ek_winograd_f4_columns_dsp, rows_function, ek_winograd_f4_output_dsp,               \
        ek_winograd_f4_inverse, weights_function                                            \
  }

#endif
