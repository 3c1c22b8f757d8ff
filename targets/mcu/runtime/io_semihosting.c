/* The runner's world on a microcontroller: Arm semihosting (bkpt 0xAB on M-profile cores; Arm,
 * "Semihosting for AArch32 and AArch64", version 3.0). Virtual devices and debug probes serve it. */
#include "ek_io.h"

enum {
  SYS_OPEN = 0x01,
  SYS_CLOSE = 0x02,
  SYS_WRITE0 = 0x04,
  SYS_WRITE = 0x05,
  SYS_READ = 0x06,
  SYS_GET_CMDLINE = 0x15,
  SYS_EXIT_EXTENDED = 0x20,
  MODE_RB = 1,
  MODE_WB = 5
};
#define ADP_STOPPED_APPLICATION_EXIT 0x20026u

static uint32_t call(uint32_t op, const void *arg) {
  register uint32_t r0 __asm("r0") = op;
  register const void *r1 __asm("r1") = arg;
  __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

int32_t ek_io_open(const char *name, char mode) {
  uint32_t length = 0;
  while (name[length]) ++length;
  const uint32_t block[3] = {(uint32_t)(uintptr_t)name, mode == 'w' ? MODE_WB : MODE_RB, length};
  return (int32_t)call(SYS_OPEN, block);
}

uint32_t ek_io_read(int32_t handle, void *data, uint32_t bytes) {
  const uint32_t block[3] = {(uint32_t)handle, (uint32_t)(uintptr_t)data, bytes};
  return bytes - call(SYS_READ, block);
}

int ek_io_write(int32_t handle, const void *data, uint32_t bytes) {
  const uint32_t block[3] = {(uint32_t)handle, (uint32_t)(uintptr_t)data, bytes};
  return call(SYS_WRITE, block) ? -1 : 0;
}

void ek_io_close(int32_t handle) {
  const uint32_t block[1] = {(uint32_t)handle};
  call(SYS_CLOSE, block);
}

void ek_io_print(const char *text) { call(SYS_WRITE0, text); }

uint64_t ek_io_time_ns(void) { return 0; }

extern uint32_t ek_stack_limit[], ek_stack_top[]; /* linker script */
#define PAINT 0xA5A5A5A5u                         /* as in startup.c */

uint32_t ek_io_stack_bytes(void) {
  const uint32_t *p = ek_stack_limit;
  while (p < ek_stack_top && *p == PAINT) ++p;
  return (uint32_t)((uintptr_t)ek_stack_top - (uintptr_t)p);
}

void ek_exit(int code);
void ek_exit(int code) {
  const uint32_t block[2] = {ADP_STOPPED_APPLICATION_EXIT, (uint32_t)code};
  call(SYS_EXIT_EXTENDED, block);
  for (;;) {
  }
}

/* Says what went wrong and ends. frame: r0-r3, r12, lr, pc, xpsr as the core stacked them. */
void ek_fault(const uint32_t *frame, uint32_t exception);
void ek_fault(const uint32_t *frame, uint32_t exception) {
  static const char digits[] = "0123456789abcdef";
  char text[] = "error=fault, exception 00 at pc 00000000\n";
  text[23] = (char)('0' + exception / 10u);
  text[24] = (char)('0' + exception % 10u);
  for (int i = 0; i < 8; ++i) text[32 + i] = digits[(frame[6] >> (28 - 4 * i)) & 15u];
  ek_io_print(text);
  ek_exit(4);
}

void ek_main(void);
void ek_main(void) {
  char line[96];
  char *argv[5];
  int argc = 0;
  const uint32_t block[2] = {(uint32_t)(uintptr_t)line, sizeof line};
  line[0] = 0;
  if (call(SYS_GET_CMDLINE, block) == 0) {
    char *p = line;
    while (argc < 5) {
      while (*p == ' ') ++p;
      if (!*p) break;
      argv[argc++] = p;
      while (*p && *p != ' ') ++p;
      if (!*p) break;
      *p++ = 0;
    }
  }
  ek_exit(ek_run(argc, argv));
}
