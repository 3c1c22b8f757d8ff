/* Integers to float32. */
#include "ek_typed.h"

void ek_dequantize_f32_ref(const ek_float_params *p, const void *input, float *output) {
  const ek_float_params q = *p;
  if (q.type == EK_S32) {
    for (int32_t i = 0; i < q.n; ++i) {
      output[i] = (float)((int64_t)ek_load(input, i, EK_S32) - q.zp) * q.scale;
    }
    return;
  }
  for (int32_t i = 0; i < q.n; ++i) output[i] = (float)(ek_load(input, i, q.type) - q.zp) * q.scale;
}
