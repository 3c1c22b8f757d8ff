/* Weights of few bits: stored as codes, and read through a table of the values they stand for.
 *
 * Codes of 4 bits: four bytes hold eight, the first four in the low halves, the next four in the high
 * halves, so that a word is two words of bytes after a shift and a mask. Codes of 1 and 2 bits: the same
 * with eight and four times four codes in the word, lowest bits first. Codes of 6 bits: three words hold
 * sixteen: four in the low six bits of each word's bytes, and the last four in the top two bits of the
 * bytes, their low bits in the first word. Without a table a code is a two's complement number.
 */
#ifndef EK_LOWBIT_H
#define EK_LOWBIT_H

#include "ek_conv.h"

/* What becomes of the values. */
enum {
  EK_FORM_BYTES = 0, /* int8, as they are */
  EK_FORM_PAIRS = 1, /* two as the int16 256 * second + first: the halfword form of ek_dsp.h */
};

/* Unpack what another kernel reads: records times {head bytes as they are, codes, tail bytes as they
 * are}. head and tail are multiples of 4; the codes of a record fill whole units (a word, or three of
 * 6-bit codes). out: 4-byte aligned. Values of a last unit that are beyond codes are written, too, and
 * overwritten by what follows; room for them has to be behind the last record. */
typedef struct {
  int32_t records;
  int32_t head, codes, tail;
  int32_t form;
  int32_t bits; /* 1, 2, 4 or 6; 4 without a table */
} ek_unpack_params;
void ek_unpack_s4_ref(const ek_unpack_params *p, const uint8_t *packed, void *out);
void ek_unpack_codes_ref(const ek_unpack_params *p, const uint8_t *packed, const int8_t *table,
                         void *out);

/* Fully connected, codes of 4 bits unpacked as they are read, no scratch. weights: an output after the
 * other, each of in_c codes in whole words. table: NULL for numbers. */
void ek_fully_connected_w4_ref(const ek_fc_params *p, const int8_t *input, const uint8_t *weights,
                               const int8_t *table, const int32_t *bias, const int32_t *mult,
                               const int8_t *shift, int8_t *output);

/* Ternary (and binary) weights, unit times -1, 0 or 1, without a multiplication for each: fully connected,
 * or a convolution of one pixel and stride 1, whose rows are its pixels. weights: an output after the other,
 * each in_c two's complement numbers of 2 bits in whole words, lowest bits first. bias: input offset folded
 * in. */
void ek_rows_s8_ternary_ref(const ek_fc_params *p, const int8_t *input, const uint32_t *weights,
                            int32_t unit, const int32_t *bias, const int32_t *mult,
                            const int8_t *shift, int8_t *output);

/* Convolution, codes of 4 bits: two output channels are unpacked, then computed at every pixel. weights:
 * an output channel after the other, each of kernel_h * kernel_w * in_c / groups codes in whole words. */
void ek_conv2d_w4_ref(const ek_conv_params *p, const int8_t *input, const uint8_t *weights,
                      const int8_t *table, const int32_t *bias, const int32_t *mult,
                      const int8_t *shift, int8_t *output, void *scratch);
int32_t ek_conv2d_w4_ref_scratch_bytes(const ek_conv_params *p);

#endif
