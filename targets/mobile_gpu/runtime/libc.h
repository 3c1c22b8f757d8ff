/* The C library: the system's headers, or the few declarations that Android needs. */
#ifndef EDGEKIT_LIBC_H
#define EDGEKIT_LIBC_H

#ifdef EDGEKIT_ANDROID
#include "bionic.h"
#else
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#endif

#endif
