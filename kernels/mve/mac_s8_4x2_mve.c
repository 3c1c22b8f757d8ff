/* Four pixels by two channels over contiguous input values (ek_mve.h). */
#include "ek_mve.h"

#if EK_MVE_ASM
#include "ek_mve_asm.h"

/* Sixteen values of four pixels (q0 .. q3) and two channels (q4, q5); 56 bytes of code. */
#define STEP(x0, x1, x2, x3)                                                            \
  EK_LOAD("q0", x0) EK_NEXT("q4") EK_MAC("r0", "q0", "q4") EK_NEXT("q5")                \
  EK_MAC("r8", "q0", "q5") EK_LOAD("q1", x1) EK_MAC("r2", "q1", "q4")                   \
  EK_MAC("r10", "q1", "q5") EK_LOAD("q2", x2) EK_MAC("r4", "q2", "q4")                  \
  EK_MAC("r12", "q2", "q5") EK_LOAD("q3", x3) EK_MAC("r6", "q3", "q4")                  \
  EK_MAC("lr", "q3", "q5")
#define STEP_AT(o) STEP("[r1,#" o "]", "[r3,#" o "]", "[r5,#" o "]", "[r7,#" o "]")
#define STEP_ON STEP("[r1],#16", "[r3],#16", "[r5],#16", "[r7],#16")

/* Ends at the label; entered so many steps before it as there are blocks. */
#define CHAIN(end)                                                                      \
  STEP_AT("0") STEP_AT("16") STEP_AT("32") STEP_AT("48")                                \
  STEP_AT("64") STEP_AT("80") STEP_AT("96") STEP_AT("112") end ":\n"

/* Frame: 0 and 20 entries of the two chains, 4 a, 8 groups left, 12 x, 16 out; long also
 * 24 passes of the loop, 28 quads left, 32 bytes of a pixel. r0 is a, r1 the steps to enter with. */
#define ENTER                                                                           \
  "mov r2,#56\n mul r1,r1,r2\n str r0,[sp,#4]\n"                                        \
  "adr.w r2,91f\n sub r2,r2,r1\n orr r2,r2,#1\n str r2,[sp,#0]\n"                       \
  "adr.w r2,92f\n sub r2,r2,r1\n orr r2,r2,#1\n str r2,[sp,#20]\n"                      \
  "ldr r1,[r0,#24]\n str r1,[sp,#8]\n ldr r1,[r0,#12]\n str r1,[sp,#16]\n"

/* Pointers of the next group: pixels to r1 r3 r5 r7, weights to r9, quads to r11. */
#define GROUP                                                                           \
  "ldr r11,[sp,#4]\n ldr r1,[sp,#12]\n ldrd r0,r4,[r11,#4]\n"                           \
  "add r3,r1,r0\n add r5,r3,r0\n add r7,r5,r0\n add r4,r4,r1\n str r4,[sp,#12]\n"       \
  "ldr r2,[sp,#16]\n ldrd r6,r8,[r11,#16]\n add r8,r8,r2\n str r8,[sp,#16]\n"           \
  EK_MVE_OUT_ADDRESSES "ldrd r9,r11,[r11,#28]\n"
#define NEXT_GROUP "ldr r0,[sp,#8]\n subs r0,r0,#1\n str r0,[sp,#8]\n bne.w 1b\n"

#define SHORT(finish)                                                                   \
  __asm__ volatile(                                                                     \
      EK_MVE_SAVE "sub sp,sp,#28\n"                                                     \
      "ldr r1,[r0,#36]\n rsb r2,r1,#8\n lsl r2,r2,#4\n ldr r3,[r0,#0]\n"                \
      "sub r3,r3,r2\n str r3,[sp,#12]\n" ENTER                                          \
      "1:\n" GROUP                                                                      \
      "2:\n" EK_MVE_BIAS "ldr pc,[sp,#0]\n" CHAIN("91")                                 \
      EK_MVE_TO_VECTORS EK_MVE_PAIR_PARAMS EK_MVE_SCALE_##finish("q7")                  \
      EK_MVE_BIAS "ldr pc,[sp,#20]\n" CHAIN("92")                                       \
      EK_MVE_TO_VECTORS EK_MVE_QUAD_PARAMS_##finish EK_MVE_SCALE_##finish("q4")         \
      EK_MVE_STORE_##finish                                                             \
      "subs r11,r11,#1\n bne.w 2b\n" NEXT_GROUP                                         \
      "add sp,sp,#28\n" EK_MVE_RETURN)

#define BACK "ldr r11,[sp,#32]\n sub r1,r1,r11\n sub r3,r3,r11\n sub r5,r5,r11\n sub r7,r7,r11\n"
#define LOOP(end)                                                                       \
  "3:\n" STEP_ON STEP_ON STEP_ON STEP_ON end ":\n subs r11,r11,#1\n bne.w 3b\n"

#define LONG(finish)                                                                    \
  __asm__ volatile(                                                                     \
      EK_MVE_SAVE "sub sp,sp,#36\n"                                                     \
      "ldr r1,[r0,#36]\n lsl r2,r1,#4\n str r2,[sp,#32]\n ldr r3,[r0,#0]\n"             \
      "str r3,[sp,#12]\n sub r1,r1,#1\n lsr r2,r1,#2\n add r2,r2,#1\n str r2,[sp,#24]\n" \
      "and r1,r1,#3\n add r1,r1,#1\n" ENTER                                             \
      "1:\n" GROUP "str r11,[sp,#28]\n"                                                 \
      "2:\n" EK_MVE_BIAS "ldr r11,[sp,#24]\n ldr pc,[sp,#0]\n" LOOP("91")               \
      EK_MVE_TO_VECTORS EK_MVE_PAIR_PARAMS EK_MVE_SCALE_##finish("q7") BACK             \
      EK_MVE_BIAS "ldr r11,[sp,#24]\n ldr pc,[sp,#20]\n" LOOP("92")                     \
      EK_MVE_TO_VECTORS EK_MVE_QUAD_PARAMS_##finish EK_MVE_SCALE_##finish("q4")         \
      EK_MVE_STORE_##finish BACK                                                        \
      "ldr r0,[sp,#28]\n subs r0,r0,#1\n str r0,[sp,#28]\n bne.w 2b\n" NEXT_GROUP       \
      "add sp,sp,#36\n" EK_MVE_RETURN)

#define FUNCTIONS(finish, name)                                                         \
  EK_MVE_NAKED void ek_mve_mac_short_##name(const ek_mve_mac *a EK_MVE_ARG) {           \
    SHORT(finish);                                                                      \
  }                                                                                     \
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
        w = ek_mve_bias(w, acc[pair]);
        for (int b = 0; b < a->blocks; ++b, w += 32) {
          for (int px = 0; px < 4; ++px) {
            const int8_t *x = a->x + g * a->x_group + px * a->x_step + 16 * b;
            ek_mve_step(x, w, acc[pair], px);
          }
        }
        w = ek_mve_params(w, params[pair]);
      }
      w = ek_mve_store(a, g, quad, w, acc, params, is_signed, clamped);
    }
  }
}

#define FUNCTIONS(finish, name)                                                         \
  void ek_mve_mac_short_##name(const ek_mve_mac *a) { mac(a, EK_MVE_##finish); }        \
  void ek_mve_mac_long_##name(const ek_mve_mac *a) { mac(a, EK_MVE_##finish); }
#endif

FUNCTIONS(PLAIN, plain)
FUNCTIONS(SIGNED, signed)
FUNCTIONS(CLAMPED, clamped)
