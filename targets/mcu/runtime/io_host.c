/* The runner's world on a host: files by stdio, time by the monotonic clock. */
#ifndef _GNU_SOURCE /* sched_getcpu */
#define _GNU_SOURCE
#endif
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#ifdef __linux__
#include <sched.h>
#endif

#include "ek_io.h"

static FILE *files[4];

int32_t ek_io_open(const char *name, char mode) {
  for (int32_t i = 0; i < 4; ++i)
    if (!files[i]) {
      files[i] = fopen(name, mode == 'w' ? "wb" : "rb");
      return files[i] ? i : -1;
    }
  return -1;
}

uint32_t ek_io_read(int32_t handle, void *data, uint32_t bytes) {
  return (uint32_t)fread(data, 1, bytes, files[handle]);
}

int ek_io_write(int32_t handle, const void *data, uint32_t bytes) {
  return fwrite(data, 1, bytes, files[handle]) == bytes ? 0 : -1;
}

void ek_io_close(int32_t handle) {
  if (handle >= 0 && files[handle]) {
    if (fclose(files[handle])) perror("edgekit runner");
    files[handle] = NULL;
  }
}

void ek_io_print(const char *text) { fputs(text, stdout); }

uint32_t ek_io_stack_bytes(void) { return 0; }

uint64_t ek_io_time_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Not ru_maxrss, which begins with the memory of the process that started this one. */
static uint64_t peak_kb(void) {
  unsigned long kb = 0;
  char line[128];
  FILE *f = fopen("/proc/self/status", "r");
  while (f && fgets(line, sizeof line, f))
    if (sscanf(line, "VmHWM: %lu", &kb) == 1) break;
  if (f) fclose(f);
  return kb;
}

void ek_io_usage(ek_usage *usage) {
  struct rusage r;
  if (getrusage(RUSAGE_SELF, &r)) return;
  const uint64_t seconds = (uint64_t)r.ru_utime.tv_sec + (uint64_t)r.ru_stime.tv_sec;
  const uint64_t micros = (uint64_t)r.ru_utime.tv_usec + (uint64_t)r.ru_stime.tv_usec;
  usage->cpu_ns = seconds * 1000000000u + micros * 1000u;
  usage->switches = (uint64_t)r.ru_nivcsw;
  usage->peak_kb = peak_kb();
}

int32_t ek_io_core(void) {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

int main(int argc, char **argv) { return ek_run(argc, argv); }
