/* float32 to 8 or 16 bits. */
#include "ek_typed.h"

void ek_quantize_f32_ref(const ek_float_params *p, const float *input, void *output) {
  const ek_float_params q = *p;
  const float limit = 131072.0f; /* beyond every result, within int32 and exact in float32 */
  for (int32_t i = 0; i < q.n; ++i) {
    const float x = input[i] / q.scale;
    int32_t v;
    if (x >= limit) {
      v = (int32_t)limit;
    } else if (x <= -limit) {
      v = -(int32_t)limit;
    } else if (x == x) {
      v = (int32_t)x; /* towards zero */
      const float rest = x - (float)v;
      if (rest >= 0.5f) ++v;
      if (rest <= -0.5f) --v;
    } else {
      v = 0;
    }
    ek_store(output, i, q.type, v + q.zp);
  }
}
