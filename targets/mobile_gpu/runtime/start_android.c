/* Where an Android program begins: the arguments lie on the stack, __libc_init does the rest. */
#include <stddef.h>

typedef int ek_main(int, char **, char **);
/* structors: arrays that end in 0; the -1 at the front is skipped, as crtbegin has it. */
struct structors {
    void (**preinit)(void);
    void (**init)(void);
    void (**fini)(void);
};

int main(int argc, char **argv);
__attribute__((noreturn)) void __libc_init(void *, void (*)(void), ek_main *,
                                           const struct structors *);

static void (*no_functions[])(void) = {(void (*)(void))(-1), NULL};

static int call_main(int argc, char **argv, char **environment) {
    (void)environment;
    return main(argc, argv);
}

__attribute__((noreturn, used)) void ek_begin(void *stack) {
    const struct structors none = {no_functions, no_functions, no_functions};
    __libc_init(stack, NULL, call_main, &none);
}

__asm__(".globl _start\n"
        ".type _start, %function\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, sp\n"
        "    b ek_begin\n");
