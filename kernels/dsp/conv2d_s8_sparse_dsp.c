/* Convolution by im2col of four output pixels, block-sparse weights (ek_sparse.h), a
 * channel at a time. */
#include "ek_dsp_conv.h"
#include "ek_sparse.h"

int32_t ek_conv2d_s8_sparse_dsp_scratch_bytes(const ek_conv_params *p) {
  return ek_dsp_conv_scratch_bytes(p);
}

/* All channels of n pixels, whose columns stand side by side. */
static __attribute__((noinline)) void channels(const ek_conv_params *p, const ek_sparse *w,
                                               const ek_dsp_quant *quant, const uint32_t *columns,
                                               int n, int8_t *out) {
  ek_sparse_run run;
  run.columns = columns;
  run.gaps = w->gaps;
  run.weights = (const uint32_t *)(const void *)w->weights;
  for (int32_t o = 0; o < p->out_c; ++o) {
    int32_t acc[4];
    acc[0] = acc[1] = acc[2] = acc[3] = quant[o].bias;
    run.end = run.weights + w->counts[o];
    if (w->counts[o] > 0) ek_mac_s8_1x4_sparse_dsp(acc, &run);
    ek_dsp_store(acc, n, 8, quant + o, p->out_zp, p->act_min, p->act_max, out + o, p->out_c);
  }
}

void ek_conv2d_s8_sparse_dsp(const ek_conv_params *p, const int8_t *input, const ek_sparse *w,
                             const ek_dsp_quant *quant, int8_t *output, void *scratch) {
  const int32_t blocks = ek_dsp_blocks(p), pixels = p->out_h * p->out_w;
  const uint32_t four_zp = ((uint32_t)p->in_zp & 0xffu) * 0x01010101u;
  uint32_t *const cols = (uint32_t *)scratch;
  int8_t *const bytes = (int8_t *)(cols + 8 * blocks);
  int32_t iy = -p->pad_top, ix = -p->pad_left, column = 0;
  if (p->in_c % 4 != 0) memset(bytes + 4 * (blocks - 1), 0, 4);
  for (int32_t done = 0; done < pixels; done += 4) {
    const int n = (int)ek_min(4, pixels - done);
    for (int i = 0; i < 4; ++i) { /* the columns beyond the last pixel repeat it */
      if (p->in_c % 4 == 0) {
        ek_dsp_column_words(p, input, iy, ix, four_zp, cols + i, 1);
      } else {
        ek_dsp_column_bytes(p, input, iy, ix, bytes, cols + i, 1);
      }
      if (i + 1 >= n && n < 4) continue;
      ix += p->stride_w;
      if (++column == p->out_w) {
        column = 0;
        ix = -p->pad_left;
        iy += p->stride_h;
      }
    }
    channels(p, w, quant, cols, n, output + done * p->out_c);
  }
}
