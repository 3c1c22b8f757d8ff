/* The same bytes in another buffer. */
#include "ek_movement.h"

void ek_copy_ref(const void *input, void *output, int32_t bytes) {
  if (input != output) memcpy(output, input, (size_t)bytes);
}
