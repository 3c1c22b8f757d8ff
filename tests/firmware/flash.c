/* Start-up of a flash-based microcontroller: copies its data to RAM, runs a function there, uses
 * special registers, and sees its flash at 0x0 too. */
#define STACK_TOP 0x20010000
#include "bare.h"

VECTORS;

extern uint32_t data_start[], data_end[], data_load[];

static volatile uint32_t value = 0x1234;

__attribute__((noinline, section(".data.code"))) uint32_t in_ram(uint32_t x)
{
    return x * 3 + 1;
}

void Reset(void)
{
    const uint32_t *from = data_load;
    for (uint32_t *to = data_start; to < data_end; to++) {
        *to = *from++;
    }
    uint32_t mask, control = 2;
    __asm__ volatile("cpsid i\n mrs %0, primask\n cpsie i" : "=r"(mask));
    __asm__ volatile("msr psp, %0\n msr control, %1\n isb" ::"r"(0x20008000), "r"(control));
    print_hex(in_ram(value));
    print_hex(mask);
    uint32_t same = *(volatile uint32_t *)0x4 == *(volatile uint32_t *)0x08000004;
    print_hex(same);
    leave(0);
}
