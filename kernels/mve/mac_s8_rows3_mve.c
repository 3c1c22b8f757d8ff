/* Four pixels by two channels, 3x3 windows over rows of blocks (ek_mve.h). */
#include "ek_mve.h"

#if EK_MVE_ASM
#include "ek_mve_asm.h"

#define X(q, o) EK_LOAD(q, "[r1,#" #o "]")
#define NEXT_ROW "add r1,r1,r3\n"

/* Half a tap: the first channel's weights in q4, the second's in q5; l*: loads that stand between. */
#define FIRST(x0, x1, x2, x3, l0, l1, l2)                                               \
  EK_MAC("r0", x0, "q4") l0 EK_MAC("r2", x1, "q4") l1 EK_MAC("r4", x2, "q4") l2         \
  EK_MAC("r6", x3, "q4")
#define SECOND(x0, x1, x2, x3, l1, l2, l3)                                              \
  EK_MAC("r8", x0, "q5") l1 EK_MAC("r10", x1, "q5") l2 EK_MAC("r12", x2, "q5") l3       \
  EK_MAC("lr", x3, "q5")

/* A row; pixel 0 is already in a, the weights in q4. Stride 1: pixels 0 .. 5; the last tap has its
 * pixels in c d a b. */
#define ROW_S1(a, b, c, d)                                                              \
  FIRST(a, b, c, d, X(b, 16), X(c, 32), X(d, 48)) EK_NEXT("q5")                         \
  SECOND(a, b, c, d, EK_NEXT("q4"), X(a, 64), )                                         \
  FIRST(b, c, d, a, EK_NEXT("q5"), , ) SECOND(b, c, d, a, EK_NEXT("q4"), X(b, 80), )    \
  FIRST(c, d, a, b, EK_NEXT("q5"), , ) NEXT_ROW
/* Stride 2: pixels 0 .. 8, taps 0, 2, 1; the last has its pixels in b c d a. */
#define ROW_S2(a, b, c, d)                                                              \
  FIRST(a, b, c, d, X(b, 32), X(c, 64), X(d, 96)) EK_NEXT("q5")                         \
  SECOND(a, b, c, d, EK_NEXT("q4"), X(a, 128), )                                        \
  FIRST(b, c, d, a, EK_NEXT("q5"), , ) SECOND(b, c, d, a, EK_NEXT("q4"), X(b, 16), X(c, 48)) \
  FIRST(b, c, d, a, X(d, 80), EK_NEXT("q5"), X(a, 112)) NEXT_ROW

/* The end of a row, before another one; of the last row of a block; of all. */
#define ROWS_S1(last)                                                                   \
  ROW_S1("q0", "q1", "q2", "q3") SECOND("q2", "q3", "q0", "q1", EK_NEXT("q4"), X("q2", 0), ) \
  ROW_S1("q2", "q3", "q0", "q1") SECOND("q0", "q1", "q2", "q3", EK_NEXT("q4"), X("q0", 0), ) \
  ROW_S1("q0", "q1", "q2", "q3") last("q2", "q3", "q0", "q1")
#define ROWS_S2(last)                                                                   \
  ROW_S2("q0", "q1", "q2", "q3") SECOND("q1", "q2", "q3", "q0", EK_NEXT("q4"), X("q1", 0), ) \
  ROW_S2("q1", "q2", "q3", "q0") SECOND("q2", "q3", "q0", "q1", EK_NEXT("q4"), X("q2", 0), ) \
  ROW_S2("q2", "q3", "q0", "q1") last("q3", "q0", "q1", "q2")
#define BLOCK_END(x0, x1, x2, x3)                                                       \
  "subs r5,r5,#1\n beq.w 4f\n"                                                   \
  SECOND(x0, x1, x2, x3, EK_NEXT("q4"), , ) X("q0", 0) "b.w 3b\n"                       \
  "4:\n" EK_MVE_LAST_MACS(x0, x1, x2, x3)

/* x in r1, row step in r3, blocks left in r5, the group's x in r7, quads left in r11. Frame: 0 blocks,
 * 4 a, 8 groups left, 12 next x, 16 next out. */
#define WINDOW(rows)                                                                    \
  "mov r1,r7\n ldr r5,[sp,#0]\n" EK_MVE_BIAS X("q0", 0) "3:\n" rows(BLOCK_END)

/* second: where the last row leaves the second channel. */
#define ROWS(rows, second, finish)                                                      \
  __asm__ volatile(                                                                     \
      EK_MVE_SAVE "sub sp,sp,#20\n"                                                     \
      "str r0,[sp,#4]\n ldr r3,[r0,#4]\n ldr r1,[r0,#0]\n str r1,[sp,#12]\n"            \
      "ldr r1,[r0,#12]\n str r1,[sp,#16]\n ldr r1,[r0,#24]\n str r1,[sp,#8]\n"          \
      "ldr r1,[r0,#36]\n str r1,[sp,#0]\n"                                              \
      "1:\n ldr r11,[sp,#4]\n ldr r7,[sp,#12]\n ldr r0,[r11,#8]\n add r0,r0,r7\n"       \
      "str r0,[sp,#12]\n ldr r2,[sp,#16]\n ldrd r6,r8,[r11,#16]\n add r8,r8,r2\n"       \
      "str r8,[sp,#16]\n" EK_MVE_OUT_ADDRESSES "ldrd r9,r11,[r11,#28]\n" EK_NEXT("q4")  \
      "2:\n" WINDOW(rows) EK_MVE_PAIR_PARAMS EK_MVE_SCALE_##finish(second, "q7")        \
      WINDOW(rows) EK_MVE_QUAD_PARAMS_##finish EK_MVE_SCALE_##finish(second, "q1")      \
      EK_MVE_STORE_##finish                                                             \
      "subs r11,r11,#1\n bne.w 2b\n"                                                    \
      "ldr r0,[sp,#8]\n subs r0,r0,#1\n str r0,[sp,#8]\n bne.w 1b\n"                    \
      "add sp,sp,#20\n" EK_MVE_RETURN)

#define FUNCTIONS(finish, name)                                                         \
  EK_MVE_NAKED void ek_mve_rows3_s1_##name(const ek_mve_mac *a EK_MVE_ARG) {            \
    ROWS(ROWS_S1, "q2", finish);                                                               \
  }                                                                                     \
  EK_MVE_NAKED void ek_mve_rows3_s2_##name(const ek_mve_mac *a EK_MVE_ARG) {            \
    ROWS(ROWS_S2, "q3", finish);                                                               \
  }

#else
#include "ek_mve_portable.h"

static void rows(const ek_mve_mac *a, int stride, int is_signed, int clamped) {
  static const uint8_t order[2][3] = {{0, 1, 2}, {0, 2, 1}};
  for (int g = 0; g < a->groups; ++g) {
    const uint8_t *w = a->w;
    for (int quad = 0; quad < a->quads; ++quad) {
      int32_t acc[2][2][4], params[2][4];
      for (int pair = 0; pair < 2; ++pair) {
        ek_mve_bias(w, acc[pair]);
        for (int row = 0; row < 3 * a->blocks; ++row) {
          const int8_t *x = a->x + g * a->x_group + row * a->x_step;
          for (int tap = 0; tap < 3; ++tap) {
            const int8_t *first = x + 16 * order[stride - 1][tap];
            for (int px = 0; px < 4; ++px) {
              ek_mve_step(first + 16 * stride * px, w, 3 * row + tap, acc[pair], px);
            }
          }
        }
        w += 32 + 32 * 9 * a->blocks;
        w = ek_mve_params(w, params[pair]);
      }
      w = ek_mve_store(a, g, quad, w, acc, params, is_signed, clamped);
    }
  }
}

#define FUNCTIONS(finish, name)                                                         \
  void ek_mve_rows3_s1_##name(const ek_mve_mac *a) { rows(a, 1, EK_MVE_##finish); }     \
  void ek_mve_rows3_s2_##name(const ek_mve_mac *a) { rows(a, 2, EK_MVE_##finish); }
#endif

FUNCTIONS(PLAIN, plain)
FUNCTIONS(SIGNED, signed)
FUNCTIONS(CLAMPED, clamped)
