/* Pieces of Helium assembly that the kernels share. Only for builds with EK_MVE_ASM.
 *
 * All instructions of a step are four bytes long: chains of steps are entered in the middle. Loads
 * stand between multiplications, since the two overlap.
 */
#ifndef EK_MVE_ASM_H
#define EK_MVE_ASM_H

/* Compilers do not see what such a function reads: gcc must not conclude that it is nothing. */
#ifdef __clang__
#define EK_MVE_NAKED __attribute__((naked, noinline))
#else
#define EK_MVE_NAKED __attribute__((naked, noipa))
#endif
#define EK_MVE_ARG __attribute__((unused))

#define EK_MVE_SAVE "push {r4-r11,lr}\n vpush {d8-d15}\n"
#define EK_MVE_RETURN "vpop {d8-d15}\n pop {r4-r11,pc}\n"

#define EK_MAC(acc, x, w) "vmladava.s8 " acc "," x "," w "\n"
#define EK_LOAD(q, at) "vldrw.u32 " q "," at "\n"
#define EK_NEXT(q) "vldrw.u32 " q ",[r9],#16\n"

/* Eight accumulators: r0 r2 r4 r6 are pixels 0 to 3 of the first channel, r8 r10 r12 lr of the second. */
#define EK_MVE_BIAS "ldm r9!,{r0,r2,r4,r6,r8,r10,r12,lr}\n"

/* VMOV of two registers takes the lower lane's register first.
 * The accumulators as q0 (first channel) and q1 (second). */
#define EK_MVE_TO_VECTORS                                                     \
  "vmov q0[2],q0[0],r0,r4\n vmov q0[3],q0[1],r2,r6\n"                         \
  "vmov q1[2],q1[0],r8,r12\n vmov q1[3],q1[1],r10,lr\n"

/* q0 by r0 and 2^r2, q1 by r4 and 2^r6, to the halfwords of to: q0's below, q1's above. */
#define EK_MVE_SCALE_PLAIN(to)                                                \
  "vqrdmulh.s32 q0,q0,r0\n vqrdmulh.s32 q1,q1,r4\n"                           \
  "vrshl.s32 q0,r2\n vrshl.s32 q1,r6\n"                                       \
  "vqmovnb.s32 " to ",q0\n vqmovnt.s32 " to ",q1\n"
#define EK_MVE_SCALE_SIGNED(to)                                               \
  "vshr.s32 q2,q0,#31\n vqrdmlah.s32 q2,q0,r0\n"                              \
  "vshr.s32 q3,q1,#31\n vqrdmlah.s32 q3,q1,r4\n"                              \
  "vrshl.s32 q2,r2\n vrshl.s32 q3,r6\n"                                       \
  "vqmovnb.s32 " to ",q2\n vqmovnt.s32 " to ",q3\n"
#define EK_MVE_SCALE_CLAMPED(to) EK_MVE_SCALE_SIGNED(to)

/* q7 has channels (0, 2), q4 channels (1, 3): a word of q0 is the four bytes of a pixel, stored
 * through the addresses in q6. */
#define EK_MVE_STORE_PLAIN                                                    \
  "vqadd.s16 q7,q7,r8\n vqadd.s16 q4,q4,r8\n"                                 \
  "vqmovnb.s16 q0,q7\n vqmovnt.s16 q0,q4\n"                                   \
  "vstrw.32 q0,[q6,#4]!\n"
#define EK_MVE_STORE_SIGNED EK_MVE_STORE_PLAIN
#define EK_MVE_STORE_CLAMPED                                                  \
  "vqadd.s16 q7,q7,r8\n vqadd.s16 q4,q4,r8\n"                                 \
  "vqmovnb.s16 q0,q7\n vqmovnt.s16 q0,q4\n"                                   \
  "vdup.8 q1,r10\n vdup.8 q2,r12\n vmax.s8 q0,q0,q1\n vmin.s8 q0,q0,q2\n"     \
  "vstrw.32 q0,[q6,#4]!\n"

#define EK_MVE_PAIR_PARAMS "ldm r9!,{r0,r2,r4,r6}\n"
#define EK_MVE_QUAD_PARAMS_PLAIN "ldm r9!,{r0,r2,r4,r6,r8}\n"
#define EK_MVE_QUAD_PARAMS_SIGNED EK_MVE_QUAD_PARAMS_PLAIN
#define EK_MVE_QUAD_PARAMS_CLAMPED "ldm r9!,{r0,r2,r4,r6,r8,r10,r12}\n"

/* Addresses of the group's four pixels less 4 to q6: first in r2, step in r6. Uses r4, r8, r10. */
#define EK_MVE_OUT_ADDRESSES                                                  \
  "sub r2,r2,#4\n add r4,r2,r6\n add r8,r4,r6\n add r10,r8,r6\n"              \
  "vmov q6[2],q6[0],r2,r8\n vmov q6[3],q6[1],r4,r10\n"

#endif
