/* SysTick as a 64-bit clock: the hardware counts 24 bits down, its interrupt the wraps. */
#include "ek_board.h"

#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define WRAP 0xFFFFFFu
enum { ENABLE = 1, TICKINT = 2, CORE_CLOCK = 4 };

volatile uint32_t ek_clock_wraps;

/* In assembly, so that what it costs is known: EK_CLOCK_HANDLER_INSTRUCTIONS. */
void ek_systick_handler(void);
__attribute__((naked)) void ek_systick_handler(void) {
  __asm volatile(
      ".syntax unified\n"
      "ldr r0, =ek_clock_wraps\n"
      "ldr r1, [r0]\n"
      "adds r1, #1\n"
      "str r1, [r0]\n"
      "bx lr\n"
      ".ltorg\n");
}

void ek_clock_init(void) {
  SYST_RVR = WRAP;
  SYST_CVR = 0;
  SYST_CSR = ENABLE | TICKINT | CORE_CLOCK;
}

__attribute__((noinline)) uint64_t ek_clock_ticks(void) {
  uint32_t wraps, down;
  do {
    wraps = ek_clock_wraps;
    down = SYST_CVR;
  } while (wraps != ek_clock_wraps);
  return ((uint64_t)wraps << 24) + (WRAP - down);
}

uint32_t ek_clock_interrupts(void) { return ek_clock_wraps; }
