/* Fully connected: eight outputs at a time. */
#include "ek_mve.h"

#if EK_MVE_ASM
#include "ek_mve_asm.h"

#define W(q) "vldrw.u32 " q ",[r1],#16\n"
/* Sixteen values of eight outputs; 68 bytes of code. */
#define STEP                                                                            \
  EK_LOAD("q0", "[r3],#16") W("q1") EK_MAC("r0", "q0", "q1") W("q2")                    \
  EK_MAC("r2", "q0", "q2") W("q3") EK_MAC("r4", "q0", "q3") W("q1")                     \
  EK_MAC("r6", "q0", "q1") W("q2") EK_MAC("r8", "q0", "q2") W("q3")                     \
  EK_MAC("r10", "q0", "q3") W("q1") EK_MAC("r12", "q0", "q1") W("q2")                   \
  EK_MAC("lr", "q0", "q2")

/* The accumulators to q0 and q1, scaled, to eight bytes in the halfwords of q7. */
#define VECTORS                                                                         \
  "ldrd r3,r9,[r11,#0]\n vmov q0[2],q0[0],r0,r4\n vmov q0[3],q0[1],r2,r6\n"
#define SIGNED_BYTES                                                                    \
  VECTORS "vmov q1[2],q1[0],r8,r12\n vmov q1[3],q1[1],r10,lr\n ldr r0,[r11,#8]\n"       \
  "vshr.s32 q2,q0,#31\n vqrdmlah.s32 q2,q0,r3\n vshr.s32 q0,q1,#31\n"                   \
  "vqrdmlah.s32 q0,q1,r3\n vrshl.s32 q2,r9\n vrshl.s32 q0,r9\n"                         \
  "vqmovnb.s32 q7,q2\n vqmovnt.s32 q7,q0\n vqadd.s16 q7,q7,r0\n vqmovnb.s16 q7,q7\n"
#define BYTES_PLAIN                                                                     \
  VECTORS "vqrdmulh.s32 q0,q0,r3\n vmov q1[2],q1[0],r8,r12\n vrshl.s32 q0,r9\n"         \
  "vmov q1[3],q1[1],r10,lr\n vqrdmulh.s32 q1,q1,r3\n vrshl.s32 q1,r9\n"                 \
  "ldr r0,[r11,#8]\n vqmovunb.s32 q7,q0\n vqmovunt.s32 q7,q1\n vqmovnb.u16 q7,q7\n"     \
  "vadd.i8 q7,q7,r0\n"
#define BYTES_SIGNED SIGNED_BYTES
#define BYTES_CLAMPED                                                                   \
  SIGNED_BYTES "ldrd r0,r2,[r11,#12]\n vdup.8 q1,r0\n vdup.8 q2,r2\n"                   \
  "vmax.s8 q7,q7,q1\n vmin.s8 q7,q7,q2\n"

/* w r1, x r3, out r5, outputs left r7, passes left r9, arguments r11. Frame: 0 entry, 4 passes. */
#define DENSE(finish)                                                                   \
  __asm__ volatile(                                                                     \
      EK_MVE_SAVE "sub sp,sp,#12\n mov r11,r0\n"                                        \
      "ldrd r1,r5,[r11,#24]\n ldrd r7,r2,[r11,#32]\n sub r2,r2,#1\n lsr r3,r2,#3\n"     \
      "add r3,r3,#1\n str r3,[sp,#4]\n and r2,r2,#7\n add r2,r2,#1\n mov r3,#68\n"      \
      "mul r2,r2,r3\n adr.w r3,91f\n sub r3,r3,r2\n orr r3,r3,#1\n str r3,[sp,#0]\n"    \
      "1:\n ldm r1!,{r0,r2,r4,r6,r8,r10,r12,lr}\n"                                      \
      "ldr r3,[r11,#20]\n ldr r9,[sp,#4]\n ldr pc,[sp,#0]\n"                            \
      "2:\n" STEP STEP STEP STEP STEP STEP STEP STEP "91:\n subs r9,r9,#1\n bne.w 2b\n"                     \
      BYTES_##finish                                                                    \
      "vctp.16 r7\n vpst\n vstrbt.16 q7,[r5],#8\n subs r7,r7,#8\n bgt.w 1b\n"           \
      "add sp,sp,#12\n" EK_MVE_RETURN)

#define DENSE_FUNCTION(finish, name)                                                    \
  EK_MVE_NAKED void ek_mve_dense_##name(const ek_mve_dense *a EK_MVE_ARG) { DENSE(finish); }

#else

static void run(const ek_mve_dense *a, int is_signed) {
  const int32_t *q = a->quant;
  const int8_t *w = (const int8_t *)a->w;
  for (int32_t o = 0; o < a->out_c; o += 8) {
    int32_t acc[8];
    memcpy(acc, w, 32);
    w += 32;
    for (int32_t k = 0; k < 16 * a->blocks; k += 16) {
      for (int c = 0; c < 8; ++c, w += 16) {
        int32_t sum = 0;
        for (int i = 0; i < 16; ++i) sum += a->x[k + i] * w[i];
        acc[c] = (int32_t)((uint32_t)acc[c] + (uint32_t)sum);
      }
    }
    for (int c = 0; c < 8 && o + c < a->out_c; ++c) {
      const int32_t y = ek_mve_requant(acc[(c >> 1) + 4 * (c & 1)], q[0], q[1], q[2], is_signed);
      a->out[o + c] = (int8_t)ek_clamp(ek_sat_s8(y), q[3], q[4]);
    }
  }
}
#define EK_SIGN_PLAIN 0
#define EK_SIGN_SIGNED 1
#define EK_SIGN_CLAMPED 1
#define DENSE_FUNCTION(finish, name)                                                    \
  void ek_mve_dense_##name(const ek_mve_dense *a) { run(a, EK_SIGN_##finish); }

#endif

DENSE_FUNCTION(PLAIN, plain)
DENSE_FUNCTION(SIGNED, signed)
DENSE_FUNCTION(CLAMPED, clamped)

int32_t ek_fully_connected_s8_mve_scratch_bytes(const ek_mve_fc_params *p) {
  return p->in_c & 15 ? ek_mve_round16(p->in_c) : 0;
}

void ek_fully_connected_s8_mve(const ek_mve_fc_params *p, const int8_t *input, const int32_t *w,
                               int8_t *output, void *scratch) {
  ek_mve_dense a = {.quant = {p->mult, p->shift, p->zp, p->lo, p->hi}, .w = w};
  a.out_c = p->out_c;
  a.blocks = (p->in_c + 15) >> 4;
  for (int32_t row = 0; row < p->rows; ++row) {
    a.x = input + row * p->in_c;
    a.out = output + row * p->out_c;
    if (p->in_c & 15) {
      ek_mve_copy(scratch, a.x, p->in_c);
      a.x = scratch;
    }
    p->dense(&a);
  }
}
