/* The multiply-accumulate core of the kernels whose weights are int16 (Winograd and polyphase). */
#ifndef EK_DSP_MAC_H
#define EK_DSP_MAC_H

#include "ek_common.h"

/* positions: how many sums of this length follow one another; blocks: words of two halfwords that
 * each takes, at least 1. */
typedef struct {
  int32_t positions;
  int32_t blocks;
} ek_mac_run;

#define EK_MAC_MAX_RUNS 3

/* 2 channels x 4 columns: sums over pairs of signed halfwords, modulo 2^32.
 * x: per position, per block, a word of each of 4 columns; w: the same with 2 channels;
 * m: per position [2 channels][4 columns]; runs: ended by positions = 0. */
typedef struct {
  const uint32_t *x;
  const uint32_t *w;
  int32_t *m;
  ek_mac_run runs[EK_MAC_MAX_RUNS + 1];
} ek_mac_s16;

void ek_mac_s16_2x4_dsp(const ek_mac_s16 *p);

#endif
