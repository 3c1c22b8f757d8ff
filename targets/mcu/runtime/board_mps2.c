/* Arm MPS2 (AN385, AN386, AN500) and MPS3 (AN547): CMSDK APB UART 0, default clocks. Sources: Arm
 * application notes DAI 0385/0386/0500/0547; Cortex-M System Design Kit TRM, "APB UART". */
#include "ek_board.h"

#ifndef EK_UART_BASE
#if defined(__ARM_FEATURE_MVE) || defined(__ARM_ARCH_8_1M_MAIN__)
#define EK_UART_BASE 0x59303000u /* AN547, secure alias */
#else
#define EK_UART_BASE 0x40004000u
#endif
#endif
#ifndef EK_CLOCK_HZ
#if EK_UART_BASE == 0x59303000u
#define EK_CLOCK_HZ 32000000u
#else
#define EK_CLOCK_HZ 25000000u
#endif
#endif
#ifndef EK_BAUD
#define EK_BAUD 115200u
#endif

enum { DATA = 0, STATE = 1, CTRL = 2, BAUDDIV = 4 };
enum { TX_FULL = 1, RX_FULL = 2, TX_ENABLE = 1, RX_ENABLE = 2 };

static volatile uint32_t *uart(void) { return (volatile uint32_t *)EK_UART_BASE; }

void ek_board_init(void) {
  uart()[BAUDDIV] = EK_CLOCK_HZ / EK_BAUD;
  uart()[CTRL] = TX_ENABLE | RX_ENABLE;
}

int ek_board_getc(void) { return uart()[STATE] & RX_FULL ? (int)(uart()[DATA] & 0xffu) : -1; }

void ek_board_putc(uint8_t byte) {
  while (uart()[STATE] & TX_FULL) {
  }
  uart()[DATA] = byte;
}

uint32_t ek_board_clock_hz(void) { return EK_CLOCK_HZ; }
