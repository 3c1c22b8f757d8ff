/* Where an Android program begins: the arguments lie on the stack, __libc_init does the rest. */
#include <stddef.h>

typedef int ek_main(int, char **, char **);
/* Nothing of this program runs before main or after it, so there are no lists of functions. */
struct structors {
    void (**preinit)(void);
    void (**init)(void);
    void (**fini)(void);
};

int main(int argc, char **argv);
__attribute__((noreturn)) void __libc_init(void *, void (*)(void), ek_main *,
                                           const struct structors *);

static int call_main(int argc, char **argv, char **environment) {
    (void)environment;
    return main(argc, argv);
}

__attribute__((noreturn, used)) void ek_begin(void *stack) {
    const struct structors none = {NULL, NULL, NULL};
    __libc_init(stack, NULL, call_main, &none);
}

__asm__(".globl _start\n"
        ".type _start, %function\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, sp\n"
        "    b ek_begin\n");
