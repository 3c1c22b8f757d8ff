/* Moving bytes: copies, fills, pieces at a step (ek_mve.h). */
#include "ek_mve.h"

#if EK_MVE_ASM
#include "ek_mve_asm.h"

EK_MVE_NAKED void ek_mve_copy(void *to EK_MVE_ARG, const void *from EK_MVE_ARG,
                              int32_t n EK_MVE_ARG) {
  __asm__ volatile(
      "push {r7,lr}\n wlstp.8 lr,r2,2f\n"
      "1: vldrb.u8 q0,[r1],#16\n vstrb.8 q0,[r0],#16\n letp lr,1b\n"
      "2: pop {r7,pc}\n");
}

EK_MVE_NAKED void ek_mve_fill(void *to EK_MVE_ARG, int32_t value EK_MVE_ARG,
                              int32_t n EK_MVE_ARG) {
  __asm__ volatile(
      "push {r7,lr}\n vdup.8 q0,r1\n wlstp.8 lr,r2,2f\n"
      "1: vstrb.8 q0,[r0],#16\n letp lr,1b\n"
      "2: pop {r7,pc}\n");
}

EK_MVE_NAKED void ek_mve_copy_pieces(int8_t *to EK_MVE_ARG, int32_t to_step EK_MVE_ARG,
                                     const int8_t *from EK_MVE_ARG, int32_t from_step EK_MVE_ARG,
                                     int32_t n EK_MVE_ARG, int32_t bytes EK_MVE_ARG) {
  __asm__ volatile(
      "push {r4,lr}\n ldrd r12,r4,[sp,#8]\n cmp r4,#16\n beq.n 3f\n"
      "vctp.8 r4\n wls lr,r12,9f\n"
      "1: vpstt\n vldrbt.u8 q0,[r2]\n vstrbt.8 q0,[r0]\n add r2,r2,r3\n add r0,r0,r1\n le lr,1b\n"
      "pop {r4,pc}\n"
      "3: cmp r1,#16\n beq.n 5f\n wls lr,r12,9f\n"
      "4: vldrb.u8 q0,[r2]\n add r2,r2,r3\n vstrb.8 q0,[r0]\n add r0,r0,r1\n le lr,4b\n"
      "pop {r4,pc}\n"
      "5: wls lr,r12,9f\n"
      "6: vldrb.u8 q0,[r2]\n add r2,r2,r3\n vstrb.8 q0,[r0],#16\n le lr,6b\n"
      "9: pop {r4,pc}\n");
}

#else

void ek_mve_copy(void *to, const void *from, int32_t n) { memcpy(to, from, (size_t)n); }
void ek_mve_fill(void *to, int32_t value, int32_t n) { memset(to, value & 0xff, (size_t)n); }
void ek_mve_copy_pieces(int8_t *to, int32_t to_step, const int8_t *from, int32_t from_step,
                        int32_t n, int32_t bytes) {
  for (int32_t i = 0; i < n; ++i) memcpy(to + i * to_step, from + i * from_step, (size_t)bytes);
}

#endif
