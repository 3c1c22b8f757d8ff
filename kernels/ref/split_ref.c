/* One tensor into several along an axis. */
#include "ek_copy_run.h"
#include "ek_movement.h"

void ek_split_ref(const void *input, const int32_t *row_bytes, int32_t count, int32_t outer,
                  void *const *outputs) {
  const uint8_t *in = input;
  for (int32_t row = 0; row < outer; ++row) {
    for (int32_t k = 0; k < count; ++k) {
      const int32_t n = row_bytes[k];
      ek_copy_run((uint8_t *)outputs[k] + row * n, in, n);
      in += n;
    }
  }
}
