/* Kernels for cores with Helium (MVE: Cortex-M55, M85).
 *
 * A multiplication of sixteen pairs and their sum is one instruction, VMLADAVA.S8, with its sum in an
 * even core register: eight of those are eight accumulators, the odd ones hold pointers. The inner
 * loops are assembly (naked functions: they need every register); beside each stands the same
 * algorithm over the same packed constants in portable C, which is what runs on the host. Constants
 * are packed by targets/mcu/variants/mve_common.py. Source: Armv8-M Architecture Reference Manual,
 * chapters B5 and C2.4.
 *
 * Requantization, one of three *finishes*, exact for shifts of 1 to 31 to the right:
 *  - plain: VQRDMULH (gemmlowp's doubling high multiplication), VRSHL, saturation. Halves of negative
 *    values round up instead of away from zero: right where the clamp makes all of those one value
 *    (RELU with output zero point -128);
 *  - signed: one is taken from negative values before the rounding shift, by VQRDMLAH onto the sign;
 *  - clamped: signed, and clamped to act_min .. act_max.
 */
#ifndef EK_MVE_H
#define EK_MVE_H

#include "ek_common.h"
#include "ek_pool.h"

#if defined(__ARM_FEATURE_MVE) && !defined(EK_NO_ASM)
#define EK_MVE_ASM 1
#else
#define EK_MVE_ASM 0
#endif

/* Output pixels in groups of four, all output channels of a group before the next group.
 *
 * Weights are a stream: for each four channels c .. c + 3 the pairs (c, c + 2) and (c + 1, c + 3), each
 *   int8 w[16];                   the first step of the first channel
 *   int32 bias[2][4];             each bias four times
 *   int8 w[2 * steps - 1][16];    step by step, both channels; a step is sixteen input values, zeros
 *                                 beyond the last
 *   int32 mult, -shift, mult, -shift;
 * the second pair of the four followed by int32 out_zp and, for the clamped finish, act_min, act_max. Sixteen bytes
 * more are read behind the end. */
typedef struct {
  const int8_t *x;  /* of the first group; 4-byte aligned */
  int32_t x_step;   /* bytes from pixel to pixel; rows: from row to row */
  int32_t x_group;  /* bytes from group to group */
  int8_t *out;      /* 4-byte aligned */
  int32_t out_step; /* bytes from pixel to pixel, a multiple of 4 */
  int32_t out_group;
  int32_t groups;
  const void *w;
  int32_t quads;  /* output channels / 4, rounded up: that many bytes are written */
  int32_t blocks; /* of sixteen input values */
} ek_mve_mac;

typedef void (*ek_mve_mac_fn)(const ek_mve_mac *a);

/* Each pixel is 16 * blocks contiguous bytes. By number of blocks, or (long) for any. */
void ek_mve_mac_1_plain(const ek_mve_mac *a);
void ek_mve_mac_1_signed(const ek_mve_mac *a);
void ek_mve_mac_1_clamped(const ek_mve_mac *a);
void ek_mve_mac_2_plain(const ek_mve_mac *a);
void ek_mve_mac_2_signed(const ek_mve_mac *a);
void ek_mve_mac_2_clamped(const ek_mve_mac *a);
void ek_mve_mac_3_plain(const ek_mve_mac *a);
void ek_mve_mac_3_signed(const ek_mve_mac *a);
void ek_mve_mac_3_clamped(const ek_mve_mac *a);
void ek_mve_mac_4_plain(const ek_mve_mac *a);
void ek_mve_mac_4_signed(const ek_mve_mac *a);
void ek_mve_mac_4_clamped(const ek_mve_mac *a);
void ek_mve_mac_5_plain(const ek_mve_mac *a);
void ek_mve_mac_5_signed(const ek_mve_mac *a);
void ek_mve_mac_5_clamped(const ek_mve_mac *a);
void ek_mve_mac_6_plain(const ek_mve_mac *a);
void ek_mve_mac_6_signed(const ek_mve_mac *a);
void ek_mve_mac_6_clamped(const ek_mve_mac *a);
void ek_mve_mac_7_plain(const ek_mve_mac *a);
void ek_mve_mac_7_signed(const ek_mve_mac *a);
void ek_mve_mac_7_clamped(const ek_mve_mac *a);
void ek_mve_mac_8_plain(const ek_mve_mac *a);
void ek_mve_mac_8_signed(const ek_mve_mac *a);
void ek_mve_mac_8_clamped(const ek_mve_mac *a);
void ek_mve_mac_long_plain(const ek_mve_mac *a);
void ek_mve_mac_long_signed(const ek_mve_mac *a);
void ek_mve_mac_long_clamped(const ek_mve_mac *a);

/* 3x3 windows over rows of blocks: at x + (ky * blocks + block) * x_step lie the pixels of one block of
 * sixteen channels side by side. Steps are ordered [ky][block][kx]; at stride 2 kx goes 0, 2, 1. */
void ek_mve_rows3_s1_plain(const ek_mve_mac *a);
void ek_mve_rows3_s1_signed(const ek_mve_mac *a);
void ek_mve_rows3_s1_clamped(const ek_mve_mac *a);
void ek_mve_rows3_s2_plain(const ek_mve_mac *a);
void ek_mve_rows3_s2_signed(const ek_mve_mac *a);
void ek_mve_rows3_s2_clamped(const ek_mve_mac *a);

/* Bytes, any alignment. */
void ek_mve_copy(void *to, const void *from, int32_t n);
void ek_mve_fill(void *to, int32_t value, int32_t n);
/* n pieces of bytes (1 .. 16) each; up to 16 are read. Steps in bytes. */
void ek_mve_copy_pieces(int8_t *to, int32_t to_step, const int8_t *from, int32_t from_step,
                        int32_t n, int32_t bytes);

/* n columns of blocks * 16 bytes (1 to 4 blocks), each gathered from `from` at the offsets. */
#define EK_MVE_GATHER 64
void ek_mve_gather_columns(int8_t *to, const int8_t *from, int32_t n, int32_t step,
                           const uint8_t *offsets, int32_t blocks);

typedef struct {
  int32_t in_h, in_w, in_c;
  int32_t out_h, out_w, out_c;
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t pad_top, pad_left;
  int32_t in_zp;
  int32_t strip; /* output rows at a time */
  ek_mve_mac_fn mac;
} ek_mve_conv_params;

/* 1x1 kernels, no padding, in_c a multiple of 16 and out_c of 4. */
void ek_conv2d_s8_pointwise_mve(const ek_mve_conv_params *p, const int8_t *input, const int32_t *w,
                                int8_t *output, void *scratch);
/* Any kernel without dilation. */
void ek_conv2d_s8_im2col_mve(const ek_mve_conv_params *p, const int8_t *input, const int32_t *w,
                             int8_t *output, void *scratch);
/* 3x3, equal strides of 1 or 2, out_w of 4 at least, out_c a multiple of 4. */
void ek_conv2d_s8_rows3_mve(const ek_mve_conv_params *p, const int8_t *input, const int32_t *w,
                            int8_t *output, void *scratch);

int32_t ek_conv2d_s8_pointwise_mve_scratch_bytes(const ek_mve_conv_params *p);
int32_t ek_conv2d_s8_im2col_mve_scratch_bytes(const ek_mve_conv_params *p);
int32_t ek_conv2d_s8_rows3_mve_scratch_bytes(const ek_mve_conv_params *p);

/* Weights of eight outputs at a time: int32 bias[8] in the order 0 2 4 6 1 3 5 7, then
 * int8 w[blocks][8][16] in the same order. */
typedef struct {
  int32_t quant[5]; /* mult, shift, zp, lo, hi */
  const int8_t *x;  /* 20 */
  const int32_t *w; /* 24 */
  int8_t *out;      /* 28 */
  int32_t out_c;    /* 32 */
  int32_t blocks;   /* 36 */
} ek_mve_dense;

typedef void (*ek_mve_dense_fn)(const ek_mve_dense *a);
void ek_mve_dense_plain(const ek_mve_dense *a);
void ek_mve_dense_signed(const ek_mve_dense *a);
void ek_mve_dense_clamped(const ek_mve_dense *a);

typedef struct {
  int32_t mult, shift; /* shift: to the right as a negative number */
  int32_t zp, lo, hi;  /* of the output */
  int32_t rows, in_c, out_c;
  ek_mve_dense_fn dense;
} ek_mve_fc_params;

void ek_fully_connected_s8_mve(const ek_mve_fc_params *p, const int8_t *input, const int32_t *w,
                               int8_t *output, void *scratch);
int32_t ek_fully_connected_s8_mve_scratch_bytes(const ek_mve_fc_params *p);

/* k: c, b, a, sixteens of elements. out may be x or y. By shift. */
typedef void (*ek_mve_add_fn)(const int8_t *x, const int8_t *y, int8_t *out, const int32_t *k);
void ek_mve_add_4(const int8_t *x, const int8_t *y, int8_t *out, const int32_t *k);
void ek_mve_add_5(const int8_t *x, const int8_t *y, int8_t *out, const int32_t *k);
void ek_mve_add_6(const int8_t *x, const int8_t *y, int8_t *out, const int32_t *k);
void ek_mve_add_7(const int8_t *x, const int8_t *y, int8_t *out, const int32_t *k);

/* out = (a * x + b * y + c) / 2^(16 + shift), halves up, saturated. The sum stays within 32 bits. */
typedef struct {
  int32_t count;
  int32_t a, b, c, shift;
  ek_mve_add_fn sixteens;
} ek_mve_add_params;

void ek_add_s8_linear_mve(const ek_mve_add_params *p, const int8_t *x, const int8_t *y,
                          int8_t *out);
int32_t ek_add_s8_linear_mve_scratch_bytes(const ek_mve_add_params *p);

/* After pairs of groups: nothing; a group; a group that overlaps; half of one; a group and either. */
enum {
  EK_MVE_NONE = 0,
  EK_MVE_ONE = 1,
  EK_MVE_BACK = 2,
  EK_MVE_HALF = 3,
  EK_MVE_ONE_BACK = 4,
  EK_MVE_ONE_HALF = 5
};

/* Depthwise. Offsets of the first structures are those in the assembly.
 * w, each channel: int32 bias, mult, shift & 255; then the words 0, k0, k1, k2, 0: kv is the column of
 * taps at v, a byte for each u, the fourth 0. */
typedef struct {
  const int8_t *planes;         /* 0: [channel][column][4] */
  const void *w;                /* 4 */
  int8_t *out;                  /* 8 */
  int32_t channels;             /* 12 */
  int32_t plane;                /* 16: bytes of a plane */
  int32_t pairs;                /* 20: 256 * (pairs of groups - 1) */
  int32_t back_planes;          /* 24: bytes to go back before the last group */
  int32_t back_out;             /* 28 */
  int32_t out_group;            /* 32: bytes of output from group to group */
  const uint16_t *offsets;      /* 36: of a group's outputs, accumulators 0 4 1 5 2 6 3 7 */
  const uint32_t *half_offsets; /* 40: of the first four outputs */
  int32_t zp, lo, hi;           /* 44, 48, 52 */
  int32_t rest;                 /* 56: what follows the pairs */
} ek_mve_planar;

typedef struct {
  const int8_t *from[4]; /* 0 */
  int32_t step[4];       /* 16: bytes to the next column */
  int8_t *to;            /* 32 */
  int32_t plane;         /* 36 */
  int32_t channels;      /* 40: 1 to 16 are read; sixteen planes are written */
  int32_t n;             /* 44: columns, at least one */
} ek_mve_columns;

void ek_mve_to_planes(const ek_mve_columns *a);

typedef void (*ek_mve_planar_fn)(const ek_mve_planar *a);
/* tile: two by four outputs, stride 1. line1, line2: eight outputs along v, stride 1 or 2. */
void ek_mve_planar_tile_plain(const ek_mve_planar *a);
void ek_mve_planar_tile_signed(const ek_mve_planar *a);
void ek_mve_planar_tile_clamped(const ek_mve_planar *a);
void ek_mve_planar_line1_plain(const ek_mve_planar *a);
void ek_mve_planar_line1_signed(const ek_mve_planar *a);
void ek_mve_planar_line1_clamped(const ek_mve_planar *a);
void ek_mve_planar_line2_plain(const ek_mve_planar *a);
void ek_mve_planar_line2_signed(const ek_mve_planar *a);
void ek_mve_planar_line2_clamped(const ek_mve_planar *a);

typedef struct {
  int32_t in_u, in_v, out_u, out_v;
  int32_t in_su, in_sv, out_su, out_sv; /* bytes from line to line and pixel to pixel */
  int32_t pad_u, pad_v, stride, channels;
  int32_t in_zp, out_zp, lo, hi;
  ek_mve_planar_fn two, one; /* two: may be NULL when it never applies; one likewise */
} ek_mve_depthwise_params;

/* Kernels up to 3x3, no dilation, multiplier 1. Stride 1: out_v of 8 at least, or 4 with out_u of 2;
 * stride 2: out_v of 8. Output offsets within a group stay below 65,536. */
void ek_depthwise_s8_planar_mve(const ek_mve_depthwise_params *p, const int8_t *input,
                                const int32_t *w, int8_t *output, void *scratch);
int32_t ek_depthwise_s8_planar_mve_scratch_bytes(const ek_mve_depthwise_params *p);

/* table: 256 results, that of -128 first. output may be input. */
void ek_lut_s8_mve(const int8_t *input, const int8_t *table, int8_t *output, int32_t n);

/* Sums of a window, sixteen channels at a time or, below that, up to eight. */
typedef struct {
  const int8_t *x;
  int32_t step, row; /* bytes from pixel to pixel and from row to row */
  int32_t rows, cols;
  int32_t channels; /* left */
} ek_mve_window;

void ek_mve_pool_sums(const ek_mve_window *a, int16_t *sums);
void ek_average_pool_s8_mve(const ek_pool_params *p, const int8_t *input, int8_t *output);
int32_t ek_average_pool_s8_mve_scratch_bytes(const ek_pool_params *p);

EK_INLINE int32_t ek_mve_round16(int32_t n) { return (n + 15) & ~15; }

/* VQRDMULH or VQRDMLAH onto the sign, then VRSHL by -e, then the narrowing and the zero point. */
EK_INLINE int32_t ek_mve_requant(int32_t acc, int32_t mult, int32_t shift, int32_t zp,
                                 int is_signed) {
  int64_t high = ek_srdhm(acc, mult);
  if (is_signed) high += acc >> 31;
  if (shift < 0) high = (high + ((int64_t)1 << (-shift - 1))) >> -shift;
  return ek_clamp(ek_clamp((int32_t)high, -32768, 32767) + zp, -32768, 32767);
}

#endif
