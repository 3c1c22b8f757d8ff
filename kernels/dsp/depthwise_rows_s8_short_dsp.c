/* Depthwise 3x3, two output rows, the short line for requantization. */
#include "ek_dsp_depthwise_rows.h"

#if EK_SIMD_ASM

KERNEL("ek_depthwise_rows_s8_short_dsp", OUT1_SHORT, OUT2_SHORT, "");

#else

void ek_depthwise_rows_s8_short_dsp(const ek_depthwise_rows *p) {
  const int32_t pixels = p->turns / 12 + (p->flags & 1) + 2 * (p->flags & 2);
  const uint8_t *columns = (const uint8_t *)p->columns;
  int8_t *out = p->out;
  for (const int32_t *w = p->channel; w != p->end; w += 10, columns += 24, out += p->turn) {
    for (int32_t x = 0; x < pixels; ++x, columns += 12, out += p->step) {
      int32_t y0 = w[8], y1 = w[9];
      const int edges = p->flags >> 1;
      const int from = edges && x == 0 ? 1 : 0, to = edges && x == pixels - 1 ? 2 : 3;
      for (int i = from; i < to; ++i) {
        const uint32_t first = (uint32_t)w[2 * i], second = (uint32_t)w[2 * i + 1];
        const uint32_t e0 = ek_load32(columns + 12 * i), e1 = ek_load32(columns + 12 * i + 4);
        y0 = ek_smlad(first, e0, y0);
        y1 = ek_add_wrap(y1, ek_lo16(first) * ek_hi16(e0));
        y0 = ek_add_wrap(y0, ek_hi16(second) * ek_lo16(e1));
        y1 = ek_smlad(second, e1, y1);
      }
      const int32_t k = EK_LINE_SHIFT;
      out[p->row] = (int8_t)ek_ssat8(ek_smmla(y1, w[6], w[7]) >> k);
      out[0] = (int8_t)ek_ssat8(ek_smmla(y0, w[6], w[7]) >> k);
    }
  }
}

#endif
