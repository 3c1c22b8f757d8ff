/* The runner's world on a host: files by stdio, time by the monotonic clock. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <time.h>

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

int main(int argc, char **argv) { return ek_run(argc, argv); }
