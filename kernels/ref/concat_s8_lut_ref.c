/* int8 concatenation of tensors of different quantization: each input's bytes through a table. */
#include "ek_copy_run.h"
#include "ek_movement.h"

void ek_concat_s8_lut_ref(const int8_t *const *inputs, const int8_t *const *tables,
                          const int32_t *row_bytes, int32_t count, int32_t outer, int8_t *output) {
  for (int32_t row = 0; row < outer; ++row) {
    for (int32_t k = 0; k < count; ++k) {
      const int32_t n = row_bytes[k];
      const int8_t *in = inputs[k] + row * n;
      if (tables[k]) {
        const int8_t *centre = tables[k] + 128;
        for (int32_t i = 0; i < n; ++i) output[i] = centre[in[i]];
      } else {
        ek_copy_run((uint8_t *)output, (const uint8_t *)in, n);
      }
      output += n;
    }
  }
}
