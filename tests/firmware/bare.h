/* A vector table and semihosting for test firmware without a C library. */
#ifndef BARE_H
#define BARE_H
#include <stdint.h>

void Reset(void);

static inline int semihost(int op, const void *arg)
{
    register int r0 __asm__("r0") = op;
    register const void *r1 __asm__("r1") = arg;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static inline void print(const char *text)
{
    semihost(0x04, text);
}

static inline void print_hex(uint32_t v)
{
    char text[10];
    for (int i = 0; i < 8; i++) {
        text[i] = "0123456789abcdef"[v >> (28 - 4 * i) & 15];
    }
    text[8] = '\n';
    text[9] = 0;
    print(text);
}

static inline void leave(int code)
{
    const uint32_t block[2] = {0x20026, (uint32_t)code};
    semihost(0x20, block);
}

#ifndef STACK_TOP
#define STACK_TOP 0x20040000
#endif
#ifndef FAULT_HANDLER
#define FAULT_HANDLER 0
#endif

#define VECTORS                                                                                    \
    __attribute__((section(".vectors"), used)) const void *const vectors[16] = {                   \
        (const void *)STACK_TOP, (const void *)Reset, 0, FAULT_HANDLER, FAULT_HANDLER,            \
        FAULT_HANDLER, FAULT_HANDLER}
#endif
