/* What the runner needs from the world: files, one line of text, an end. Two implementations:
 * io_semihosting.c (bare metal, Arm semihosting) and io_host.c (a process on this machine). */
#ifndef EK_IO_H
#define EK_IO_H

#include <stdint.h>

/* A handle, or -1. mode: 'r' or 'w'. */
int32_t ek_io_open(const char *name, char mode);
/* Bytes that were read, fewer than asked for at the end of the file. */
uint32_t ek_io_read(int32_t handle, void *data, uint32_t bytes);
/* 0, or -1 when not everything was written. */
int ek_io_write(int32_t handle, const void *data, uint32_t bytes);
void ek_io_close(int32_t handle);
void ek_io_print(const char *text);
/* Most stack bytes used since the start; 0 where it is not known. */
uint32_t ek_io_stack_bytes(void);
/* Nanoseconds of a monotonic clock; 0 where there is none. */
uint64_t ek_io_time_ns(void);

#ifdef EK_HOST
/* What this process has used: processor time, how often it was put aside for other programs, and the
 * most memory it had; 0 where it is not known. */
typedef struct {
  uint64_t cpu_ns, switches, peak_kb;
} ek_usage;
void ek_io_usage(ek_usage *usage);
/* The core it runs on, -1 where it is not known. */
int32_t ek_io_core(void);
#endif

/* The runner: argv[0] is the program, argv[1] a verb. Returns the exit code. */
int ek_run(int argc, char **argv);

/* Where one measured inference begins and ends: the first instruction of these functions. */
void ek_marker_begin(void);
int ek_marker_end(int code);

#endif
