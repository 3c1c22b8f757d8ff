/* Stored blocks of one output channel by four columns: 16 instructions for 16 multiplications
 * (ek_sparse.h). Compilers load a column word at a time; the C form is the definition. */
#include "ek_simd.h"
#include "ek_sparse.h"

#if EK_SIMD_ASM

/* r0 columns, r1 gaps, r2 weights, r3 their end; sums in r4-r7. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_mac_s8_1x4_sparse_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_mac_s8_1x4_sparse_dsp\n"
    ".type ek_mac_s8_1x4_sparse_dsp, %function\n"
    ".thumb_func\n"
    "ek_mac_s8_1x4_sparse_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  push {r0, r1}\n"
    "  ldmia r0, {r4-r7}\n"
    "  ldmia r1, {r0, r1, r2, r3}\n"
    "1:\n"
    "  ldrb r8, [r1], #1\n"
    "  ldr r9, [r2], #4\n"
    "  add r0, r0, r8, lsl #5\n"
    "  ldmia.w r0, {r10, r11, r12, lr}\n"
    "  smlad r4, r9, r10, r4\n"
    "  smlad r5, r9, r11, r5\n"
    "  smlad r6, r9, r12, r6\n"
    "  smlad r7, r9, lr, r7\n"
    "  sxtb16 r9, r9\n"
    "  ldrd r10, r11, [r0, #16]\n"
    "  ldrd r12, lr, [r0, #24]\n"
    "  smlad r4, r9, r10, r4\n"
    "  smlad r5, r9, r11, r5\n"
    "  smlad r6, r9, r12, r6\n"
    "  smlad r7, r9, lr, r7\n"
    "  cmp r2, r3\n"
    "  bne 1b\n"
    "  pop {r0, r3}\n"
    "  stmia r0, {r4-r7}\n"
    "  strd r1, r2, [r3, #4]\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_mac_s8_1x4_sparse_dsp, .-ek_mac_s8_1x4_sparse_dsp\n"
    ".text\n");

#else

void ek_mac_s8_1x4_sparse_dsp(int32_t *acc, ek_sparse_run *run) {
  const uint32_t *x = run->columns;
  do {
    const uint32_t four = *run->weights++, even = ek_sxtb16(four);
    x += 8 * *run->gaps++;
    for (int i = 0; i < 4; ++i) {
      acc[i] = ek_smlad(four, x[i], acc[i]);
      acc[i] = ek_smlad(even, x[4 + i], acc[i]);
    }
  } while (run->weights != run->end);
}

#endif
