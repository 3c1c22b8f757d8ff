/* Four pixels by two channels over contiguous input values (ek_mve.h). */
#include "ek_mve.h"

#if EK_MVE_ASM
#include "ek_mve_asm.h"

/* Sixteen values of four pixels (q0 .. q3) and two channels (q4, already loaded, and q5); 56 bytes of
 * code. It loads q4 for the next step. */
#define STEP(x0, x1, x2, x3)                                                            \
  EK_LOAD("q0", x0) EK_MAC("r0", "q0", "q4") EK_LOAD("q1", x1) EK_MAC("r2", "q1", "q4") \
  EK_LOAD("q2", x2) EK_MAC("r4", "q2", "q4") EK_LOAD("q3", x3) EK_MAC("r6", "q3", "q4") \
  EK_NEXT("q5") EK_MAC("r8", "q0", "q5") EK_NEXT("q4") EK_MAC("r10", "q1", "q5")        \
  EK_MAC("r12", "q2", "q5") EK_MAC("lr", "q3", "q5")
#define AT(o) STEP("[r1,#" #o "]", "[r3,#" #o "]", "[r5,#" #o "]", "[r7,#" #o "]")
#define ON STEP("[r1],#16", "[r3],#16", "[r5],#16", "[r7],#16")
/* The last step, with the way to vectors. */
#define LAST(o)                                                                         \
  EK_LOAD("q0", "[r1,#" #o "]") EK_MAC("r0", "q0", "q4") EK_LOAD("q1", "[r3,#" #o "]")  \
  EK_MAC("r2", "q1", "q4") EK_LOAD("q2", "[r5,#" #o "]") EK_MAC("r4", "q2", "q4")       \
  EK_LOAD("q3", "[r7,#" #o "]") EK_MAC("r6", "q3", "q4") EK_NEXT("q5")                  \
  EK_MVE_LAST_MACS("q0", "q1", "q2", "q3")

#define STEPS1 LAST(0)
#define STEPS2 AT(0) LAST(16)
#define STEPS3 AT(0) AT(16) LAST(32)
#define STEPS4 AT(0) AT(16) AT(32) LAST(48)
#define STEPS5 AT(0) AT(16) AT(32) AT(48) LAST(64)
#define STEPS6 AT(0) AT(16) AT(32) AT(48) AT(64) LAST(80)
#define STEPS7 AT(0) AT(16) AT(32) AT(48) AT(64) AT(80) LAST(96)
#define STEPS8 AT(0) AT(16) AT(32) AT(48) AT(64) AT(80) AT(96) LAST(112)

/* Frame: 4 a, 8 groups left, 12 x, 16 out; long also 0 and 20 entries of the two chains, 24 passes of
 * the loop, 28 quads left, 32 bytes of a pixel. */
#define ENTER                                                                           \
  "str r0,[sp,#4]\n ldr r2,[r0,#0]\n str r2,[sp,#12]\n ldr r2,[r0,#24]\n"               \
  "str r2,[sp,#8]\n ldr r2,[r0,#12]\n str r2,[sp,#16]\n"

/* Pointers of the next group: pixels to r1 r3 r5 r7, weights to r9, quads to r11. */
#define GROUP                                                                           \
  "ldr r11,[sp,#4]\n ldr r1,[sp,#12]\n ldrd r0,r4,[r11,#4]\n"                           \
  "add r3,r1,r0\n add r5,r3,r0\n add r7,r5,r0\n add r4,r4,r1\n str r4,[sp,#12]\n"       \
  "ldr r2,[sp,#16]\n ldrd r6,r8,[r11,#16]\n add r8,r8,r2\n str r8,[sp,#16]\n"           \
  EK_MVE_OUT_ADDRESSES "ldrd r9,r11,[r11,#28]\n" EK_NEXT("q4")
#define NEXT_GROUP "ldr r0,[sp,#8]\n subs r0,r0,#1\n str r0,[sp,#8]\n bne.w 1b\n"

#define SHORT(steps, finish)                                                            \
  __asm__ volatile(                                                                     \
      EK_MVE_SAVE "sub sp,sp,#20\n" ENTER "1:\n" GROUP                                  \
      "2:\n" EK_MVE_BIAS steps                                                          \
      EK_MVE_PAIR_PARAMS EK_MVE_SCALE_##finish("q0", "q7")                              \
      EK_MVE_BIAS steps                                                                 \
      EK_MVE_QUAD_PARAMS_##finish EK_MVE_SCALE_##finish("q0", "q1")                     \
      EK_MVE_STORE_##finish                                                             \
      "subs r11,r11,#1\n bne.w 2b\n" NEXT_GROUP "add sp,sp,#20\n" EK_MVE_RETURN)

/* The loop runs four steps a pass and is entered in the middle; it has loaded q4 once too often. */
#define LOOP(end)                                                                       \
  EK_MVE_BIAS "ldr r11,[sp,#24]\n ldr pc,[sp,#" end "]\n"                 \
  "3:\n" ON ON ON ON "9" end ":\n subs r11,r11,#1\n bne.w 3b\n"                         \
  "vmov q4[2],q4[0],r0,r4\n vmov q4[3],q4[1],r2,r6\n"                                   \
  "vmov q0[2],q0[0],r8,r12\n vmov q0[3],q0[1],r10,lr\n sub r9,r9,#16\n"
#define BACK "ldr r11,[sp,#32]\n sub r1,r1,r11\n sub r3,r3,r11\n sub r5,r5,r11\n sub r7,r7,r11\n"

#define LONG(finish)                                                                    \
  __asm__ volatile(                                                                     \
      EK_MVE_SAVE "sub sp,sp,#36\n" ENTER                                               \
      "ldr r1,[r0,#36]\n lsl r2,r1,#4\n str r2,[sp,#32]\n"                              \
      "sub r1,r1,#1\n lsr r2,r1,#2\n add r2,r2,#1\n str r2,[sp,#24]\n"                  \
      "and r1,r1,#3\n add r1,r1,#1\n mov r2,#56\n mul r1,r1,r2\n"                       \
      "adr.w r2,90f\n sub r2,r2,r1\n orr r2,r2,#1\n str r2,[sp,#0]\n"                   \
      "adr.w r2,920f\n sub r2,r2,r1\n orr r2,r2,#1\n str r2,[sp,#20]\n"                 \
      "1:\n" GROUP "str r11,[sp,#28]\n"                                                 \
      "2:\n" LOOP("0") EK_MVE_PAIR_PARAMS EK_MVE_SCALE_##finish("q0", "q7") BACK        \
      LOOP("20") EK_MVE_QUAD_PARAMS_##finish EK_MVE_SCALE_##finish("q0", "q1")          \
      EK_MVE_STORE_##finish BACK                                                        \
      "ldr r0,[sp,#28]\n subs r0,r0,#1\n str r0,[sp,#28]\n bne.w 2b\n" NEXT_GROUP       \
      "add sp,sp,#36\n" EK_MVE_RETURN)

#define EXACT(n, finish, name)                                                          \
  EK_MVE_NAKED void ek_mve_mac_##n##_##name(const ek_mve_mac *a EK_MVE_ARG) {           \
    SHORT(STEPS##n, finish);                                                            \
  }
#define ANY(finish, name)                                                               \
  EK_MVE_NAKED void ek_mve_mac_long_##name(const ek_mve_mac *a EK_MVE_ARG) {            \
    LONG(finish);                                                                       \
  }

#else
#include "ek_mve_portable.h"

static void mac(const ek_mve_mac *a, int is_signed, int clamped) {
  for (int g = 0; g < a->groups; ++g) {
    const uint8_t *w = a->w;
    for (int quad = 0; quad < a->quads; ++quad) {
      int32_t acc[2][2][4], params[2][4];
      for (int pair = 0; pair < 2; ++pair) {
        ek_mve_bias(w, acc[pair]);
        for (int b = 0; b < a->blocks; ++b) {
          for (int px = 0; px < 4; ++px) {
            const int8_t *x = a->x + g * a->x_group + px * a->x_step + 16 * b;
            ek_mve_step(x, w, b, acc[pair], px);
          }
        }
        w += 32 + 32 * a->blocks;
        w = ek_mve_params(w, params[pair]);
      }
      w = ek_mve_store(a, g, quad, w, acc, params, is_signed, clamped);
    }
  }
}

#define EXACT(n, finish, name)                                                          \
  void ek_mve_mac_##n##_##name(const ek_mve_mac *a) { mac(a, EK_MVE_##finish); }
#define ANY(finish, name)                                                               \
  void ek_mve_mac_long_##name(const ek_mve_mac *a) { mac(a, EK_MVE_##finish); }
#endif

#define FUNCTIONS(finish, name)                                                         \
  EXACT(1, finish, name)                                                                \
  EXACT(2, finish, name)                                                                \
  EXACT(3, finish, name)                                                                \
  EXACT(4, finish, name)                                                                \
  EXACT(5, finish, name)                                                                \
  EXACT(6, finish, name)                                                                \
  EXACT(7, finish, name)                                                                \
  EXACT(8, finish, name)                                                                \
  ANY(finish, name)

FUNCTIONS(PLAIN, plain)
FUNCTIONS(SIGNED, signed)
FUNCTIONS(CLAMPED, clamped)
