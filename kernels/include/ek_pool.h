/* Pooling, NHWC with N = 1, int8. Input and output have one scale and zero point. */
#ifndef EK_POOL_H
#define EK_POOL_H

#include "ek_common.h"

typedef struct {
  int32_t in_h, in_w, channels;
  int32_t out_h, out_w;
  int32_t filter_h, filter_w;
  int32_t stride_h, stride_w;
  int32_t pad_top, pad_left; /* padding is never read, nor counted by the average */
  int32_t act_min, act_max;
} ek_pool_params;

/* The mean rounds halves away from zero, on raw bytes. */
void ek_average_pool_s8_ref(const ek_pool_params *p, const int8_t *input, int8_t *output);
void ek_max_pool_s8_ref(const ek_pool_params *p, const int8_t *input, int8_t *output);

#endif
