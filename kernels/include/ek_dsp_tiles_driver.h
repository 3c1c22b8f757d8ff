/* What the kernels of ek_dsp_tiles.h share: a scheme is constants and functions of the kernel. */
#ifndef EK_DSP_TILES_DRIVER_H
#define EK_DSP_TILES_DRIVER_H

#include "ek_dsp_quant.h"
#include "ek_dsp_tiles.h"

#define EK_TILE_MAX_SIZE 6

typedef struct {
  int32_t tile;      /* outputs along an axis */
  int32_t step;      /* inputs from tile to tile */
  int32_t size;      /* inputs along an axis */
  int32_t streams;   /* words of a pair of channels and a tile */
  int32_t positions; /* sums of an output channel and a tile */
  int32_t scale;     /* log2 of how much larger outputs are before requantization */
  int32_t corner;    /* 1: quant points to ek_tile_quant */
  ek_mac_run runs[EK_MAC_MAX_RUNS + 1]; /* blocks: streams of each position */
  void (*columns)(const ek_tile_columns *p);
  void (*rows)(const ek_tile_rows *p);
  void (*output)(const ek_tile_output *p);
  /* one channel's outputs of one tile, 2^scale times the convolution: y[tile][tile] */
  void (*inverse)(const int32_t *m, int32_t *y);
  /* two words of weights for each stream and pair: two channels' [3][3][in_c] */
  void (*weights)(const int8_t *w, int32_t in_c, int32_t pairs, int32_t channel, uint32_t *dst);
} ek_tile_scheme;

EK_INLINE int32_t ek_tile_in_c(const ek_conv_params *p) { return (p->in_c + 3) & ~3; }
EK_INLINE int32_t ek_tile_count(int32_t n, int32_t tile) { return (n + tile - 1) / tile; }

/* Bytes of one group's streams, and of one pair of output channels' weights. */
EK_INLINE int32_t ek_tile_group_bytes(const ek_conv_params *p, int32_t streams) {
  return streams * (ek_tile_in_c(p) / 2) * 16;
}
EK_INLINE int32_t ek_tile_weight_bytes(const ek_conv_params *p, int32_t streams) {
  return streams * (ek_tile_in_c(p) / 2) * 8;
}
/* The columns' words and the sums are never alive together. */
EK_INLINE int32_t ek_tile_shared_bytes(int32_t size, int32_t positions) {
  return ek_max(2 * 4 * size * EK_TILE_COLUMNS, 32 * positions);
}
/* A row of zero points, and the tile's rows where their channels are not a multiple of four. */
EK_INLINE int32_t ek_tile_rows_bytes(const ek_conv_params *p, int32_t size) {
  return (p->in_c % 4 == 0 ? 1 : 1 + size) * p->in_w * ek_tile_in_c(p);
}

EK_INLINE int32_t ek_tiles_scratch_bytes(const ek_tiles_params *p, int32_t size, int32_t streams,
                                         int32_t positions, int lean) {
  const ek_conv_params *c = &p->conv;
  return p->groups * ek_tile_group_bytes(c, streams) +
         (lean ? ek_tile_weight_bytes(c, streams) : 0) + ek_tile_shared_bytes(size, positions) +
         ek_tile_rows_bytes(c, size);
}

void ek_tiles_conv(const ek_tiles_params *p, const ek_tile_scheme *s, const int8_t *input,
                   const void *weights, const ek_dsp_quant *quant, int8_t *output, void *scratch,
                   int lean);

#endif
