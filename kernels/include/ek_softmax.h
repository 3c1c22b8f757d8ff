/* Softmax over the last axis, int8 in and out (scale 1/256, zero point -128). */
#ifndef EK_SOFTMAX_H
#define EK_SOFTMAX_H

#include "ek_common.h"

typedef struct {
  int32_t rows, depth;
  int32_t entries; /* of the table; a value more than entries - 1 below its row's maximum is 0 */
} ek_softmax_params;

/* table[d]: exp(-beta * scale * d) as Q0.31, computed when the code is generated with gemmlowp's
 * exp_on_negative_values. */
void ek_softmax_s8_table_ref(const ek_softmax_params *p, const int8_t *input, const int32_t *table,
                             int8_t *output);

#endif
