/* Many kinds of control flow: loops, recursion, a jump table, IT blocks, LDM/STM, 64-bit products,
 * code that crosses pages; and two "layers" between which the counting section changes. */
#include "bare.h"

VECTORS;

static volatile uint32_t sink;
static uint32_t buffer[256];

__attribute__((noinline)) uint32_t fibonacci(uint32_t n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

__attribute__((noinline)) uint32_t machine(uint32_t state, uint32_t input)
{
    switch (state) {
    case 0: return input * 3;
    case 1: return input ^ 0x55;
    case 2: return input - 7;
    case 3: return input << 3;
    case 4: return input / 3;
    case 5: return ~input;
    default: return 0;
    }
}

__attribute__((noinline)) void layer_first(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        buffer[i] = machine(i % 7, i) + (i & 1 ? i : 5);
    }
}

__attribute__((noinline)) void layer_second(void)
{
    uint64_t sum = 0;
    for (int round = 0; round < 20; round++) {
        for (uint32_t i = 0; i < 256; i++) {
            sum += (uint64_t)buffer[i] * buffer[255 - i];
        }
    }
    sink = (uint32_t)(sum >> 13);
}

/* 700 instructions in a row, longer than a translation block, across several 1 KB pages. */
__attribute__((noinline)) void straight(void)
{
    __asm__ volatile(".rept 350\n movs r0, #1\n adds r0, r0, #2\n .endr\n" ::: "r0", "cc");
}

void Reset(void)
{
    print("start\n");
    sink = fibonacci(12);
    layer_first();
    layer_second();
    layer_first();
    straight();
    print_hex(sink);
    leave(0);
    for (;;) {
    }
}
