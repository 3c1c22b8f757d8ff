/* What the runner needs of Android's C library (bionic), declared so that no NDK is needed to build
 * it: functions of the C standard and POSIX with the types of 64-bit Arm, and the entry point. */
#ifndef EDGEKIT_BIONIC_H
#define EDGEKIT_BIONIC_H

#include <stddef.h>
#include <stdint.h>

typedef struct ek_file FILE;
struct timespec {
    long tv_sec;
    long tv_nsec;
};

FILE *fopen(const char *, const char *);
size_t fread(void *, size_t, size_t, FILE *);
size_t fwrite(const void *, size_t, size_t, FILE *);
int fclose(FILE *);
int fseek(FILE *, long, int);
long ftell(FILE *);
int printf(const char *, ...);
void *calloc(size_t, size_t);
void free(void *);
void *memset(void *, int, size_t);
void *memcpy(void *, const void *, size_t);
int strcmp(const char *, const char *);
char *strstr(const char *, const char *);
unsigned long strtoul(const char *, char **, int);
int clock_gettime(int, struct timespec *);
void *dlopen(const char *, int);
void *dlsym(void *, const char *);

enum { RTLD_NOW = 2, CLOCK_MONOTONIC = 1, SEEK_SET = 0, SEEK_END = 2 };

#endif
