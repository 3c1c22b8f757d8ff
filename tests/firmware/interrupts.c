/* Counts ten SysTick interrupts while waiting in WFI, after one supervisor call. */
#include <stdint.h>
void Reset(void);
void SVC_Handler(void);
void SysTick_Handler(void);
static volatile int calls, ticks;

__attribute__((section(".vectors"), used)) const void *const vectors[16] = {
    (const void *)0x20040000, (const void *)Reset,
    [11] = (const void *)SVC_Handler, [15] = (const void *)SysTick_Handler};

void SVC_Handler(void)
{
    calls++;
}

void SysTick_Handler(void)
{
    ticks++;
}

void Reset(void)
{
#ifndef POLLING
    __asm__ volatile("svc 0");
#endif
    *(volatile uint32_t *)0xE000E014 = 4999;
    *(volatile uint32_t *)0xE000E018 = 0;
    *(volatile uint32_t *)0xE000E010 = 7;
    while (ticks < 10) {
#ifndef POLLING
        __asm__ volatile("wfi");
#endif
    }
    const uint32_t block[2] = {0x20026, (uint32_t)(ticks + calls)};
    register int r0 __asm__("r0") = 0x20;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}
