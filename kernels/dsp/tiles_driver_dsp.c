/* The order of work of the convolutions by tiles (ek_dsp_tiles.h). */
#include "ek_dsp_tiles_driver.h"

/* A function of its own: inlined into one another the loops spill on every turn. */
#define STAGE static __attribute__((noinline))

/* Small rather than fast: not where the time goes, and clang unrolls such loops generously. */
#if defined(__clang__)
#define SELDOM static __attribute__((noinline, minsize))
#else
#define SELDOM static __attribute__((noinline, cold))
#endif

/* What one call works on. */
typedef struct {
  const ek_tiles_params *p;
  const ek_tile_scheme *s;
  const int8_t *input;
  int8_t *output;
  uint32_t *shared;
  int8_t *zero_row;
  int8_t *copies;      /* of the rows copied_row .. + size, or NULL */
  int32_t copied_row;  /* tile row of the copies, -1: none */
  int32_t in_c, pairs; /* in_c rounded up */
  int32_t tiles_x, tiles;
  int32_t placed;       /* first tile of the group whose places are below, -1: none */
  int32_t channel;      /* ... and their channel */
  int32_t partial;      /* bit i: tile i reaches over the border */
  ek_tile_place place[4];
  int8_t edge[4][32];   /* outputs of such tiles, [tile][tile][2 channels] */
} state;

/* A row's pixels at multiples of four bytes. What follows a pixel's channels is of no consequence: its
 * weights are zero. */
STAGE void copy_row(int8_t *dst, const int8_t *src, int32_t n, int32_t in_c) {
  const int32_t last = in_c == 1 ? 3 : 1; /* pixels after which four bytes would be too many */
  if (in_c < 4) {
    for (; n > last; --n, src += in_c, dst += 4) ek_store32(dst, ek_load32(src));
  }
  for (; n > last; --n, src += in_c) {
    for (int32_t k = 0; k < in_c; k += 4, dst += 4) ek_store32(dst, ek_load32(src + k));
  }
  for (; n > 0; --n, src += in_c, dst += (in_c + 3) & ~3) {
    for (int32_t k = 0; k < in_c; ++k) dst[k] = src[k];
  }
}

/* Pointers to the rows of a tile row. */
EK_INLINE void row_table(state *t, int32_t row, const int8_t **rows) {
  const ek_conv_params *c = &t->p->conv;
  const int32_t size = t->s->size;
  const int32_t bytes = c->in_w * t->in_c;
  int32_t y = row * t->s->step - c->pad_top;
  for (int32_t i = 0; i < size; ++i, ++y) {
    if (y < 0 || y >= c->in_h) {
      rows[i] = t->zero_row;
    } else if (t->copies == NULL) {
      rows[i] = t->input + y * bytes;
    } else {
      int8_t *dst = t->copies + i * bytes;
      rows[i] = dst;
      if (t->copied_row == row) continue;
      copy_row(dst, t->input + y * c->in_w * c->in_c, c->in_w, c->in_c);
    }
  }
  t->copied_row = row;
}

/* Streams of up to four tiles from index first on. */
STAGE void transform_input(state *t, int32_t first, uint32_t *x) {
  const ek_conv_params *c = &t->p->conv;
  const ek_tile_scheme *s = t->s;
  const int8_t *rows[EK_TILE_MAX_SIZE];
  int32_t lane = 0;
  while (lane < 4 && first + lane < t->tiles) {
    const int32_t row = (first + lane) / t->tiles_x;
    const int32_t column = (first + lane) - row * t->tiles_x;
    const int32_t n = ek_min(4 - lane, t->tiles_x - column);
    const int32_t start = column * s->step - c->pad_left;
    const int32_t columns = (n - 1) * s->step + s->size;
    const int32_t from = ek_clamp(-start, 0, columns);
    const int32_t to = ek_max(ek_min(c->in_w - start, columns), from);
    uint32_t *v = t->shared;
    row_table(t, row, rows);
    if (from > 0 || to < columns) { /* columns outside hold what a column of zero points gives */
      const int8_t *none[EK_TILE_MAX_SIZE];
      for (int32_t i = 0; i < s->size; ++i) none[i] = t->zero_row;
      for (int32_t k = 0; k < columns; ++k) {
        if (k >= from && k < to) continue;
        const ek_tile_columns outside = {none, 0, 0, 1, v + k};
        s->columns(&outside);
      }
    }
    ek_tile_columns inside = {rows, (start + from) * t->in_c, t->in_c, to - from, v + from};
    ek_tile_rows across = {v, x + lane, 16 * t->pairs, n};
    for (int32_t i = 0; i < t->in_c; i += 4) {
      if (inside.columns > 0) s->columns(&inside);
      s->rows(&across);
      inside.offset += 4;
      across.x += 8;
    }
    lane += n;
  }
}

/* Any multiplier, shift and clamp: quant->bias is 2^scale times a bias that keeps the sum small,
 * quant->round the rest of the bias. */
SELDOM void general_output(const state *t, const ek_tile_output *o) {
  const ek_conv_params *c = &t->p->conv;
  const ek_dsp_quant *q = o->quant;
  const int32_t n = t->s->tile;
  for (int32_t i = 0; i < o->tiles; ++i) {
    int32_t y[16];
    t->s->inverse(o->m + i, y);
    for (int32_t k = 0; k < n * n; ++k) {
      const int32_t row = k / n, column = k % n;
      int32_t bias = q->bias;
      if (row >= 2 && column >= 2) bias = o->corner[2 * row + column - 6];
      const int32_t acc = ek_add_wrap(ek_add_wrap(y[k], bias) >> t->s->scale, q->round);
      const ek_tile_place *at = o->place + i;
      at->out[row * at->row_step + column * at->pixel_step + o->channel] =
          ek_finish_s8(ek_requant(acc, q->mult, (int)(q->exp - EK_DSP_GENERAL)), c->out_zp, -128,
                       127);
    }
  }
}

/* Where the outputs of a group go from a channel on. */
STAGE void find_places(state *t, int32_t first, int32_t channel) {
  const ek_conv_params *c = &t->p->conv;
  const int32_t tile = t->s->tile;
  int32_t row = first / t->tiles_x;
  int32_t column = first - row * t->tiles_x;
  t->placed = first;
  t->channel = channel;
  t->partial = 0;
  for (int32_t i = 0; i < 4; ++i) {
    const int32_t y = row * tile, x = column * tile;
    ek_tile_place *at = t->place + i;
    if (y + tile <= c->out_h && x + tile <= c->out_w) {
      at->out = t->output + (y * c->out_w + x) * c->out_c + channel;
      at->pixel_step = c->out_c;
      at->row_step = c->out_w * c->out_c;
    } else {
      at->out = t->edge[i];
      at->pixel_step = 2;
      at->row_step = 2 * tile;
      t->partial |= 1 << i;
    }
    if (++column == t->tiles_x) {
      column = 0;
      ++row;
    }
  }
}

/* Outputs of tiles that reach over the border, from their buffers. */
SELDOM void copy_edges(const state *t, int32_t first, int32_t tiles, int32_t channel,
                      int32_t channels) {
  const ek_conv_params *c = &t->p->conv;
  const int32_t tile = t->s->tile;
  for (int32_t i = 0; i < tiles; ++i) {
    if (((t->partial >> i) & 1) == 0) continue;
    const int32_t y0 = (first + i) / t->tiles_x * tile;
    const int32_t x0 = (first + i) % t->tiles_x * tile;
    for (int32_t y = 0; y < tile && y0 + y < c->out_h; ++y) {
      int8_t *out = t->output + ((y0 + y) * c->out_w + x0) * c->out_c + channel;
      const int8_t *in = t->edge[i] + 2 * y * tile;
      for (int32_t x = 0; x < tile && x0 + x < c->out_w; ++x, out += c->out_c, in += 2) {
        for (int32_t k = 0; k < channels; ++k) out[k] = in[k];
      }
    }
  }
}

/* One group's outputs of two channels. */
EK_INLINE void group_outputs(state *t, int32_t first, const ek_mac_s16 *mac,
                             const ek_dsp_quant *quant, int32_t channel) {
  const ek_conv_params *c = &t->p->conv;
  const int32_t both = ek_min(2, c->out_c - channel);
  const int32_t tiles = ek_min(4, t->tiles - first);
  if (t->placed != first) {
    find_places(t, first, channel);
  } else if (t->channel != channel) {
    for (int32_t i = 0; i < 4; ++i) {
      if (((t->partial >> i) & 1) == 0) t->place[i].out += channel - t->channel;
    }
    t->channel = channel;
  }
  ek_mac_s16_2x4_dsp(mac);
  ek_tile_output o = {mac->m, quant, t->place, tiles, 0, c->out_zp != -128, NULL};
  int32_t same[4];
  for (int32_t k = 0; k < both; ++k, ++o.channel, o.m += 4, o.quant += 1 + t->s->corner) {
    o.corner = same;
    if (t->s->corner) {
      o.corner = ((const ek_tile_quant *)(const void *)o.quant)->corner;
    } else if (t->s->tile == 4) {
      same[0] = same[1] = same[2] = same[3] = o.quant->bias;
    }
    if (o.quant->exp < EK_DSP_GENERAL - 31) {
      t->s->output(&o);
    } else {
      general_output(t, &o);
    }
  }
  if (t->partial) copy_edges(t, first, tiles, channel, both);
}

void ek_tiles_conv(const ek_tiles_params *p, const ek_tile_scheme *s, const int8_t *input,
                   const void *weights, const ek_dsp_quant *quant, int8_t *output, void *scratch,
                   int lean) {
  const ek_conv_params *c = &p->conv;
  const int32_t group_words = ek_tile_group_bytes(c, s->streams) / 4;
  const int32_t weight_words = ek_tile_weight_bytes(c, s->streams) / 4;
  uint32_t *x = (uint32_t *)scratch;
  uint32_t *transformed = x + p->groups * group_words;
  state t; /* no initializer: it would call a library */
  t.p = p;
  t.s = s;
  t.input = input;
  t.output = output;
  t.shared = transformed + (lean ? weight_words : 0);
  t.zero_row = (int8_t *)t.shared + ek_tile_shared_bytes(s->size, s->positions);
  t.in_c = ek_tile_in_c(c);
  t.pairs = t.in_c / 2;
  t.copies = NULL;
  t.copied_row = -1;
  t.placed = -1;
  t.tiles_x = ek_tile_count(c->out_w, s->tile);
  t.tiles = t.tiles_x * ek_tile_count(c->out_h, s->tile);
  memset(t.zero_row, c->in_zp, (size_t)(c->in_w * t.in_c));
  if (c->in_c % 4 != 0) {
    t.copies = t.zero_row + c->in_w * t.in_c;
    memset(t.copies, 0, (size_t)(s->size * c->in_w * t.in_c));
  }
  ek_mac_s16 mac;
  for (int i = 0; i <= EK_MAC_MAX_RUNS; ++i) {
    mac.runs[i].positions = s->runs[i].positions;
    mac.runs[i].blocks = s->runs[i].blocks * t.pairs;
  }
  mac.m = (int32_t *)t.shared;
  for (int32_t done = 0; done < t.tiles; done += 4 * p->groups) {
    const int32_t groups = ek_min(p->groups, ek_tile_count(t.tiles - done, 4));
    for (int32_t g = 0; g < groups; ++g) transform_input(&t, done + 4 * g, x + g * group_words);
    for (int32_t o = 0; o < c->out_c; o += 2) {
      if (lean) {
        const int8_t *w = (const int8_t *)weights + o * 9 * t.in_c;
        s->weights(w, t.in_c, t.pairs, 0, transformed);
        if (o + 1 < c->out_c) s->weights(w + 9 * t.in_c, t.in_c, t.pairs, 1, transformed);
        mac.w = transformed;
      } else {
        mac.w = (const uint32_t *)weights + o / 2 * weight_words;
      }
      for (int32_t g = 0; g < groups; ++g) {
        mac.x = x + g * group_words;
        group_outputs(&t, done + 4 * g, &mac, quant + o * (1 + s->corner), o);
      }
    }
  }
  if (c->act_min != -128 || c->act_max != 127) {
    const int32_t n = c->out_h * c->out_w * c->out_c;
    for (int32_t i = 0; i < n; ++i) output[i] = (int8_t)ek_clamp(output[i], c->act_min, c->act_max);
  }
}
