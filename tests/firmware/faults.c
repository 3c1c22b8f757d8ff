/* One mistake each, chosen by CASE. */
void on_fault(void);
#ifdef HANDLED
#define FAULT_HANDLER (const void *)on_fault
#endif
#include "bare.h"

#ifndef FOREVER
#define FOREVER 0
#endif

VECTORS;

void on_fault(void)
{
    for (;;) {
    }
}

__attribute__((noinline)) void mistake(void)
{
#if CASE == 1
    (void)*(volatile int *)0x90000000;
#elif CASE == 2
    __asm__ volatile("udf #3");
#elif CASE == 3
    for (;;) {
        __asm__ volatile("nop");
    }
#elif CASE == 4
    __asm__ volatile("bkpt 1");
#elif CASE == 5
    __asm__ volatile("svc 0");
#elif CASE == 6
    do {
        __asm__ volatile("wfi");
    } while (FOREVER);
#elif CASE == 7
    ((void (*)(void))0x90000001)();
#elif CASE == 8
    semihost(0x04, (const void *)0x90000000);
#elif CASE == 9
    *(volatile uint32_t *)0xE000ED0C = 0x05FA0004;
    for (;;) {
    }
#elif CASE == 10
    *(volatile int *)16 = 5;
#elif CASE == 11
    for (;;) {
    }
#endif
}

void Reset(void)
{
    mistake();
    leave(0);
}
