/* Loading and storing integers whose type is a parameter. */
#ifndef EK_TYPED_H
#define EK_TYPED_H

#include "ek_quant.h"

EK_INLINE int32_t ek_load(const void *data, int32_t i, int32_t type) {
  switch (type) {
    case EK_S8: return ((const int8_t *)data)[i];
    case EK_U8: return ((const uint8_t *)data)[i];
    case EK_S16: return ((const int16_t *)data)[i];
    default: return ((const int32_t *)data)[i];
  }
}

/* Saturates. */
EK_INLINE void ek_store(void *data, int32_t i, int32_t type, int32_t value) {
  switch (type) {
    case EK_S8: ((int8_t *)data)[i] = ek_sat_s8(value); break;
    case EK_U8: ((uint8_t *)data)[i] = (uint8_t)ek_clamp(value, 0, 255); break;
    case EK_S16: ((int16_t *)data)[i] = (int16_t)ek_clamp(value, -32768, 32767); break;
    default: ((int32_t *)data)[i] = value; break;
  }
}

#endif
