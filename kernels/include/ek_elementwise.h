/* Element by element: ADD, SUB, MUL, MAXIMUM, MINIMUM, SQUARED_DIFFERENCE with broadcasting; table
 * look-up; PRELU.
 *
 * An output may be the same buffer as an input of the output's shape (not one that is broadcast).
 */
#ifndef EK_ELEMENTWISE_H
#define EK_ELEMENTWISE_H

#include "ek_common.h"

/* The output's dimensions, outermost first and padded with 1 in front, and how far each input moves
 * along each of them, in elements; 0 where it is broadcast. */
typedef struct {
  int32_t dims[EK_MAX_DIMS];
  int32_t stride1[EK_MAX_DIMS];
  int32_t stride2[EK_MAX_DIMS];
} ek_broadcast;

/* ADD, SUB, SQUARED_DIFFERENCE: both operands are brought to one scale, 2^left_shift finer.
 * offset1, offset2: minus the zero points. shift*: <= 0. */
typedef struct {
  ek_broadcast shape;
  int32_t offset1, mult1, shift1;
  int32_t offset2, mult2, shift2;
  int32_t left_shift;
  int32_t out_mult, out_shift, out_zp;
  int32_t act_min, act_max;
} ek_add_params;

void ek_add_s8_ref(const ek_add_params *p, const int8_t *in1, const int8_t *in2, int8_t *output);
void ek_sub_s8_ref(const ek_add_params *p, const int8_t *in1, const int8_t *in2, int8_t *output);
void ek_squared_difference_s8_ref(const ek_add_params *p, const int8_t *in1, const int8_t *in2,
                                  int8_t *output);

/* ADD and SUB with both operands' scaling by table. */
typedef struct {
  ek_broadcast shape;
  int32_t out_mult, out_shift, out_zp;
  int32_t act_min, act_max;
} ek_add_lut_params;

/* table1, table2: int32_t[256], index x + 128: the operand on the common scale (SUB: table2 negated);
 * their sums must fit 31 bits. */
void ek_add_s8_lut_ref(const ek_add_lut_params *p, const int8_t *in1, const int8_t *in2,
                       const int32_t *table1, const int32_t *table2, int8_t *output);

typedef struct {
  ek_broadcast shape;
  int32_t offset1, offset2;
  int32_t out_mult, out_shift, out_zp;
  int32_t act_min, act_max;
} ek_mul_params;

void ek_mul_s8_ref(const ek_mul_params *p, const int8_t *in1, const int8_t *in2, int8_t *output);

/* All three tensors have one scale and zero point: bytes are compared. */
void ek_maximum_s8_ref(const ek_broadcast *p, const int8_t *in1, const int8_t *in2, int8_t *output);
void ek_minimum_s8_ref(const ek_broadcast *p, const int8_t *in1, const int8_t *in2, int8_t *output);

/* in1: x, in2: alpha. */
typedef struct {
  ek_broadcast shape;
  int32_t offset1, offset2;         /* minus the zero points of x and alpha */
  int32_t pos_mult, pos_shift;      /* s_x / s_out, for x >= 0 */
  int32_t neg_mult, neg_shift;      /* s_x * s_alpha / s_out, for x < 0 */
  int32_t out_zp;
} ek_prelu_params;

void ek_prelu_s8_ref(const ek_prelu_params *p, const int8_t *input, const int8_t *alpha,
                     int8_t *output);

/* output[i] = table[input[i] + 128]. May run in place. */
void ek_lut_s8_ref(const int8_t *input, const int8_t *table, int8_t *output, int32_t n);

#endif
