/* int8 softmax in gemmlowp fixed point, the exponentials from a table.
 * Source of the arithmetic: TFLite reference/softmax.h, internal/common.h (GetReciprocal), gemmlowp
 * fixedpoint.h. Q(m).(31-m) has m integer bits. */
#include "ek_softmax.h"

static int32_t clz(uint32_t x) {
  int32_t n = 0;
  for (; !(x & 0x80000000u); x <<= 1) ++n;
  return n;
}

/* x * 4, saturating. */
static int32_t times4(int32_t x) {
  if (x > (1 << 29) - 1) return INT32_MAX;
  if (x < -(1 << 29)) return INT32_MIN;
  return ek_shl(x, 2);
}

/* 1 / (1 + a) for Q0.31 a in [0, 1]: three Newton-Raphson steps on d = (1 + a) / 2. */
static int32_t one_over_one_plus(int32_t a) {
  const int64_t sum = (int64_t)a + INT32_MAX;
  const int32_t d = (int32_t)((sum + 1) / 2); /* a >= 0 */
  int32_t x = 1515870810 + ek_srdhm_sat(d, -1010580540); /* Q2.29: 48/17 - 32/17 d */
  for (int i = 0; i < 3; ++i) {
    const int32_t error = (1 << 29) - ek_srdhm_sat(d, x);
    x += times4(ek_srdhm_sat(x, error));
  }
  if (x > (1 << 30) - 1) return INT32_MAX;
  return ek_shl(x, 1);
}

void ek_softmax_s8_table_ref(const ek_softmax_params *p, const int8_t *input, const int32_t *table,
                             int8_t *output) {
  const int32_t depth = p->depth, entries = p->entries;
  for (int32_t row = 0; row < p->rows; ++row, input += depth, output += depth) {
    int32_t top = -128;
    for (int32_t i = 0; i < depth; ++i) top = ek_max(top, input[i]);
    uint32_t sum = 0; /* Q12.19 */
    for (int32_t i = 0; i < depth; ++i) {
      const int32_t d = top - input[i];
      if (d < entries) sum += (uint32_t)ek_rdpot(table[d], 12);
    }
    const int32_t headroom = clz(sum); /* sum >= exp(0): never 0 */
    const int32_t reciprocal = one_over_one_plus((int32_t)((sum << headroom) - 0x80000000u));
    const int32_t shift = 12 - headroom + 31 - 8;
    for (int32_t i = 0; i < depth; ++i) {
      const int32_t d = top - input[i];
      int32_t out = -128;
      if (d < entries && shift < 32) {
        out += ek_rdpot(ek_srdhm(reciprocal, table[d]), shift);
      }
      output[i] = ek_sat_s8(out);
    }
  }
}
