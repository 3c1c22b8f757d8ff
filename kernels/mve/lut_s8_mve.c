/* Any function of one int8 value, by table: sixteen look-ups are one gather. */
#include "ek_mve.h"

#if EK_MVE_ASM
#include "ek_mve_asm.h"

EK_MVE_NAKED void ek_lut_s8_mve(const int8_t *input EK_MVE_ARG, const int8_t *table EK_MVE_ARG,
                                int8_t *output EK_MVE_ARG, int32_t n EK_MVE_ARG) {
  __asm__ volatile(
      "push {r7,lr}\n mov r12,#128\n wlstp.8 lr,r3,2f\n"
      "1: vldrb.u8 q0,[r0],#16\n vadd.i8 q0,q0,r12\n vldrb.u8 q1,[r1,q0]\n"
      "vstrb.8 q1,[r2],#16\n letp lr,1b\n"
      "2: pop {r7,pc}\n");
}
#else
void ek_lut_s8_mve(const int8_t *input, const int8_t *table, int8_t *output, int32_t n) {
  for (int32_t i = 0; i < n; ++i) output[i] = table[input[i] + 128];
}
#endif
