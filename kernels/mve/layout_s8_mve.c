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

EK_MVE_NAKED void ek_mve_gather_columns(int8_t *to EK_MVE_ARG, const int8_t *from EK_MVE_ARG,
                                        int32_t n EK_MVE_ARG, int32_t step EK_MVE_ARG,
                                        const uint8_t *offsets EK_MVE_ARG,
                                        int32_t blocks EK_MVE_ARG) {
#define GATHER(q, with) "vldrb.u8 " q ",[r1," with "]\n"
#define STORE(q) "vstrw.32 " q ",[r0],#16\n"
  __asm__ volatile(
      "push {r4,lr}\n vpush {d8-d15}\n ldrd r12,r4,[sp,#72]\n"
      "vldrw.u32 q4,[r12]\n cmp r4,#2\n blt.n 1f\n vldrw.u32 q5,[r12,#16]\n beq.n 2f\n"
      "vldrw.u32 q6,[r12,#32]\n cmp r4,#4\n blt.n 3f\n vldrw.u32 q7,[r12,#48]\n"
      "dls lr,r2\n"
      "4: " GATHER("q0", "q4") STORE("q0") GATHER("q1", "q5") STORE("q1") GATHER("q2", "q6")
      STORE("q2") GATHER("q3", "q7") STORE("q3") "add r1,r1,r3\n le lr,4b\n b.n 5f\n"
      "1: dls lr,r2\n 6: " GATHER("q0", "q4") STORE("q0") "add r1,r1,r3\n le lr,6b\n b.n 5f\n"
      "2: dls lr,r2\n"
      "6: " GATHER("q0", "q4") STORE("q0") GATHER("q1", "q5") STORE("q1")
      "add r1,r1,r3\n le lr,6b\n b.n 5f\n"
      "3: dls lr,r2\n"
      "6: " GATHER("q0", "q4") STORE("q0") GATHER("q1", "q5") STORE("q1") GATHER("q2", "q6")
      STORE("q2") "add r1,r1,r3\n le lr,6b\n"
      "5: vpop {d8-d15}\n pop {r4,pc}\n");
}

#else

void ek_mve_gather_columns(int8_t *to, const int8_t *from, int32_t n, int32_t step,
                           const uint8_t *offsets, int32_t blocks) {
  for (int32_t i = 0; i < n; ++i, from += step) {
    for (int32_t k = 0; k < 16 * blocks; ++k) *to++ = from[offsets[k]];
  }
}

void ek_mve_copy(void *to, const void *from, int32_t n) { memcpy(to, from, (size_t)n); }
void ek_mve_fill(void *to, int32_t value, int32_t n) { memset(to, value & 0xff, (size_t)n); }
void ek_mve_copy_pieces(int8_t *to, int32_t to_step, const int8_t *from, int32_t from_step,
                        int32_t n, int32_t bytes) {
  for (int32_t i = 0; i < n; ++i) memcpy(to + i * to_step, from + i * from_step, (size_t)bytes);
}

#endif
