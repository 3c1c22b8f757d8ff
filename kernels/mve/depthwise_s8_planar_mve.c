/* Depthwise convolution up to 3x3, stride 1 or 2: VMLADAVA over the taps of one channel.
 *
 * Four input rows (along u) become planes: for each channel and column (along v) a word of four rows.
 * Sixteen bytes are then four columns by four rows, and hold four outputs of stride 1, each with
 * the weights moved by a row (a byte) or a column (a word). u and v are the height and the width, or
 * the other way round. */
#include "ek_mve.h"

#if EK_MVE_ASM
#include "ek_mve_asm.h"

/* Planes r1, out step r3, bias r5, mult r7, shift and 256 * (pairs of groups left - 1) r9, out r11;
 * weights q3 q4 q5 q6, zero point q7, plain: offsets q2. Frame: 0 w, 4 planes, 8 out, 12 channels left,
 * 16 bytes of a plane, 20 pairs, 24 bytes of planes and 28 of output to go back before the last
 * group, 32 offsets, 48 lo, 64 hi, 80 offsets of four, 96 rest. */
#define SUM(acc, x, w) "vmladav.s8 " acc "," x "," w "\n"
#define AT(o) "[r1,#" #o "]"

/* Eight outputs to q0 and q1, on: the step along the planes. A tile: rows and columns of two. */
#define TILE(o0, o1, on)                                                                \
  EK_LOAD("q0", AT(o0)) SUM("r0", "q0", "q3") EK_LOAD("q1", AT(o1)) SUM("r2", "q0", "q4") \
  SUM("r4", "q0", "q5") SUM("r6", "q0", "q6") SUM("r8", "q1", "q3")                     \
  "vmov q0[2],q0[0],r0,r4\n" SUM("r10", "q1", "q4") "vmov q0[3],q0[1],r2,r6\n"          \
  SUM("r12", "q1", "q5") on SUM("lr", "q1", "q6")                                       \
  "vmov q1[2],q1[0],r8,r12\n vadd.i32 q0,q0,r5\n vmov q1[3],q1[1],r10,lr\n"
#define LINE(o0, o1, o2, o3, o4, o5, o6, o7, on)                                        \
  EK_LOAD("q0", AT(o0)) SUM("r0", "q0", "q3") EK_LOAD("q1", AT(o1))                     \
  SUM("r2", "q1", "q3") EK_LOAD("q0", AT(o2)) SUM("r4", "q0", "q3")                     \
  EK_LOAD("q1", AT(o3)) SUM("r6", "q1", "q3") EK_LOAD("q0", AT(o4))                     \
  SUM("r8", "q0", "q3") EK_LOAD("q1", AT(o5)) SUM("r10", "q1", "q3")                    \
  EK_LOAD("q0", AT(o6)) SUM("r12", "q0", "q3") EK_LOAD("q1", AT(o7))                    \
  "vmov q0[2],q0[0],r0,r4\n" on SUM("lr", "q1", "q3") "vmov q0[3],q0[1],r2,r6\n"        \
  "vmov q1[2],q1[0],r8,r12\n vadd.i32 q0,q0,r5\n vmov q1[3],q1[1],r10,lr\n"
/* Four outputs to q0. */
#define HALF_TILE                                                                       \
  EK_LOAD("q0", AT(0)) SUM("r0", "q0", "q3") SUM("r4", "q0", "q5") SUM("r2", "q0", "q4") \
  SUM("r6", "q0", "q6")
#define HALF_LINE(o0, o1, o2, o3)                                                       \
  EK_LOAD("q0", AT(o0)) SUM("r0", "q0", "q3") EK_LOAD("q1", AT(o1))                     \
  SUM("r2", "q1", "q3") EK_LOAD("q0", AT(o2)) SUM("r4", "q0", "q3")                     \
  EK_LOAD("q1", AT(o3)) SUM("r6", "q1", "q3")

#define TILE_FIRST TILE(0, 8, "")
#define TILE_SECOND TILE(16, 24, "add r1,r1,#32\n")
#define TILE_ONE TILE(0, 8, "add r1,r1,#16\n")
#define TILE_WEIGHTS "vldrw.u32 q5,[r0]\n vshl.i32 q4,q3,#8\n vshl.i32 q6,q5,#8\n"

#define LINE1_FIRST LINE(0, 4, 8, 12, 16, 20, 24, 28, "")
#define LINE1_SECOND LINE(32, 36, 40, 44, 48, 52, 56, 60, "add r1,r1,#64\n")
#define LINE1_ONE LINE(0, 4, 8, 12, 16, 20, 24, 28, "add r1,r1,#32\n")
#define HALF_LINE1 HALF_LINE(0, 4, 8, 12)
#define LINE1_WEIGHTS
#define LINE2_FIRST LINE(0, 8, 16, 24, 32, 40, 48, 56, "")
#define LINE2_SECOND LINE(64, 72, 80, 88, 96, 104, 112, 120, "add r1,r1,#128\n")
#define LINE2_ONE LINE(0, 8, 16, 24, 32, 40, 48, 56, "add r1,r1,#64\n")
#define HALF_LINE2 HALF_LINE(0, 8, 16, 24)
#define LINE2_WEIGHTS

/* The bias is already in q0. */
#define FINISH_PLAIN                                                                    \
  "vqrdmulh.s32 q0,q0,r7\n vadd.i32 q1,q1,r5\n vqrdmulh.s32 q1,q1,r7\n"                 \
  "vrshl.s32 q0,r9\n vrshl.s32 q1,r9\n vqmovunb.s32 q0,q0\n vqmovunt.s32 q0,q1\n"       \
  "vqmovnb.u16 q0,q0\n vadd.i8 q0,q0,q7\n vstrb.16 q0,[r11,q2]\n"
#define SIGNED_PART                                                                     \
  "vadd.i32 q1,q1,r5\n vshr.s32 q2,q0,#31\n vqrdmlah.s32 q2,q0,r7\n"                    \
  "vshr.s32 q0,q1,#31\n vqrdmlah.s32 q0,q1,r7\n vrshl.s32 q2,r9\n vrshl.s32 q0,r9\n"    \
  "vqmovnb.s32 q2,q2\n vqmovnt.s32 q2,q0\n vqadd.s16 q2,q2,q7\n vqmovnb.s16 q2,q2\n"
#define CLAMP                                                                           \
  "vldrw.u32 q1,[sp,#48]\n vmax.s8 q2,q2,q1\n vldrw.u32 q1,[sp,#64]\n vmin.s8 q2,q2,q1\n"
#define STORE_EIGHT "vldrw.u32 q1,[sp,#32]\n vstrb.16 q2,[r11,q1]\n"
#define FINISH_SIGNED SIGNED_PART STORE_EIGHT
#define FINISH_CLAMPED SIGNED_PART CLAMP STORE_EIGHT

#define HALF_VECTOR "vmov q0[2],q0[0],r0,r4\n vmov q0[3],q0[1],r2,r6\n vadd.i32 q0,q0,r5\n"
#define HALF_PLAIN                                                                      \
  HALF_VECTOR "vldrw.u32 q1,[sp,#80]\n vqrdmulh.s32 q0,q0,r7\n vrshl.s32 q0,r9\n"       \
  "vqmovunb.s32 q0,q0\n vqmovnb.u16 q0,q0\n vadd.i8 q0,q0,q7\n vstrb.32 q0,[r11,q1]\n"
#define HALF_SIGNED_PART                                                                \
  HALF_VECTOR "vshr.s32 q2,q0,#31\n vqrdmlah.s32 q2,q0,r7\n vrshl.s32 q2,r9\n"          \
  "vqmovnb.s32 q2,q2\n vqadd.s16 q2,q2,q7\n vqmovnb.s16 q2,q2\n"
#define STORE_FOUR "vldrw.u32 q1,[sp,#80]\n vstrb.32 q2,[r11,q1]\n"
#define HALF_SIGNED HALF_SIGNED_PART STORE_FOUR
#define HALF_CLAMPED HALF_SIGNED_PART CLAMP STORE_FOUR

#define ZERO_POINT_PLAIN "vdup.8 q7,r1\n"
#define ZERO_POINT_SIGNED "vdup.16 q7,r1\n"
#define ZERO_POINT_CLAMPED ZERO_POINT_SIGNED

#define BACK "ldrd r2,r4,[sp,#24]\n sub r1,r1,r2\n sub r11,r11,r4\n"
#define NEXT_OUT "add r11,r11,r3\n"

/* Pairs of groups of a channel, then what is left (REST_* in the portable part's order). */
#define CHANNELS(body, finish)                                                          \
  __asm__ volatile(                                                                     \
      EK_MVE_SAVE "sub sp,sp,#100\n"                                                    \
      "ldrd r1,r2,[r0,#0]\n strd r2,r1,[sp,#0]\n ldrd r1,r2,[r0,#8]\n strd r1,r2,[sp,#8]\n" \
      "ldrd r1,r2,[r0,#16]\n strd r1,r2,[sp,#16]\n ldrd r1,r2,[r0,#24]\n"               \
      "strd r1,r2,[sp,#24]\n ldrd r3,r1,[r0,#32]\n vldrw.u32 q2,[r1]\n"                 \
      "vstrw.32 q2,[sp,#32]\n ldrd r2,r1,[r0,#40]\n vldrw.u32 q0,[r2]\n"                \
      "vstrw.32 q0,[sp,#80]\n" ZERO_POINT_##finish "ldrd r1,r2,[r0,#48]\n"              \
      "vdup.8 q0,r1\n vstrw.32 q0,[sp,#48]\n vdup.8 q0,r2\n vstrw.32 q0,[sp,#64]\n"     \
      "ldr r1,[r0,#56]\n str r1,[sp,#96]\n"                                             \
      "1:\n ldrd r0,r1,[sp,#0]\n ldrd r4,r6,[sp,#16]\n ldm r0!,{r5,r7,r9}\n"            \
      "vldrw.u32 q3,[r0,#4]\n" body##_WEIGHTS "add r0,r0,#20\n add r4,r4,r1\n"          \
      "orrs r9,r9,r6\n strd r0,r4,[sp,#0]\n ldr r11,[sp,#8]\n bmi.w 3f\n"               \
      "2:\n" body##_FIRST FINISH_##finish NEXT_OUT                                      \
      body##_SECOND FINISH_##finish NEXT_OUT "subs r9,r9,#256\n bpl.w 2b\n"             \
      "3: ldr r0,[sp,#96]\n cmp r0,#3\n beq.w 6f\n cmp r0,#0\n beq.w 7f\n"              \
      "cmp r0,#2\n beq.w 5f\n" body##_ONE FINISH_##finish NEXT_OUT                      \
      "ldr r0,[sp,#96]\n cmp r0,#1\n beq.w 7f\n cmp r0,#5\n beq.w 6f\n"                 \
      "5:\n" BACK body##_ONE FINISH_##finish "b.w 7f\n"                                 \
      "6:\n" BACK HALF_##body HALF_##finish                                             \
      "7: ldrd r0,r2,[sp,#8]\n add r0,r0,#1\n subs r2,r2,#1\n strd r0,r2,[sp,#8]\n"     \
      "bne.w 1b\n add sp,sp,#100\n" EK_MVE_RETURN)

#define FUNCTIONS(finish, name)                                                         \
  EK_MVE_NAKED void ek_mve_planar_tile_##name(const ek_mve_planar *a EK_MVE_ARG) {      \
    CHANNELS(TILE, finish);                                                             \
  }                                                                                     \
  EK_MVE_NAKED void ek_mve_planar_line1_##name(const ek_mve_planar *a EK_MVE_ARG) {     \
    CHANNELS(LINE1, finish);                                                            \
  }                                                                                     \
  EK_MVE_NAKED void ek_mve_planar_line2_##name(const ek_mve_planar *a EK_MVE_ARG) {     \
    CHANNELS(LINE2, finish);                                                            \
  }

#define SPREAD                                                                          \
  "add r0,r0,r4\n add r1,r1,r5\n add r2,r2,r6\n add r3,r3,r7\n"                         \
  "vst40.8 {q0,q1,q2,q3},[r9]\n vst41.8 {q0,q1,q2,q3},[r9]\n"                           \
  "vst42.8 {q0,q1,q2,q3},[r9]\n vst43.8 {q0,q1,q2,q3},[r9]\n"                           \
  "vldrw.u32 q0,[sp]\n vstrw.32 q0,[r8,q4]\n vldrw.u32 q1,[sp,#16]\n vstrw.32 q1,[r8,q5]\n" \
  "vldrw.u32 q2,[sp,#32]\n vstrw.32 q2,[r8,q6]\n vldrw.u32 q3,[sp,#48]\n"               \
  "vstrw.32 q3,[r8,q7]\n add r8,r8,#4\n"

/* Columns of up to sixteen channels to their planes. Offsets of the planes in q4 .. q7. */
EK_MVE_NAKED void ek_mve_to_planes(const ek_mve_columns *a EK_MVE_ARG) {
  __asm__ volatile(
      EK_MVE_SAVE "sub sp,sp,#68\n mov r12,r0\n ldrd r8,r9,[r12,#32]\n"
      "ldrd r10,lr,[r12,#40]\n vctp.8 r10\n"
      "mov r0,#0\n add r1,r9,r9\n add r2,r1,r9\n lsl r3,r9,#2\n"
      "vmov q4[2],q4[0],r0,r1\n vmov q4[3],q4[1],r9,r2\n"
      "vadd.i32 q5,q4,r3\n vadd.i32 q6,q5,r3\n vadd.i32 q7,q6,r3\n"
      "ldm r12,{r0,r1,r2,r3,r4,r5,r6,r7}\n mov r9,sp\n cmp r10,#16\n beq.n 2f\n"
      "1: vpstttt\n vldrbt.u8 q0,[r0]\n vldrbt.u8 q1,[r1]\n vldrbt.u8 q2,[r2]\n"
      "vldrbt.u8 q3,[r3]\n" SPREAD "le lr,1b\n b.n 3f\n"
      "2: vldrb.u8 q0,[r0]\n vldrb.u8 q1,[r1]\n vldrb.u8 q2,[r2]\n vldrb.u8 q3,[r3]\n" SPREAD
      "le lr,2b\n 3:\n"
      "add sp,sp,#68\n" EK_MVE_RETURN);
}

#else

/* n (4 or 8) outputs of one channel. step: bytes of planes from output to output; 0: a tile, in which
 * output i is row i & 1, column i >> 1. */
static void outputs(const ek_mve_planar *a, const int32_t head[3], const int8_t *taps,
                    const int8_t *x, int8_t *out, int n, int step, int is_signed) {
  for (int i = 0; i < n; ++i) {
    const int8_t *first = step ? x + i * step : x + 4 * (i >> 1) + (i & 1);
    uint32_t acc = (uint32_t)head[0];
    for (int k = 0; k < 12; ++k) {
      if ((k & 3) < 3) acc += (uint32_t)(first[k] * taps[k]);
    }
    const int32_t y = ek_mve_requant((int32_t)acc, head[1], (int8_t)head[2], a->zp, is_signed);
    const int lane = i < 4 ? 2 * i : 2 * (i - 4) + 1;
    const uint32_t at = n == 8 ? a->offsets[lane] : a->half_offsets[i];
    out[at] = (int8_t)ek_clamp(ek_sat_s8(y), a->lo, a->hi);
  }
}

static void channels(const ek_mve_planar *a, int step, int is_signed) {
  const uint8_t *w = a->w;
  const int32_t bytes = step ? 8 * step : 16;
  for (int32_t c = 0; c < a->channels; ++c) {
    int32_t head[3]; /* bias, mult, shift */
    memcpy(head, w, 12);
    const int8_t *taps = (const int8_t *)w + 16;
    w += 32;
    const int8_t *x = a->planes + c * a->plane;
    int8_t *out = a->out + c;
    const int32_t one = a->rest == EK_MVE_ONE || a->rest >= EK_MVE_ONE_BACK;
    const int32_t groups = 2 * (a->pairs / 256 + 1) + one;
    for (int32_t g = 0; g < groups; ++g, x += bytes, out += a->out_group) {
      outputs(a, head, taps, x, out, 8, step, is_signed);
    }
    x -= a->back_planes;
    out -= a->back_out;
    if (a->rest == EK_MVE_BACK || a->rest == EK_MVE_ONE_BACK) {
      outputs(a, head, taps, x, out, 8, step, is_signed);
    } else if (a->rest == EK_MVE_HALF || a->rest == EK_MVE_ONE_HALF) {
      outputs(a, head, taps, x, out, 4, step, is_signed);
    }
  }
}

#define EK_SIGN_PLAIN 0
#define EK_SIGN_SIGNED 1
#define EK_SIGN_CLAMPED 1
#define FUNCTIONS(finish, name)                                                         \
  void ek_mve_planar_tile_##name(const ek_mve_planar *a) {                              \
    channels(a, 0, EK_SIGN_##finish);                                                   \
  }                                                                                     \
  void ek_mve_planar_line1_##name(const ek_mve_planar *a) {                             \
    channels(a, 4, EK_SIGN_##finish);                                                   \
  }                                                                                     \
  void ek_mve_planar_line2_##name(const ek_mve_planar *a) {                             \
    channels(a, 8, EK_SIGN_##finish);                                                   \
  }

void ek_mve_to_planes(const ek_mve_columns *a) {
  for (int32_t i = 0; i < a->n; ++i) {
    for (int32_t c = 0; c < a->channels; ++c) {
      for (int r = 0; r < 4; ++r) a->to[c * a->plane + 4 * i + r] = a->from[r][i * a->step[r] + c];
    }
  }
}

#endif

FUNCTIONS(PLAIN, plain)
FUNCTIONS(SIGNED, signed)
FUNCTIONS(CLAMPED, clamped)

EK_INLINE int32_t columns(const ek_mve_depthwise_params *p) {
  return (p->out_v - 1) * p->stride + 4;
}

int32_t ek_depthwise_s8_planar_mve_scratch_bytes(const ek_mve_depthwise_params *p) {
  return 4 * columns(p) * ek_mve_round16(p->channels) + 16;
}

/* One line of outputs (stride 2, or the odd last one), or two. */
static void strip(const ek_mve_depthwise_params *p, int32_t u, int two, ek_mve_planar *a,
                  const int8_t *input, int8_t *planes, const int8_t *outside) {
  ek_mve_columns t = {.plane = a->plane, .n = ek_min(p->in_v, columns(p) - p->pad_v)};
  for (int32_t c = 0; c < p->channels; c += 16) {
    for (int r = 0; r < 4; ++r) {
      const int32_t row = u * p->stride - p->pad_u + r;
      const int in = row >= 0 && row < p->in_u;
      t.from[r] = in ? input + row * p->in_su + c : outside;
      t.step[r] = in ? p->in_sv : 0;
    }
    t.to = planes + c * a->plane + 4 * p->pad_v;
    t.channels = ek_min(16, p->channels - c);
    ek_mve_to_planes(&t);
  }
  const int32_t group = two ? 4 : 8; /* along v */
  uint16_t offsets[8] __attribute__((aligned(4)));
  uint32_t half[4];
  for (int i = 0; i < 8; ++i) {
    const int32_t at = two ? (i & 1) * p->out_su + (i >> 1) * p->out_sv : i * p->out_sv;
    offsets[i < 4 ? 2 * i : 2 * (i - 4) + 1] = (uint16_t)at;
    if (i < 4) half[i] = (uint32_t)at;
  }
  a->offsets = offsets;
  a->half_offsets = half;
  a->out_group = group * p->out_sv;
  a->pairs = (p->out_v / (2 * group) - 1) * 256;
  const int32_t left = p->out_v % (2 * group);
  int32_t back = 0;
  a->rest = left == 0 ? EK_MVE_NONE : EK_MVE_ONE;
  if (left > 0 && left <= group / 2) {
    a->rest = EK_MVE_HALF;
    back = group / 2 - left;
  } else if (left > group / 2 && left < group) {
    a->rest = EK_MVE_BACK;
    back = group - left;
  } else if (left > group && left <= group + group / 2) {
    a->rest = EK_MVE_ONE_HALF;
    back = group + group / 2 - left;
  } else if (left > group) {
    a->rest = EK_MVE_ONE_BACK;
    back = 2 * group - left;
  }
  a->back_planes = 4 * back * p->stride;
  a->back_out = back * p->out_sv;
  (two ? p->two : p->one)(a);
}

void ek_depthwise_s8_planar_mve(const ek_mve_depthwise_params *p, const int8_t *input,
                                const int32_t *w, int8_t *output, void *scratch) {
  const int32_t bytes = 4 * columns(p) * ek_mve_round16(p->channels);
  int8_t *planes = scratch, *outside = planes + bytes;
  ek_mve_fill(planes, p->in_zp, bytes + 16);
  ek_mve_planar a = {.planes = planes, .w = w, .channels = p->channels, .plane = 4 * columns(p)};
  a.zp = p->out_zp;
  a.lo = p->lo;
  a.hi = p->hi;
  int32_t u = 0;
  while (u < p->out_u) {
    int two = p->stride == 1 && p->out_v >= 4;
    if (two && u + 1 == p->out_u) {
      two = p->out_v < 8 && p->out_u > 1; /* the last line: alone, or with the one before */
      u -= two;
    }
    a.out = output + u * p->out_su;
    strip(p, u, two, &a, input, planes, outside);
    u += 1 + two;
  }
}
