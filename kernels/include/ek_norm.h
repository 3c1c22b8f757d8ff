/* LAYER_NORM over the last axis, int8; the integer definition stands in edgekit/graph/ops/norm.py
 * and its names (E, k, W, t, r, v, e) are used here. */
#ifndef EK_NORM_H
#define EK_NORM_H

#include "ek_common.h"

typedef struct {
  int32_t rows, channels; /* channels <= 65536 */
  int64_t epsilon;        /* E */
  int32_t gamma_shift;    /* k */
  int32_t mult, shift;
  int32_t out_zp;
} ek_layer_norm_params;

void ek_layer_norm_s8_ref(const ek_layer_norm_params *p, const int8_t *input, const int16_t *gamma,
                          const int32_t *beta, int8_t *output);

#endif
