/* int8 addition and subtraction with broadcasting: operands scaled by table, one requantization. */
#include "ek_broadcast.h"

typedef struct {
  const int32_t *table1, *table2; /* centred: index -128 .. 127 */
  int32_t mult, shift, zp, lo, hi;
} context;

EK_INLINE int8_t element(int32_t x, int32_t y, const void *params) {
  const context *c = params;
  const int32_t sum = c->table1[x] + c->table2[y];
  return ek_finish_s8(ek_requant_right(sum, c->mult, c->shift), c->zp, c->lo, c->hi);
}

void ek_add_s8_lut_ref(const ek_add_lut_params *p, const int8_t *in1, const int8_t *in2,
                       const int32_t *table1, const int32_t *table2, int8_t *output) {
  const context local = {table1 + 128, table2 + 128, p->out_mult, p->out_shift,
                         p->out_zp,    p->act_min,   p->act_max};
  ek_broadcast_s8(&p->shape, in1, in2, output, element, &local);
}
