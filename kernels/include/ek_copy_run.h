/* A short contiguous copy: a call of memcpy costs more than a few bytes do. */
#ifndef EK_COPY_RUN_H
#define EK_COPY_RUN_H

#include "ek_common.h"

EK_INLINE void ek_copy_run(uint8_t *out, const uint8_t *in, int32_t bytes) {
  if (bytes >= 16) {
    memcpy(out, in, (size_t)bytes);
  } else {
    for (int32_t i = 0; i < bytes; ++i) out[i] = in[i];
  }
}

#endif
