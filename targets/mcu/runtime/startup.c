/* Reset, vectors and faults of a Cortex-M, for the runner only: a product has its own.
 *
 * Symbols of the linker script: ek_stack_limit, ek_stack_top, ek_data_load, ek_data_start,
 * ek_data_end, ek_bss_start, ek_bss_end (all word aligned).
 */
#include <stdint.h>

extern uint32_t ek_stack_top[];
extern uint32_t ek_data_load[], ek_data_start[], ek_data_end[], ek_bss_start[], ek_bss_end[];

void Reset_Handler(void);
void ek_fault_handler(void);
/* Firmware with a clock has one of its own (clock_systick.c). */
void ek_systick_handler(void) __attribute__((weak, alias("ek_fault_handler")));
void ek_start(void);
void ek_main(void);

typedef union {
  uint32_t *stack;
  void (*handler)(void);
} ek_vector;

__attribute__((section(".vectors"), used)) const ek_vector __ek_vectors[16] = {
    {.stack = ek_stack_top},      {.handler = Reset_Handler},    {.handler = ek_fault_handler},
    {.handler = ek_fault_handler}, {.handler = ek_fault_handler}, {.handler = ek_fault_handler},
    {.handler = ek_fault_handler}, {.handler = ek_fault_handler}, {.handler = ek_fault_handler},
    {.handler = ek_fault_handler}, {.handler = ek_fault_handler}, {.handler = ek_fault_handler},
    {.handler = ek_fault_handler}, {.handler = ek_fault_handler}, {.handler = ek_fault_handler},
    {.handler = ek_systick_handler},
};

/* Paints the stack, so that its high-water mark can be read later, and turns on the FPU and Helium
 * (CPACR) before any compiled code, whose prologue may already use them. */
__attribute__((naked, noreturn)) void Reset_Handler(void) {
  __asm volatile(
      ".syntax unified\n"
      "ldr r0, =ek_stack_limit\n"
      "ldr r1, =ek_stack_top\n"
      "mov sp, r1\n"
      "ldr r2, =0xA5A5A5A5\n"
      "1: str r2, [r0]\n"
      "adds r0, #4\n"
      "cmp r0, r1\n"
      "bcc 1b\n"
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
      "ldr r0, =0xE000ED88\n"
      "ldr r1, [r0]\n"
      "ldr r2, =0x00F00000\n"
      "orrs r1, r2\n"
      "str r1, [r0]\n"
      "dsb\n"
      "isb\n"
#endif
#if defined(__ARM_FEATURE_MVE)
      "ldr r0, =0xE000ED14\n" /* CCR.LOB: low-overhead branches */
      "ldr r1, [r0]\n"
      "ldr r2, =0x00080000\n"
      "orrs r1, r2\n"
      "str r1, [r0]\n"
      "dsb\n"
      "isb\n"
#endif
      "bl ek_start\n"
      "b .\n"
      ".ltorg\n");
}

void ek_start(void) {
  const uint32_t *from = ek_data_load;
  for (uint32_t *p = ek_data_start; p < ek_data_end; ++p) *p = *from++;
  for (uint32_t *p = ek_bss_start; p < ek_bss_end; ++p) *p = 0;
  ek_main();
}

__attribute__((naked)) void ek_fault_handler(void) {
  __asm volatile(
      ".syntax unified\n"
      "mrs r0, msp\n"
      "mrs r1, ipsr\n"
      "bl ek_fault\n"
      "b .\n");
}
