/* Stride-2 3x3 convolution by phases as a scheme of ek_dsp_tiles_driver.h. */
#ifndef EK_DSP_POLYPHASE_H
#define EK_DSP_POLYPHASE_H

#include "ek_dsp_tiles_driver.h"

enum { EK_POLYPHASE_SIZE = 5, EK_POLYPHASE_STREAMS = 25, EK_POLYPHASE_POSITIONS = 9 };

/* Stream numbers by row and column of the transform: those of one sum follow one another, sums of four
 * streams first (the corners), then of two (the edges), then of one (the middle). */
#define EK_POLYPHASE_ORDER                                                                   \
  {                                                                                          \
    {0, 1, 16, 4, 5}, {2, 3, 17, 6, 7}, {18, 19, 24, 20, 21}, {8, 9, 22, 12, 13}, {          \
      10, 11, 23, 14, 15                                                                     \
    }                                                                                        \
  }

void ek_polyphase_columns_dsp(const ek_tile_columns *p);
void ek_polyphase_rows_dsp(const ek_tile_rows *p);
void ek_polyphase_output_dsp(const ek_tile_output *p);
/* One channel of one tile, 2^scale times the convolution; for channels of unusual scales. */
__attribute__((cold)) void ek_polyphase_inverse(const int32_t *m, int32_t *out);

#define EK_POLYPHASE_SCHEME(weights_function)                                                   \
  {                                                                                             \
    2, 4, EK_POLYPHASE_SIZE, EK_POLYPHASE_STREAMS, EK_POLYPHASE_POSITIONS, 1, 0,                   \
        {{4, 4}, {4, 2}, {1, 1}, {0, 0}}, ek_polyphase_columns_dsp, ek_polyphase_rows_dsp,      \
        ek_polyphase_output_dsp, ek_polyphase_inverse, weights_function                         \
  }

#endif
