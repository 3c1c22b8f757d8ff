/* Operators that move bytes and compute nothing (CONCATENATION may also map them). Sizes, strides
 * and offsets are in bytes. */
#ifndef EK_MOVEMENT_H
#define EK_MOVEMENT_H

#include "ek_common.h"

/* RESHAPE, SQUEEZE and whatever else leaves the bytes alone: nothing where out == in. */
void ek_copy_ref(const void *input, void *output, int32_t bytes);

/* Five nested loops, outermost first, around a contiguous run of bytes. */
typedef struct {
  int32_t dims[EK_MAX_DIMS];
  int32_t in_stride[EK_MAX_DIMS]; /* negative where a slice runs backwards */
  int32_t out_stride[EK_MAX_DIMS];
  int32_t in_start, out_start; /* of the first run */
  int32_t run;
} ek_strided_params;

/* TRANSPOSE, STRIDED_SLICE. */
void ek_strided_copy_ref(const ek_strided_params *p, const void *input, void *output);

/* PAD: out_bytes bytes of value fill, the input among them. */
typedef struct {
  ek_strided_params copy;
  int32_t out_bytes;
  int32_t fill;
} ek_pad_params;

void ek_pad_ref(const ek_pad_params *p, const void *input, void *output);

/* CONCATENATION: outer rows, each row_bytes[k] from input k for k = 0 .. count - 1. */
void ek_concat_ref(const void *const *inputs, const int32_t *row_bytes, int32_t count,
                   int32_t outer, void *output);

/* The same; bytes of input k go through tables[k] (256 entries, index x + 128) unless it is NULL. */
void ek_concat_s8_lut_ref(const int8_t *const *inputs, const int8_t *const *tables,
                          const int32_t *row_bytes, int32_t count, int32_t outer, int8_t *output);

/* SPLIT: the reverse. */
void ek_split_ref(const void *input, const int32_t *row_bytes, int32_t count, int32_t outer,
                  void *const *outputs);

/* GATHER: for each of outer blocks of block bytes, runs of run bytes by index. */
typedef struct {
  int32_t outer, count; /* count: number of indices */
  int32_t block, run;
} ek_gather_params;

void ek_gather_ref(const ek_gather_params *p, const void *input, const int32_t *indices,
                   void *output);

#endif
