/* ADD as one linear form: (a * x + b * y + c) >> 16 + shift, saturated. The generator has checked the
 * constants against the quantized addition for all 65,536 pairs of bytes. */
#include "ek_mve.h"

/* Halves up at both steps, as VQRSHRNB has it; the constant allows for that. */
EK_INLINE int8_t add_one(const ek_mve_add_params *p, int32_t x, int32_t y) {
  const int32_t sum = (((p->a * x + p->c + p->b * y) >> 15) + 1) >> 1;
  return ek_sat_s8((ek_clamp(sum, -32768, 32767) + (1 << (p->shift - 1))) >> p->shift);
}

#if EK_MVE_ASM
#include "ek_mve_asm.h"

/* Sixteen elements a pass. Every step to a narrower type keeps its lane, so the store takes the low
 * byte of each word. (VQSHRNB, without rounding, is what binutils 2.40 assembles to VQRSHRNB.) */
#define FOUR(q, other)                                                                  \
  "vldrb.s32 " q ",[r0],#4\n vmlas.s32 " q ",q7,r3\n vldrb.s32 " other ",[r1],#4\n"     \
  "vmla.s32 " q "," other ",r4\n vqrshrnb.s32 " q "," q ",#16\n"
#define ADD(bits)                                                                       \
  EK_MVE_NAKED void ek_mve_add_##bits(const int8_t *x EK_MVE_ARG,                       \
                                      const int8_t *y EK_MVE_ARG, int8_t *out EK_MVE_ARG, \
                                      const int32_t *k EK_MVE_ARG) {                    \
    __asm__ volatile(                                                                   \
        "push {r4,lr}\n vpush {d8-d15}\n ldm r3,{r3,r4,r12,lr}\n vdup.32 q7,r12\n"      \
        "1:\n" FOUR("q0", "q4") FOUR("q1", "q5") FOUR("q2", "q6") FOUR("q3", "q4")      \
        "vqrshrnb.s16 q0,q0,#" #bits "\n vstrb.32 q0,[r2],#4\n"                         \
        "vqrshrnb.s16 q1,q1,#" #bits "\n vstrb.32 q1,[r2],#4\n"                         \
        "vqrshrnb.s16 q2,q2,#" #bits "\n vstrb.32 q2,[r2],#4\n"                         \
        "vqrshrnb.s16 q3,q3,#" #bits "\n vstrb.32 q3,[r2],#4\n"                         \
        "le lr,1b\n vpop {d8-d15}\n pop {r4,pc}\n");                                    \
  }
#else
#define ADD(bits)                                                                       \
  void ek_mve_add_##bits(const int8_t *x, const int8_t *y, int8_t *out,                 \
                         const int32_t *k) {                                            \
    const ek_mve_add_params p = {.a = k[2], .b = k[1], .c = k[0], .shift = bits};       \
    for (int32_t i = 0; i < 16 * k[3]; ++i) out[i] = add_one(&p, x[i], y[i]);           \
  }
#endif
ADD(4)
ADD(5)
ADD(6)
ADD(7)

int32_t ek_add_s8_linear_mve_scratch_bytes(const ek_mve_add_params *p) {
  (void)p;
  return 0;
}

void ek_add_s8_linear_mve(const ek_mve_add_params *p, const int8_t *x, const int8_t *y,
                          int8_t *out) {
  const int32_t k[4] = {p->c, p->b, p->a, p->count >> 4};
  if (k[3]) p->sixteens(x, y, out, k);
  for (int32_t i = 16 * k[3]; i < p->count; ++i) out[i] = add_one(p, x[i], y[i]);
}
