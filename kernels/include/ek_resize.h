/* Resizing of images, NHWC with N = 1; where each position reads is computed ahead. */
#ifndef EK_RESIZE_H
#define EK_RESIZE_H

#include "ek_common.h"

typedef struct {
  int32_t in_w;
  int32_t out_h, out_w;
  int32_t pixel; /* nearest: bytes of a pixel; bilinear: channels */
} ek_resize_params;

/* rows[out_h], columns[out_w]: the source row and column of each position. */
void ek_resize_nearest_ref(const ek_resize_params *p, const void *input, const int16_t *rows,
                           const int16_t *columns, void *output);

/* rows[out_h][3], columns[out_w][3]: lower and upper source position, and the upper one's weight in
 * 1/1024 (the lower one's is 1024 minus it). */
void ek_resize_bilinear_s8_ref(const ek_resize_params *p, const int8_t *input, const int16_t *rows,
                               const int16_t *columns, int8_t *output);

#endif
