/* Waits and measures by polling SysTick, the way firmware without interrupts does. */
#include "bare.h"

VECTORS;

#define CSR (*(volatile uint32_t *)0xE000E010)
#define RVR (*(volatile uint32_t *)0xE000E014)
#define CVR (*(volatile uint32_t *)0xE000E018)

void Reset(void)
{
#ifdef READS_ONLY
    /* A fixed number of device reads in the middle of blocks: the count depends on no time. */
    uint32_t sum = 0;
    RVR = 9999;
    CSR = 5;
    for (int i = 0; i < 1000; i++) {
        sum += CVR ^ CSR;
        sum ^= CVR;
    }
    print(sum ? "read\n" : "zero\n");
    leave(0);
#endif
    RVR = 9999;
    CVR = 0;
    CSR = 5;
    for (int i = 0; i < 5; i++) {
        while (!(CSR & 0x10000)) {
        }
    }
    RVR = 0xFFFFFF;
    CVR = 0;
    while (CVR == 0) {
    }
    uint32_t before = CVR;
    for (int i = 0; i < 1000; i++) {
        __asm__ volatile("nop");
    }
    uint32_t ticks = (before - CVR) & 0xFFFFFF;
    print(ticks > 1000 && ticks < 20000 ? "sensible\n" : "odd\n");
    leave(0);
}
