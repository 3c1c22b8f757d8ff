/* Runs of bytes from strided to strided places. */
#include "ek_strided.h"

void ek_strided_copy_ref(const ek_strided_params *p, const void *input, void *output) {
  const ek_strided_params local = *p; /* a byte store may alias *p, but not a local */
  ek_strided(&local, input, output);
}
