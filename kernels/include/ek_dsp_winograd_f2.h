/* Winograd F(2x2,3x3) as a scheme of ek_dsp_tiles_driver.h. */
#ifndef EK_DSP_WINOGRAD_F2_H
#define EK_DSP_WINOGRAD_F2_H

#include "ek_dsp_tiles_driver.h"

enum { EK_F2_SIZE = 4, EK_F2_STREAMS = 16 };

void ek_winograd_f2_columns_dsp(const ek_tile_columns *p);
void ek_winograd_f2_rows_dsp(const ek_tile_rows *p);
void ek_winograd_f2_output_dsp(const ek_tile_output *p);
/* One channel of one tile, 2^scale times the convolution; for channels of unusual scales. */
__attribute__((cold)) void ek_winograd_f2_inverse(const int32_t *m, int32_t *out);

#define EK_F2_SCHEME(weights_function)                                                      \
  {                                                                                         \
    2, 2, EK_F2_SIZE, EK_F2_STREAMS, EK_F2_STREAMS, 2, 0, {{EK_F2_STREAMS, 1}, {0, 0}},        \
        ek_winograd_f2_columns_dsp, ek_winograd_f2_rows_dsp, ek_winograd_f2_output_dsp,     \
        ek_winograd_f2_inverse, weights_function                                            \
  }

#endif
