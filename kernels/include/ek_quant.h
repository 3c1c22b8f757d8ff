/* Conversions between number formats: QUANTIZE, DEQUANTIZE. */
#ifndef EK_QUANT_H
#define EK_QUANT_H

#include "ek_common.h"

/* Types of a value that is known only at run time. */
enum { EK_S8 = 0, EK_U8 = 1, EK_S16 = 2, EK_S32 = 3 };

typedef struct {
  int32_t n;
  int32_t in_type, out_type;
  int32_t in_zp, out_zp;
  int32_t mult, shift;
} ek_requantize_params;

/* Integers of one scale to integers of another; any pair of types. 8 bits to 8 bits is faster by
 * table (ek_lut_s8_ref). */
void ek_requantize_ref(const ek_requantize_params *p, const void *input, void *output);

typedef struct {
  int32_t n;
  int32_t type; /* of the integers */
  int32_t zp;
  float scale;
} ek_float_params;

/* round(x / scale) + zp, halves away from zero, saturated; out: EK_S8, EK_U8 or EK_S16. NaN gives
 * the zero point. */
void ek_quantize_f32_ref(const ek_float_params *p, const float *input, void *output);

/* scale * (q - zp). */
void ek_dequantize_f32_ref(const ek_float_params *p, const void *input, float *output);

#endif
