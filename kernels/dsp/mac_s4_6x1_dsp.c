/* 6 outputs x 1 column, 4-bit weights: 55 instructions for 48 multiplications (ek_dsp_lowbit.h). */
#include "ek_dsp_lowbit.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

/* r1 weights, r2 x; x words in r0, r3, r10, r11; sums in r4-r9. */
#define OUTPUT(acc) \
  "  ldr r12, [r1], #4\n" \
  "  sxtb16 lr, r12\n" \
  "  smlad " acc ", lr, r0, " acc "\n" \
  "  and lr, r12, #0x000f000f\n" \
  "  smlad " acc ", lr, r3, " acc "\n" \
  "  sxtb16 r12, r12, ror #8\n" \
  "  smlad " acc ", r12, r10, " acc "\n" \
  "  and r12, r12, #0x000f000f\n" \
  "  smlad " acc ", r12, r11, " acc "\n"

__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_mac_s4_6x1_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_mac_s4_6x1_dsp\n"
    ".type ek_mac_s4_6x1_dsp, %function\n"
    ".thumb_func\n"
    "ek_mac_s4_6x1_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  add r12, r2, r3, lsl #4\n" /* end of x */
    "  push {r0, r12}\n"
    "  ldmia r0, {r4-r9}\n"
    "1:\n"
    "  ldmia r2!, {r0, r3, r10, r11}\n"
    OUTPUT("r4")
    OUTPUT("r5")
    OUTPUT("r6")
    OUTPUT("r7")
    OUTPUT("r8")
    OUTPUT("r9")
    "  ldr r0, [sp, #4]\n"
    "  cmp r2, r0\n"
    "  bne 1b\n"
    "  pop {r0, r12}\n"
    "  stmia r0, {r4-r9}\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_mac_s4_6x1_dsp, .-ek_mac_s4_6x1_dsp\n"
    ".text\n");

#else

void ek_mac_s4_6x1_dsp(int32_t *acc, const uint8_t *w, const uint32_t *x, uint32_t blocks) {
  for (; blocks > 0; --blocks, w += 24, x += 4) {
    for (int i = 0; i < 6; ++i) {
      const uint32_t word = ek_load32(w + 4 * i), odd = ek_sxtb16_ror8(word);
      acc[i] = ek_smlad(ek_sxtb16(word), x[0], acc[i]);
      acc[i] = ek_smlad(word & 0x000f000fu, x[1], acc[i]);
      acc[i] = ek_smlad(odd, x[2], acc[i]);
      acc[i] = ek_smlad(odd & 0x000f000fu, x[3], acc[i]);
    }
  }
}

#endif
