/* Concatenation of tensors of one quantization. */
#include "ek_copy_run.h"
#include "ek_movement.h"

void ek_concat_ref(const void *const *inputs, const int32_t *row_bytes, int32_t count,
                   int32_t outer, void *output) {
  uint8_t *out = output;
  for (int32_t row = 0; row < outer; ++row) {
    for (int32_t k = 0; k < count; ++k) {
      const int32_t n = row_bytes[k];
      ek_copy_run(out, (const uint8_t *)inputs[k] + row * n, n);
      out += n;
    }
  }
}
