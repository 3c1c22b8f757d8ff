/* What freestanding builds take for <string.h>; the functions are in ek_rt.c. */
#ifndef EK_STRING_H
#define EK_STRING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);

#endif
