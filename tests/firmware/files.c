/* Semihosting file calls; the exit code is the number of the first one that went wrong. */
#include "bare.h"

VECTORS;

static char text[64];

static int open_file(const char *name, int mode)
{
    uint32_t length = 0;
    while (name[length]) {
        length++;
    }
    const uint32_t block[3] = {(uint32_t)name, (uint32_t)mode, length};
    return semihost(0x01, block);
}

static int three(int op, int a, const void *b, uint32_t c)
{
    const uint32_t block[3] = {(uint32_t)a, (uint32_t)b, c};
    return semihost(op, block);
}

static int same(const char *a, const char *b, int n)
{
    for (int i = 0; i < n; i++) {
        if (a[i] != b[i]) {
            return 0;
        }
    }
    return 1;
}

#define CHECK(number, condition)                                                                   \
    if (!(condition)) {                                                                            \
        leave(number);                                                                             \
    }

void Reset(void)
{
    int h = open_file("input.bin", 1);
    CHECK(1, h > 0);
    const uint32_t handle[1] = {(uint32_t)h};
    CHECK(2, semihost(0x0C, handle) == 10);
    CHECK(3, three(0x06, h, text, 4) == 0 && same(text, "0123", 4));
    const uint32_t seek[2] = {(uint32_t)h, 8};
    CHECK(4, semihost(0x0A, seek) == 0);
    CHECK(5, three(0x06, h, text, 4) == 2 && same(text, "89", 2));
    CHECK(6, semihost(0x09, handle) == 0);
    CHECK(7, semihost(0x02, handle) == 0);
    CHECK(8, semihost(0x02, handle) == -1);
    CHECK(9, open_file("missing", 1) == -1 && semihost(0x13, 0) == 2);
    int out = open_file("made.txt", 5);
    CHECK(10, out > 0 && three(0x05, out, "written", 7) == 0);
    const uint32_t made[1] = {(uint32_t)out};
    CHECK(11, semihost(0x02, made) == 0);
    const uint32_t names[4] = {(uint32_t)"made.txt", 8, (uint32_t)"output.txt", 10};
    CHECK(12, semihost(0x0F, names) == 0);
    const uint32_t gone[2] = {(uint32_t)"input.bin", 9};
    CHECK(13, semihost(0x0E, gone) == 0 && open_file("input.bin", 1) == -1);
    int features = open_file(":semihosting-features", 1);
    CHECK(14, features > 0 && three(0x06, features, text, 5) == 0 && same(text, "SHFB", 4));
    uint32_t line[2] = {(uint32_t)text, sizeof text};
    CHECK(15, semihost(0x15, line) == 0);
    print(text);
    int tty = open_file(":tt", 5);
    CHECK(16, tty > 0 && three(0x05, tty, "|", 1) == 0);
    int in = open_file(":tt", 0);
    CHECK(17, in > 0 && three(0x06, in, text, 5) == 0 && same(text, "stdin", 5));
#ifdef CONFINED
    CHECK(18, open_file("../escape.txt", 5) == -1 && open_file("/tmp/escape.txt", 5) == -1);
#endif
    leave(0);
}
