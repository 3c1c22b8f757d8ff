/* Reductions over any axes, int8: MEAN, SUM, REDUCE_MAX; ARG_MAX. */
#ifndef EK_REDUCE_H
#define EK_REDUCE_H

#include "ek_common.h"

/* Axes in elements of the input, outermost first, neighbours of one kind merged, padded with 1 in
 * front: those that stay and those that are reduced. */
typedef struct {
  int32_t keep[3], keep_stride[3];
  int32_t reduce[3], reduce_stride[3];
} ek_axes;

typedef struct {
  ek_axes axes;
  int32_t zero_sum; /* zero point times the number of values reduced, modulo 2^32 */
  int32_t mult, shift;
  int32_t out_zp;
} ek_sum_params;

/* MEAN and SUM (they differ in mult, shift). */
void ek_sum_s8_ref(const ek_sum_params *p, const int8_t *input, int8_t *output);
void ek_reduce_max_s8_ref(const ek_axes *p, const int8_t *input, int8_t *output);

typedef struct {
  int32_t outer, axis, inner;
  int32_t flip;      /* 0 for int8, 128 for uint8 values */
  int32_t out_bytes; /* of an index: 4 or 8 */
} ek_arg_max_params;

/* The first index of the largest value; ties go to the first. */
void ek_arg_max_s8_ref(const ek_arg_max_params *p, const void *input, void *output);

#endif
