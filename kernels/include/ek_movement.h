/* Operators that move bytes and compute nothing. Sizes in bytes unless said otherwise. */
#ifndef EK_MOVEMENT_H
#define EK_MOVEMENT_H

#include "ek_common.h"

/* RESHAPE, SQUEEZE and whatever else leaves the bytes alone: nothing where out == in. */
void ek_copy_ref(const void *input, void *output, int32_t bytes);

#endif
