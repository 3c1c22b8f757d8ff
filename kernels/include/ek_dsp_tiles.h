/* 3x3 convolution by tiles in a transformed domain: what Winograd and polyphase kernels share.
 *
 * A tile is tile x tile outputs, made from size x size inputs. Inputs are transformed by columns, then
 * by rows, into streams of pairs of channels (int16); four tiles at a time meet two output channels in
 * ek_mac_s16_2x4_dsp, which leaves one sum a position; positions are transformed back and requantized.
 * Everything is exact: sums may wrap modulo 2^32, the outputs they give are small. Weights are
 * transformed when the code is generated, or by the kernel, one pair of output channels at a time.
 *
 * Channels are taken four at a time: the pairs of a word are (0, 2) and (1, 3).
 */
#ifndef EK_DSP_TILES_H
#define EK_DSP_TILES_H

#include "ek_dsp.h"
#include "ek_dsp_mac.h"

/* groups: groups of four tiles that are transformed before the output channels take turns, 1 or more
 * (more than 1 pays where weights are transformed by the kernel). */
typedef struct {
  ek_conv_params conv;
  int32_t groups;
} ek_tiles_params;

/* Requantization of one output channel of F(4x4,3x3); fast: exp below EK_DSP_GENERAL - 31.
 * corner: biases, in place of quant.bias, of outputs (2,2), (2,3), (3,2), (3,3) of a tile. */
typedef struct {
  ek_dsp_quant quant;
  int32_t corner[4];
} ek_tile_quant;

/* Winograd F(4x4,3x3), stride 1.
 * weights: int16, [out_c / 2, rounded up][36 positions][pairs of channels][2 output channels][2].
 * quant: one an output channel, padded to an even number; its fields are as in the kernels'
 * output transforms. */
void ek_conv2d_s8_winograd_f4_dsp(const ek_tiles_params *p, const int8_t *input,
                                  const int16_t *weights, const ek_tile_quant *quant, int8_t *output,
                                  void *scratch);
int32_t ek_conv2d_s8_winograd_f4_dsp_scratch_bytes(const ek_tiles_params *p);

/* The same from int8 weights [out_c][3][3][in_c, rounded up to a multiple of 4]. */
void ek_conv2d_s8_winograd_f4_lean_dsp(const ek_tiles_params *p, const int8_t *input,
                                       const int8_t *weights, const ek_dsp_quant *quant,
                                       int8_t *output, void *scratch);
int32_t ek_conv2d_s8_winograd_f4_lean_dsp_scratch_bytes(const ek_tiles_params *p);

/* Winograd F(2x2,3x3), stride 1; 16 positions. */
void ek_conv2d_s8_winograd_f2_dsp(const ek_tiles_params *p, const int8_t *input,
                                  const int16_t *weights, const ek_dsp_quant *quant, int8_t *output,
                                  void *scratch);
int32_t ek_conv2d_s8_winograd_f2_dsp_scratch_bytes(const ek_tiles_params *p);
void ek_conv2d_s8_winograd_f2_lean_dsp(const ek_tiles_params *p, const int8_t *input,
                                       const int8_t *weights, const ek_dsp_quant *quant,
                                       int8_t *output, void *scratch);
int32_t ek_conv2d_s8_winograd_f2_lean_dsp_scratch_bytes(const ek_tiles_params *p);

/* Stride 2 in its four phases, the even ones by Winograd F(2,2); 25 streams in 9 positions. */
void ek_conv2d_s8_polyphase_dsp(const ek_tiles_params *p, const int8_t *input,
                                const int16_t *weights, const ek_dsp_quant *quant, int8_t *output,
                                void *scratch);
int32_t ek_conv2d_s8_polyphase_dsp_scratch_bytes(const ek_tiles_params *p);
void ek_conv2d_s8_polyphase_lean_dsp(const ek_tiles_params *p, const int8_t *input,
                                     const int8_t *weights, const ek_dsp_quant *quant,
                                     int8_t *output, void *scratch);
int32_t ek_conv2d_s8_polyphase_lean_dsp_scratch_bytes(const ek_tiles_params *p);

/* -- stages of a scheme -------------------------------------------------------------------------- */

/* Columns of a run of up to four tiles: size 6 in steps of 4. */
#define EK_TILE_COLUMNS 18

/* Inputs of one run of tiles, four channels.
 * rows: size pointers to the rows (those outside the input point to zero points); offset: bytes from
 * there to the first column's channels; step: bytes from column to column;
 * v: [2 pairs][size][EK_TILE_COLUMNS] words, at the first column. */
typedef struct {
  const int8_t *const *rows;
  int32_t offset;
  int32_t step;
  int32_t columns;
  uint32_t *v;
} ek_tile_columns;

/* v: as above, at the run's first column; x: the streams, at the first tile's lane and pair;
 * stride: bytes from stream to stream. */
typedef struct {
  const uint32_t *v;
  uint32_t *x;
  int32_t stride;
  int32_t tiles;
} ek_tile_rows;

/* Where a tile's outputs go. */
typedef struct {
  int8_t *out;
  int32_t pixel_step;
  int32_t row_step;
} ek_tile_place;

/* One output channel of up to four tiles.
 * m: sums, per position [2][4], at this channel's; quant: of this channel, its exp a shift;
 * corner: F(4x4,3x3)'s, see ek_tile_quant; channel: bytes to add to each place; linear: 0 when results below zero clamp to -128 anyway. */
typedef struct {
  const int32_t *m;
  const ek_dsp_quant *quant;
  const ek_tile_place *place;
  int32_t tiles;
  int32_t channel;
  int32_t linear;
  const int32_t *corner;
} ek_tile_output;

#endif
