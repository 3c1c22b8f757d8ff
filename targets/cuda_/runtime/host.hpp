/* The CUDA execution model on one processor, for checking kernels without a GPU.

   Every thread of a block is a coroutine. At a collective (a barrier, a shuffle, a matrix product of
   a warp) a thread waits until all threads of its block have arrived, so the model is stricter than
   the hardware: a block whose threads do not all meet at the same collectives is an error here.
   Tensor core products follow the fragment layouts of the PTX ISA.

   Freestanding C++ (no C++ library is linked). */
#define EK_HOST 1
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define EK_DEVICE static inline
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __shared__ static
#define __restrict__ __restrict

struct ek_dim3 {
  unsigned x, y, z;
};
static ek_dim3 threadIdx, blockIdx, blockDim, gridDim;

typedef _Float16 half;
/* CUDA's small vectors. */
#define EK_VECTORS(name, type)                                                                     \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                         \
  struct alignas(4 * sizeof(type)) name##4 { type x, y, z, w; };                                   \
  static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                          \
  static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EK_VECTORS(char, signed char)
EK_VECTORS(uchar, unsigned char)
EK_VECTORS(short, short)
EK_VECTORS(ushort, unsigned short)
EK_VECTORS(int, int)
EK_VECTORS(uint, unsigned int)
EK_VECTORS(longlong, long long)
EK_VECTORS(float, float)
EK_VECTORS(double, double)

template <typename T> static inline T max(T a, T b) { return a > b ? a : b; }
template <typename T> static inline T min(T a, T b) { return a < b ? a : b; }
#define __expf expf

/* -- threads ------------------------------------------------------------------------------- */

enum { EK_MAX_THREADS = 1024, EK_STACK = 65536 };
enum ek_point { EK_DONE, EK_BARRIER, EK_SHUFFLE, EK_MMA };

struct ek_thread {
  ucontext_t context;
  ek_point at;
  int phase; /* double buffering of what lanes exchange */
};
static ek_thread ek_threads[EK_MAX_THREADS];
static ucontext_t ek_scheduler;
static unsigned char *ek_stacks;
static unsigned ek_me;
static void (*ek_body)(void);

struct ek_lane {
  int word;
  int a[4], b[2];
};
static ek_lane ek_lanes[2][EK_MAX_THREADS];

static inline int ek_wait(ek_point at) {
  ek_thread *t = &ek_threads[ek_me];
  const int phase = t->phase;
  t->phase ^= 1;
  t->at = at;
  swapcontext(&t->context, &ek_scheduler);
  return phase;
}
static inline void __syncthreads(void) { ek_wait(EK_BARRIER); }
static inline unsigned __activemask(void) { return 0xffffffffu; }

static inline int ek_as_int(float v) { int b; memcpy(&b, &v, 4); return b; }
static inline float ek_as_float(int v) { float f; memcpy(&f, &v, 4); return f; }
static inline unsigned ek_half_bits(half v) { unsigned short b; memcpy(&b, &v, 2); return b; }
static inline half ek_bits_half(unsigned v) {
  unsigned short b = (unsigned short)v;
  half h;
  memcpy(&h, &b, 2);
  return h;
}

static inline int ek_exchange(int v, int from, int inside) {
  const int phase = ek_threads[ek_me].phase;
  ek_lanes[phase][ek_me].word = v;
  ek_wait(EK_SHUFFLE);
  return inside ? ek_lanes[phase][from].word : v;
}
static inline int ek_warp_xor(int v, int mask) { return ek_exchange(v, (int)ek_me ^ mask, 1); }
static inline float ek_warp_xor(float v, int mask) {
  return ek_as_float(ek_warp_xor(ek_as_int(v), mask));
}
/* The sources of generated reductions: within the width, else the thread's own value. */
static inline int __shfl_down_sync(unsigned, int v, int delta, int width) {
  const int lane = (int)ek_me % width;
  return ek_exchange(v, (int)ek_me + delta, lane + delta < width && ek_me + delta < EK_MAX_THREADS);
}
static inline float __shfl_down_sync(unsigned m, float v, int delta, int width) {
  return ek_as_float(__shfl_down_sync(m, ek_as_int(v), delta, width));
}
static inline int __shfl_sync(unsigned, int v, int lane, int width) {
  return ek_exchange(v, (int)ek_me - (int)ek_me % width + lane % width, 1);
}
static inline float __shfl_sync(unsigned m, float v, int lane, int width) {
  return ek_as_float(__shfl_sync(m, ek_as_int(v), lane, width));
}

static inline int ek_dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++)
    c = (int)((unsigned)c + (unsigned)((int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i)));
  return c;
}
static inline int ek_clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int ek_tf32(float v) {
  return (int)(((unsigned)ek_as_int(v) + 0x1000u) & 0xffffe000u);
}

/* Word k (of 8) of row r (of 16) of A, and of column n (of 8) of B, in the fragments of lanes:
   A registers are (row g, word p), (g + 8, p), (g, p + 4), (g + 8, p + 4) of lane 4 g + p; B
   registers are (word p, column g), (p + 4, g). */
static inline int ek_a(int phase, unsigned warp, int r, int k) {
  return ek_lanes[phase][warp + (r % 8) * 4 + k % 4].a[r / 8 + 2 * (k / 4)];
}
static inline int ek_b(int phase, unsigned warp, int n, int k) {
  return ek_lanes[phase][warp + n * 4 + k % 4].b[k / 4];
}
static inline int ek_products(int x, int w, int acc) { return ek_dp4a(x, w, acc); }
static inline float ek_products16(int x, int w, float acc) {
  const unsigned a = (unsigned)x, b = (unsigned)w;
  acc += (float)ek_bits_half(a) * (float)ek_bits_half(b);
  return acc + (float)ek_bits_half(a >> 16) * (float)ek_bits_half(b >> 16);
}
static inline float ek_products32(int x, int w, float acc) {
  return acc + ek_as_float(x) * ek_as_float(w);
}
template <typename T, T (*F)(int, int, T)>
static inline void ek_mma(T *d, const int *a, const int *b) {
  const int phase = ek_threads[ek_me].phase;
  memcpy(ek_lanes[phase][ek_me].a, a, 16);
  memcpy(ek_lanes[phase][ek_me].b, b, 8);
  ek_wait(EK_MMA);
  const unsigned warp = ek_me & ~31u;
  const int g = (int)(ek_me & 31u) / 4, p = (int)(ek_me & 31u) % 4;
  for (int i = 0; i < 4; i++) { /* (g, 2p), (g, 2p + 1), (g + 8, 2p), (g + 8, 2p + 1) */
    T sum = d[i];
    for (int k = 0; k < 8; k++)
      sum = F(ek_a(phase, warp, g + 8 * (i / 2), k), ek_b(phase, warp, 2 * p + i % 2, k), sum);
    d[i] = sum;
  }
}
static inline void ek_mma_s8(int *d, const int *a, const int *b) { ek_mma<int, ek_products>(d, a, b); }
static inline void ek_mma_f16(float *d, const int *a, const int *b) {
  ek_mma<float, ek_products16>(d, a, b);
}
static inline void ek_mma_tf32(float *d, const int *a, const int *b) {
  ek_mma<float, ek_products32>(d, a, b);
}
