/* 3x3 convolution of stride 2 by phases, int8 weights that are transformed by the kernel, two output
 * channels at a time (ek_dsp_tiles.h). */
#include "ek_dsp_polyphase.h"
#include "ek_simd.h"

/* Nine taps of a pair of channels, 3 x 3, into 25 streams; doubled for the requantization, see
 * polyphase_output_dsp.c. step: words from stream to stream. The order is EK_POLYPHASE_ORDER. */
static __attribute__((noinline)) void transform_pair(const uint32_t *x, uint32_t *dst,
                                                     int32_t step) {
  uint32_t *const corners = dst, *const edges = dst + 16 * step;
  uint32_t t[9], sum[3];
  for (int i = 0; i < 9; ++i) t[i] = ek_sadd16(x[i], x[i]);
  for (int i = 0; i < 3; ++i) sum[i] = ek_sadd16(t[3 * i], t[3 * i + 2]);
  for (int k = 0; k < 4; ++k) { /* corner (k / 2, k % 2): rows of taps y, 1 and columns x, 1 */
    const uint32_t *even = t + k / 2 * 6;
    const int x0 = k % 2 * 2;
    uint32_t *d = corners + 4 * k * step;
    uint32_t *const odd = d + 2 * step;
    d[0] = even[x0];
    d[step] = even[1];
    odd[0] = t[3 + x0];
    odd[step] = t[4];
  }
  edges[0] = sum[0];
  edges[step] = sum[1];
  edges[2 * step] = ek_sadd16(t[0], t[6]);
  edges[3 * step] = ek_sadd16(t[1], t[7]);
  edges[4 * step] = ek_sadd16(t[2], t[8]);
  edges[5 * step] = edges[3 * step];
  edges[6 * step] = sum[2];
  edges[7 * step] = sum[1];
  edges[8 * step] = ek_sadd16(sum[0], sum[2]);
}

static void transform_weights(const int8_t *w, int32_t in_c, int32_t pairs, int32_t channel,
                              uint32_t *dst) {
  dst += channel;
  for (int32_t k = 0; k < in_c; k += 4, dst += 4) {
    uint32_t first[9], second[9];
    const int8_t *src = w + k;
    for (int i = 0; i < 9; ++i, src += in_c) {
      const uint32_t word = ek_load32(src);
      first[i] = ek_sxtb16(word);
      second[i] = ek_sxtb16_ror8(word);
    }
    transform_pair(first, dst, 2 * pairs);
    transform_pair(second, dst + 2, 2 * pairs);
  }
}

int32_t ek_conv2d_s8_polyphase_lean_dsp_scratch_bytes(const ek_tiles_params *p) {
  return ek_tiles_scratch_bytes(p, EK_POLYPHASE_SIZE, EK_POLYPHASE_STREAMS, EK_POLYPHASE_POSITIONS,
                                1);
}

void ek_conv2d_s8_polyphase_lean_dsp(const ek_tiles_params *p, const int8_t *input,
                                     const int8_t *weights, const ek_dsp_quant *quant,
                                     int8_t *output, void *scratch) {
  static const ek_tile_scheme scheme = EK_POLYPHASE_SCHEME(transform_weights);
  ek_tiles_conv(p, &scheme, input, weights, quant, output, scratch, 1);
}
