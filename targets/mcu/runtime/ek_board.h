/* What the serial firmware (serial.c) needs from a board. board_mps2.c is Arm's MPS2/MPS3 FPGA boards
 * and their QEMU machines; write these four for yours (the vendor's UART example has all of it). */
#ifndef EK_BOARD_H
#define EK_BOARD_H

#include <stdint.h>

/* Clocks and the UART (115200 baud, 8N1 unless you say otherwise to the host). Called first. */
void ek_board_init(void);
/* The next byte, or -1 when there is none yet. */
int ek_board_getc(void);
/* Sends a byte; waits while the transmitter is full. */
void ek_board_putc(uint8_t byte);
/* Of the core, which is also SysTick's. */
uint32_t ek_board_clock_hz(void);

/* Time in core clocks, from SysTick and its interrupt (clock_systick.c): 64 bits, never wraps. */
void ek_clock_init(void);
uint64_t ek_clock_ticks(void);
/* How often the interrupt came, and the instructions that it costs each time. */
uint32_t ek_clock_interrupts(void);
enum { EK_CLOCK_HANDLER_INSTRUCTIONS = 5 };

#endif
