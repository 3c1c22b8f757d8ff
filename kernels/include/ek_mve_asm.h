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

/* The accumulators become vectors while the last multiplications run: x0 .. x3 with the second channel's
 * weights in q5. First channel to q4, second to x0. (VMOV takes the lower lane's register first.) */
#define EK_MVE_LAST_MACS(x0, x1, x2, x3)                                                \
  EK_MAC("r8", x0, "q5") "vmov q4[2],q4[0],r0,r4\n"                                     \
  EK_MAC("r10", x1, "q5") "vmov q4[3],q4[1],r2,r6\n"                                    \
  EK_MAC("r12", x2, "q5") "vmov " x0 "[2]," x0 "[0],r8,r12\n"                           \
  EK_MAC("lr", x3, "q5") "vmov " x0 "[3]," x0 "[1],r10,lr\n"

/* q4 by r0 and 2^r2, b by r4 and 2^r6, to the halfwords of to: q4's below, b's above. Uses q5, and
 * loads q4 for the next pair on the way, while nothing else does. */
#define EK_MVE_SCALE_PLAIN(b, to)                                                       \
  "vqrdmulh.s32 q4,q4,r0\n vqrdmulh.s32 " b "," b ",r4\n"                               \
  "vrshl.s32 q4,r2\n vrshl.s32 " b ",r6\n"                                              \
  "vqmovunb.s32 " to ",q4\n" EK_NEXT("q4") "vqmovunt.s32 " to "," b "\n"
#define EK_MVE_SCALE_SIGNED(b, to)                                                      \
  "vshr.s32 q5,q4,#31\n vqrdmlah.s32 q5,q4,r0\n"                                        \
  "vshr.s32 q4," b ",#31\n vqrdmlah.s32 q4," b ",r4\n"                                  \
  "vrshl.s32 q4,r6\n vrshl.s32 q5,r2\n"                                                 \
  "vqmovnt.s32 " to ",q4\n" EK_NEXT("q4") "vqmovnb.s32 " to ",q5\n"
#define EK_MVE_SCALE_CLAMPED(b, to) EK_MVE_SCALE_SIGNED(b, to)

/* q7 has channels (0, 2), q1 channels (1, 3): a word of q0 is the four bytes of a pixel, stored
 * through the addresses in q6. plain: unsigned until the zero point, -128, is added modulo 256. */
#define EK_MVE_STORE_PLAIN                                                              \
  "vqmovnb.u16 q0,q7\n vqmovnt.u16 q0,q1\n vadd.i8 q0,q0,r8\n vstrw.32 q0,[q6,#4]!\n"
#define EK_MVE_STORE_SIGNED                                                             \
  "vqadd.s16 q7,q7,r8\n vqadd.s16 q1,q1,r8\n"                                           \
  "vqmovnb.s16 q0,q7\n vqmovnt.s16 q0,q1\n vstrw.32 q0,[q6,#4]!\n"
#define EK_MVE_STORE_CLAMPED                                                            \
  "vqadd.s16 q7,q7,r8\n vqadd.s16 q1,q1,r8\n"                                           \
  "vqmovnb.s16 q0,q7\n vqmovnt.s16 q0,q1\n"                                             \
  "vdup.8 q2,r10\n vdup.8 q3,r12\n vmax.s8 q0,q0,q2\n vmin.s8 q0,q0,q3\n"               \
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
