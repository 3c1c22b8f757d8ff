/* Average pooling, int8: sums of sixteen or eight channels in 16-bit lanes. A window of at most 256
 * inputs keeps every sum inside 16 bits. */
#include "ek_mve.h"

#if EK_MVE_ASM
#include "ek_mve_asm.h"

EK_MVE_NAKED void ek_mve_pool_sums(const ek_mve_window *a EK_MVE_ARG, int16_t *sums EK_MVE_ARG) {
  __asm__ volatile(
      "push {r3-r7,lr}\n ldm r0,{r2,r3,r4,r5,r6,r7}\n" /* x, step, row, rows, cols, channels */
      "vmov.i32 q0,#0\n vmov.i32 q1,#0\n cmp r7,#16\n bge.n 3f\n vctp.16 r7\n"
      "1: mov r0,r2\n dls lr,r6\n"
      "2: vpst\n vldrbt.s16 q2,[r0]\n vadd.i16 q0,q0,q2\n add r0,r0,r3\n le lr,2b\n"
      "add r2,r2,r4\n subs r5,r5,#1\n bne.n 1b\n b.n 5f\n"
      "3: mov r0,r2\n dls lr,r6\n"
      "4: vldrb.s16 q2,[r0]\n vadd.i16 q0,q0,q2\n vldrb.s16 q3,[r0,#8]\n vadd.i16 q1,q1,q3\n"
      "add r0,r0,r3\n le lr,4b\n"
      "add r2,r2,r4\n subs r5,r5,#1\n bne.n 3b\n vstrh.16 q1,[r1,#16]\n"
      "5: vstrh.16 q0,[r1]\n pop {r3-r7,pc}\n");
}
#else
void ek_mve_pool_sums(const ek_mve_window *a, int16_t *sums) {
  const int32_t n = a->channels >= 16 ? 16 : ek_min(a->channels, 8);
  for (int32_t c = 0; c < 16; ++c) sums[c] = 0;
  for (int32_t y = 0; y < a->rows; ++y) {
    for (int32_t x = 0; x < a->cols; ++x) {
      for (int32_t c = 0; c < n; ++c) {
        sums[c] = (int16_t)(sums[c] + a->x[y * a->row + x * a->step + c]);
      }
    }
  }
}
#endif

int32_t ek_average_pool_s8_mve_scratch_bytes(const ek_pool_params *p) {
  (void)p;
  return 0;
}

void ek_average_pool_s8_mve(const ek_pool_params *p, const int8_t *input, int8_t *output) {
  ek_mve_window a = {.step = p->channels, .row = p->in_w * p->channels};
  for (int32_t oy = 0; oy < p->out_h; ++oy) {
    for (int32_t ox = 0; ox < p->out_w; ++ox) {
      const int32_t y0 = ek_max(oy * p->stride_h - p->pad_top, 0);
      const int32_t x0 = ek_max(ox * p->stride_w - p->pad_left, 0);
      a.rows = ek_min(oy * p->stride_h - p->pad_top + p->filter_h, p->in_h) - y0;
      a.cols = ek_min(ox * p->stride_w - p->pad_left + p->filter_w, p->in_w) - x0;
      const int32_t count = a.rows * a.cols;
      a.x = input + (y0 * p->in_w + x0) * p->channels;
      if (a.cols == p->in_w) {
        a.cols = count;
        a.rows = 1;
      }
      for (int32_t c = 0; c < p->channels;) {
        int16_t sums[16] __attribute__((aligned(4)));
        a.channels = p->channels - c;
        ek_mve_pool_sums(&a, sums);
        const int32_t n = a.channels >= 16 ? 16 : ek_min(a.channels, 8);
        for (int32_t i = 0; i < n; ++i) {
          const int32_t sum = sums[i];
          const int32_t y = (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
          *output++ = (int8_t)ek_clamp(y, p->act_min, p->act_max);
        }
        a.x += n;
        c += n;
      }
    }
  }
}
