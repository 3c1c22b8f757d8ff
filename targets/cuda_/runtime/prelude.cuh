/* What the generated kernels call. Kernels are compiled for the GPU behind this file, and for this
   machine's processor behind host.hpp (with EK_HOST). */
#ifndef EK_HOST
#include <cuda_fp16.h>
#define EK_DEVICE static __device__ __forceinline__

EK_DEVICE int ek_warp_xor(int v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
EK_DEVICE float ek_warp_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
EK_DEVICE int ek_dp4a(int a, int b, int c) { return __dp4a(a, b, c); }
EK_DEVICE int ek_clz(int v) { return __clz(v); }

/* PTX ISA, "mma": D = A * B + D; each lane holds its fragments of the 16 x 8 tile. */
EK_DEVICE void ek_mma_s8(int *d, const int *a, const int *b) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
EK_DEVICE void ek_mma_f16(float *d, const int *a, const int *b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
EK_DEVICE void ek_mma_tf32(float *d, const int *a, const int *b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
EK_DEVICE int ek_tf32(float v) {
  int bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
}
EK_DEVICE int ek_as_int(float v) { return __float_as_int(v); }
EK_DEVICE float ek_as_float(int v) { return __int_as_float(v); }
EK_DEVICE unsigned ek_half_bits(half v) { return __half_as_ushort(v); }
EK_DEVICE half ek_bits_half(unsigned v) { return __ushort_as_half((unsigned short)v); }
#endif

#define uint unsigned int
#define uchar unsigned char
#define ushort unsigned short
#ifndef EK_HOST
typedef long long ek_long;
#define int64_t ek_long
#endif

/* Two halves in one word, the first one low. */
EK_DEVICE int ek_half2(float low, float high) {
  return (int)(ek_half_bits((half)low) | ek_half_bits((half)high) << 16);
}

EK_DEVICE int ek_dot_s8(int x, int w, int acc) { return ek_dp4a(x, w, acc); }
EK_DEVICE float ek_dot_f32(float x, float w, float acc) { return acc + x * w; }
EK_DEVICE float ek_dot_tf32(int x, int w, float acc) {
  return acc + ek_as_float(x) * ek_as_float(w);
}
EK_DEVICE float ek_dot_f16(int x, int w, float acc) {
  const unsigned a = (unsigned)x, b = (unsigned)w;
  acc += (float)ek_bits_half(a & 0xffffu) * (float)ek_bits_half(b & 0xffffu);
  return acc + (float)ek_bits_half(a >> 16) * (float)ek_bits_half(b >> 16);
}

EK_DEVICE int ek_sum_int32(int v) {
  for (int mask = 16; mask > 0; mask >>= 1) v += ek_warp_xor(v, mask);
  return v;
}
EK_DEVICE float ek_sum_float32(float v) {
  for (int mask = 16; mask > 0; mask >>= 1) v += ek_warp_xor(v, mask);
  return v;
}

/* TFLite's MultiplyByQuantizedMultiplier with gemmlowp's double rounding; modulo 2**32. */
EK_DEVICE int ek_requantize(int acc, int bias, int multiplier, int right, int left) {
  const int x = (int)(((unsigned)acc + (unsigned)bias) << left);
  long long high = ((long long)x * multiplier + (1LL << 30)) >> 31;
  if (right > 0) high = (high + (high >> 63) + (1LL << (right - 1))) >> right;
  return (int)high;
}
