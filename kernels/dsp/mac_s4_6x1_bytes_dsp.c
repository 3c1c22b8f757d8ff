/* 6 outputs x 1 column of raw input bytes, 4-bit weights: 66 instructions for 48 multiplications
 * (ek_dsp_lowbit.h). */
#include "ek_dsp_lowbit.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

/* r1 weights, r2 x; x words in r0, r3, r10, r11; sums in r4-r9. */
#define INPUTS(even, mixed) \
  "  ldr " even ", [r2], #4\n" \
  "  sxtb16 " mixed ", " even ", ror #8\n" \
  "  sxtb16 " even ", " even "\n" \
  "  bic " mixed ", " mixed ", #0xf000f000\n" \
  "  lsl " mixed ", " mixed ", #4\n" \
  "  ssub16 " mixed ", " mixed ", " even "\n"

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
    ".section .text.ek_mac_s4_6x1_bytes_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_mac_s4_6x1_bytes_dsp\n"
    ".type ek_mac_s4_6x1_bytes_dsp, %function\n"
    ".thumb_func\n"
    "ek_mac_s4_6x1_bytes_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  add r12, r2, r3, lsl #3\n" /* end of x */
    "  push {r0, r12}\n"
    "  ldmia r0, {r4-r9}\n"
    "1:\n"
    INPUTS("r0", "r3")
    INPUTS("r10", "r11")
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
    ".size ek_mac_s4_6x1_bytes_dsp, .-ek_mac_s4_6x1_bytes_dsp\n"
    ".text\n");

#else

void ek_mac_s4_6x1_bytes_dsp(int32_t *acc, const uint8_t *w, const int8_t *in, uint32_t blocks) {
  for (; blocks > 0; --blocks, w += 24, in += 8) {
    uint32_t x[4];
    (void)ek_s4_inputs(x, ek_load32(in), ek_load32(in + 4), 0);
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
