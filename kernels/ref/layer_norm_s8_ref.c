/* int8 layer normalization in integers. */
#include "ek_norm.h"

/* floor(sqrt(x)), bit by bit. */
static uint32_t root(uint64_t x) {
  uint64_t r = 0;
  for (uint64_t bit = (uint64_t)1 << 62; bit; bit >>= 2) {
    if (x >= r + bit) {
      x -= r + bit;
      r = (r >> 1) + bit;
    } else {
      r >>= 1;
    }
  }
  return (uint32_t)r;
}

void ek_layer_norm_s8_ref(const ek_layer_norm_params *p, const int8_t *input, const int16_t *gamma,
                          const int32_t *beta, int8_t *output) {
  const int32_t channels = p->channels, k = p->gamma_shift;
  const int64_t half = k ? (int64_t)1 << (k - 1) : 0;
  for (int32_t row = 0; row < p->rows; ++row, input += channels, output += channels) {
    int32_t sum = 0, squares = 0;
    for (int32_t i = 0; i < channels; ++i) {
      sum += input[i];
      squares += input[i] * input[i];
    }
    const int64_t w = (int64_t)channels * squares - (int64_t)sum * sum + p->epsilon;
    int64_t v = 0;
    int32_t e = 1;
    if (w > 0) {
      int32_t t = 0;
      uint64_t radicand = (uint64_t)w;
      for (; !(radicand >> 62); radicand <<= 2) t += 2;
      v = (int64_t)(((uint64_t)1 << 62) / root(radicand));
      e = 50 - t / 2;
    }
    const int64_t rounding = (int64_t)1 << (e - 1);
    for (int32_t i = 0; i < channels; ++i) {
      const int32_t d = channels * input[i] - sum;
      const int32_t n = (int32_t)((d * v + rounding) >> e);
      int64_t a = ((int64_t)gamma[i] * n + beta[i] + half) >> k;
      if (a > INT32_MAX) a = INT32_MAX;
      if (a < INT32_MIN) a = INT32_MIN;
      output[i] = ek_finish_s8(ek_requant((int32_t)a, p->mult, p->shift), p->out_zp, -128, 127);
    }
  }
}
