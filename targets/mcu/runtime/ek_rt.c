/* The few functions a compiler calls behind one's back, so that firmware needs no library:
 * memcpy, memmove, memset, and the run-time ABI for the Arm architecture (IHI 0043) on top.
 *
 * Built with -fno-builtin, or the loops would be recognized and become calls to themselves.
 */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);

/* Words of any alignment that may alias anything. */
typedef uint32_t __attribute__((may_alias)) word;
typedef uint32_t __attribute__((may_alias, aligned(1))) loose;

/* From low to high addresses; d may overlap s where it lies below. */
static void forward(uint8_t *d, const uint8_t *s, size_t n) {
  if (n >= 8) {
    while ((uintptr_t)d & 3u) *d++ = *s++, --n;
#ifdef __ARM_FEATURE_UNALIGNED
    const int words = 1;
#else
    const int words = ((uintptr_t)s & 3u) == 0;
#endif
    if (words && ((uintptr_t)s & 3u) == 0) {
      for (; n >= 16; n -= 16, d += 16, s += 16) {
        const uint32_t a = ((const word *)(const void *)s)[0], b = ((const word *)(const void *)s)[1];
        const uint32_t c = ((const word *)(const void *)s)[2], e = ((const word *)(const void *)s)[3];
        ((word *)(void *)d)[0] = a;
        ((word *)(void *)d)[1] = b;
        ((word *)(void *)d)[2] = c;
        ((word *)(void *)d)[3] = e;
      }
    }
    if (words)
      for (; n >= 4; n -= 4, d += 4, s += 4)
        *(word *)(void *)d = *(const loose *)(const void *)s;
  }
  while (n--) *d++ = *s++;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  forward(to, from, n);
  return to;
}

void *memmove(void *to, const void *from, size_t n) {
  uint8_t *d = to;
  const uint8_t *s = from;
  if ((uintptr_t)d - (uintptr_t)s >= n)
    forward(d, s, n);
  else
    while (n) --n, d[n] = s[n];
  return to;
}

void *memset(void *to, int value, size_t n) {
  uint8_t *d = to;
  const uint32_t fill = (uint8_t)value * 0x01010101u;
  if (n >= 8) {
    while ((uintptr_t)d & 3u) *d++ = (uint8_t)value, --n;
    for (; n >= 16; n -= 16, d += 16) {
      ((word *)(void *)d)[0] = fill;
      ((word *)(void *)d)[1] = fill;
      ((word *)(void *)d)[2] = fill;
      ((word *)(void *)d)[3] = fill;
    }
    for (; n >= 4; n -= 4, d += 4) *(word *)(void *)d = fill;
  }
  while (n--) *d++ = (uint8_t)value;
  return to;
}

#ifdef __arm__
#define MEM3(name)                                           \
  void name(void *to, const void *from, size_t n);           \
  void name(void *to, const void *from, size_t n)
MEM3(__aeabi_memcpy) { memcpy(to, from, n); }
MEM3(__aeabi_memcpy4) { memcpy(to, from, n); }
MEM3(__aeabi_memcpy8) { memcpy(to, from, n); }
MEM3(__aeabi_memmove) { memmove(to, from, n); }
MEM3(__aeabi_memmove4) { memmove(to, from, n); }
MEM3(__aeabi_memmove8) { memmove(to, from, n); }
#define SET3(name)                                           \
  void name(void *to, size_t n, int value);                  \
  void name(void *to, size_t n, int value) { memset(to, value, n); }
SET3(__aeabi_memset)
SET3(__aeabi_memset4)
SET3(__aeabi_memset8)
#define CLR2(name)                                           \
  void name(void *to, size_t n);                             \
  void name(void *to, size_t n) { memset(to, 0, n); }
CLR2(__aeabi_memclr)
CLR2(__aeabi_memclr4)
CLR2(__aeabi_memclr8)
#endif

#if defined(__arm__) && defined(__clang__) /* gcc brings libgcc */

/* 64-bit helpers. Halves by hand: the operators themselves would become these calls. */
typedef union {
  uint64_t whole;
  struct {
    uint32_t low, high;
  } half;
} split;

uint64_t __aeabi_lmul(uint64_t a, uint64_t b);
uint64_t __aeabi_lmul(uint64_t a, uint64_t b) {
  const split x = {.whole = a}, y = {.whole = b};
  const uint32_t a0 = x.half.low & 0xFFFFu, a1 = x.half.low >> 16;
  const uint32_t b0 = y.half.low & 0xFFFFu, b1 = y.half.low >> 16;
  const uint32_t p00 = a0 * b0, p01 = a0 * b1, p10 = a1 * b0;
  const uint32_t middle = (p00 >> 16) + (p01 & 0xFFFFu) + (p10 & 0xFFFFu);
  split out;
  out.half.low = (middle << 16) | (p00 & 0xFFFFu);
  out.half.high = a1 * b1 + (p01 >> 16) + (p10 >> 16) + (middle >> 16) + x.half.low * y.half.high +
                  x.half.high * y.half.low;
  return out.whole;
}

uint64_t __aeabi_llsl(uint64_t a, int n);
uint64_t __aeabi_llsl(uint64_t a, int n) {
  split x = {.whole = a};
  if (n >= 32) {
    x.half.high = x.half.low << (n - 32);
    x.half.low = 0;
  } else if (n > 0) {
    x.half.high = (x.half.high << n) | (x.half.low >> (32 - n));
    x.half.low <<= n;
  }
  return x.whole;
}

uint64_t __aeabi_llsr(uint64_t a, int n);
uint64_t __aeabi_llsr(uint64_t a, int n) {
  split x = {.whole = a};
  if (n >= 32) {
    x.half.low = x.half.high >> (n - 32);
    x.half.high = 0;
  } else if (n > 0) {
    x.half.low = (x.half.low >> n) | (x.half.high << (32 - n));
    x.half.high >>= n;
  }
  return x.whole;
}

int64_t __aeabi_lasr(int64_t a, int n);
int64_t __aeabi_lasr(int64_t a, int n) {
  split x = {.whole = (uint64_t)a};
  const int32_t high = (int32_t)x.half.high;
  if (n >= 32) {
    x.half.low = (uint32_t)(high >> (n - 32));
    x.half.high = (uint32_t)(high >> 31);
  } else if (n > 0) {
    x.half.low = (x.half.low >> n) | (x.half.high << (32 - n));
    x.half.high = (uint32_t)(high >> n);
  }
  return (int64_t)x.whole;
}

#if !defined(__ARM_FEATURE_IDIV) /* Armv6-M has no divider */

static uint32_t divide(uint32_t n, uint32_t d, uint32_t *rest) {
  uint32_t q = 0, r = 0;
  if (d == 0) {
    *rest = n;
    return 0;
  }
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t carry = r >> 31;
    r = (r << 1) | ((n >> bit) & 1u);
    if (carry || r >= d) r -= d, q |= 1u << bit;
  }
  *rest = r;
  return q;
}

uint32_t __aeabi_uidiv(uint32_t n, uint32_t d);
uint32_t __aeabi_uidiv(uint32_t n, uint32_t d) {
  uint32_t r;
  return divide(n, d, &r);
}

int32_t __aeabi_idiv(int32_t n, int32_t d);
int32_t __aeabi_idiv(int32_t n, int32_t d) {
  uint32_t r;
  const uint32_t q = divide(n < 0 ? 0u - (uint32_t)n : (uint32_t)n,
                            d < 0 ? 0u - (uint32_t)d : (uint32_t)d, &r);
  return (int32_t)((n < 0) != (d < 0) ? 0u - q : q);
}

/* Quotient in r0, remainder in r1: a 64-bit value with the halves in that order. */
uint64_t __aeabi_uidivmod(uint32_t n, uint32_t d);
uint64_t __aeabi_uidivmod(uint32_t n, uint32_t d) {
  split out;
  out.half.low = divide(n, d, &out.half.high);
  return out.whole;
}

uint64_t __aeabi_idivmod(int32_t n, int32_t d);
uint64_t __aeabi_idivmod(int32_t n, int32_t d) {
  split out;
  const int32_t q = __aeabi_idiv(n, d);
  out.half.low = (uint32_t)q;
  out.half.high = (uint32_t)n - (uint32_t)q * (uint32_t)d;
  return out.whole;
}
#endif

#endif
