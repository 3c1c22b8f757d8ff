/* Depthwise convolution up to 3x3, stride 1 or 2: VMLADAVA over the taps of one channel.
 *
 * Four input rows (along u) become planes: for each channel and column (along v) a word of four rows.
 * Sixteen bytes are then four columns by four rows, and hold four outputs of stride 1, each with
 * the weights moved by a row (a byte) or a column (a word). u and v are the height and the width, or
 * the other way round. */
#include "ek_mve.h"

#if EK_MVE_ASM
#include "ek_mve_asm.h"

/* Planes r1, out step r3, bias r5, mult r7, shift and 256 * (groups left - 1) r9, out r11; weights
 * q3 q4 q5 q6. Frame: 0 w, 4 channels left, 8 planes, 12 out, 16 a, 24 offsets, 40 lo, 56 hi. */
#define SUM(acc, x, w) "vmladav.s8 " acc "," x "," w "\n"

#define TILE                                                                            \
  EK_LOAD("q0", "[r1,#0]") SUM("r0", "q0", "q3") EK_LOAD("q1", "[r1,#8]")            \
  SUM("r2", "q0", "q4") SUM("r4", "q0", "q5") SUM("r6", "q0", "q6")            \
  SUM("r8", "q1", "q3") "vmov q0[2],q0[0],r0,r4\n" SUM("r10", "q1", "q4")         \
  "vmov q0[3],q0[1],r2,r6\n" SUM("r12", "q1", "q5") SUM("lr", "q1", "q6")         \
  "vmov q1[2],q1[0],r8,r12\n vmov q1[3],q1[1],r10,lr\n add r1,r1,#16\n"
#define LINE(a, b, c, d, e, f, g, next)                                                 \
  EK_LOAD("q0", "[r1,#0]") SUM("r0", "q0", "q3") EK_LOAD("q1", "[r1,#" a "]")        \
  SUM("r2", "q1", "q3") EK_LOAD("q0", "[r1,#" b "]") SUM("r4", "q0", "q3")        \
  EK_LOAD("q1", "[r1,#" c "]") SUM("r6", "q1", "q3") EK_LOAD("q0", "[r1,#" d "]")    \
  SUM("r8", "q0", "q3") EK_LOAD("q1", "[r1,#" e "]") SUM("r10", "q1", "q3")       \
  EK_LOAD("q0", "[r1,#" f "]") SUM("r12", "q0", "q3") EK_LOAD("q1", "[r1,#" g "]")   \
  "vmov q0[2],q0[0],r0,r4\n" SUM("lr", "q1", "q3") "vmov q0[3],q0[1],r2,r6\n"        \
  "vmov q1[2],q1[0],r8,r12\n vmov q1[3],q1[1],r10,lr\n add r1,r1,#" next "\n"
#define LINE4 LINE("4", "8", "12", "16", "20", "24", "28", "32")
#define LINE8 LINE("8", "16", "24", "32", "40", "48", "56", "64")

#define FINISH_PLAIN                                                                    \
  "vadd.i32 q0,q0,r5\n vadd.i32 q1,q1,r5\n vqrdmulh.s32 q0,q0,r7\n vqrdmulh.s32 q1,q1,r7\n" \
  "vrshl.s32 q0,r9\n vrshl.s32 q1,r9\n vqmovunb.s32 q0,q0\n vqmovunt.s32 q0,q1\n"       \
  "vqmovnb.u16 q0,q0\n vadd.i8 q0,q0,q7\n vstrb.16 q0,[r11,q2]\n"
#define SIGNED_PART                                                                     \
  "vadd.i32 q0,q0,r5\n vadd.i32 q1,q1,r5\n vshr.s32 q2,q0,#31\n vqrdmlah.s32 q2,q0,r7\n" \
  "vshr.s32 q0,q1,#31\n vqrdmlah.s32 q0,q1,r7\n vrshl.s32 q2,r9\n vrshl.s32 q0,r9\n"    \
  "vqmovnb.s32 q2,q2\n vqmovnt.s32 q2,q0\n vqadd.s16 q2,q2,q7\n vqmovnb.s16 q2,q2\n"
#define FINISH_SIGNED SIGNED_PART "vldrw.u32 q1,[sp,#24]\n vstrb.16 q2,[r11,q1]\n"
#define FINISH_CLAMPED                                                                  \
  SIGNED_PART "vldrw.u32 q1,[sp,#40]\n vmax.s8 q2,q2,q1\n vldrw.u32 q1,[sp,#56]\n"      \
  "vmin.s8 q2,q2,q1\n vldrw.u32 q1,[sp,#24]\n vstrb.16 q2,[r11,q1]\n"
#define ZERO_POINT_PLAIN "vdup.8 q7,r1\n"
#define ZERO_POINT_SIGNED "vdup.16 q7,r1\n"
#define ZERO_POINT_CLAMPED ZERO_POINT_SIGNED

/* The groups of a channel, then perhaps one that overlaps the last of them. */
#define CHANNELS(body, finish)                                                          \
  __asm__ volatile(                                                                     \
      EK_MVE_SAVE "sub sp,sp,#76\n str r0,[sp,#16]\n ldrd r1,r2,[r0,#0]\n"              \
      "str r2,[sp,#0]\n str r1,[sp,#8]\n ldrd r1,r2,[r0,#8]\n str r1,[sp,#12]\n"        \
      "str r2,[sp,#4]\n ldr r1,[r0,#40]\n vldrw.u32 q2,[r1]\n vstrw.32 q2,[sp,#24]\n"   \
      "ldr r1,[r0,#48]\n vdup.8 q0,r1\n vstrw.32 q0,[sp,#40]\n"                         \
      "ldr r1,[r0,#52]\n vdup.8 q0,r1\n vstrw.32 q0,[sp,#56]\n"                         \
      "ldr r1,[r0,#44]\n" ZERO_POINT_##finish "ldr r3,[r0,#20]\n"                       \
      "1:\n ldr r0,[sp,#0]\n ldr r2,[sp,#16]\n ldm r0!,{r5,r7,r9}\n"                    \
      "vldrw.u32 q5,[r0]\n vldrw.u32 q3,[r0,#4]\n add r0,r0,#20\n"                      \
      "ldr r1,[sp,#8]\n ldrd r4,r6,[r2,#24]\n add r4,r4,r1\n orr r9,r9,r6\n"            \
      "vshl.i32 q4,q3,#8\n vshl.i32 q6,q5,#8\n ldr r11,[sp,#12]\n"                      \
      "add r6,r11,#1\n str r0,[sp,#0]\n str r4,[sp,#8]\n str r6,[sp,#12]\n"             \
      "2:\n" body FINISH_##finish "add r11,r11,r3\n subs r9,r9,#256\n bpl.w 2b\n"       \
      "ldr r0,[sp,#16]\n ldrd r2,r4,[r0,#32]\n cmp r2,#0\n beq.w 3f\n"                             \
      "sub r1,r1,r2\n sub r11,r11,r4\n" body FINISH_##finish                            \
      "3: ldr r0,[sp,#4]\n subs r0,r0,#1\n str r0,[sp,#4]\n bne.w 1b\n"                 \
      "add sp,sp,#76\n" EK_MVE_RETURN)

#define FUNCTIONS(finish, name)                                                         \
  EK_MVE_NAKED void ek_mve_planar_tile_##name(const ek_mve_planar *a EK_MVE_ARG) {      \
    CHANNELS(TILE, finish);                                                             \
  }                                                                                     \
  EK_MVE_NAKED void ek_mve_planar_line1_##name(const ek_mve_planar *a EK_MVE_ARG) {     \
    CHANNELS(LINE4, finish);                                                            \
  }                                                                                     \
  EK_MVE_NAKED void ek_mve_planar_line2_##name(const ek_mve_planar *a EK_MVE_ARG) {     \
    CHANNELS(LINE8, finish);                                                            \
  }

/* Columns of up to sixteen channels to their planes. Offsets of the planes in q4 .. q7. */
EK_MVE_NAKED void ek_mve_to_planes(const ek_mve_columns *a EK_MVE_ARG) {
  __asm__ volatile(
      EK_MVE_SAVE "sub sp,sp,#68\n mov r12,r0\n ldrd r8,r9,[r12,#32]\n"
      "ldrd r10,lr,[r12,#40]\n vctp.8 r10\n"
      "mov r0,#0\n add r1,r9,r9\n add r2,r1,r9\n lsl r3,r9,#2\n"
      "vmov q4[2],q4[0],r0,r1\n vmov q4[3],q4[1],r9,r2\n"
      "vadd.i32 q5,q4,r3\n vadd.i32 q6,q5,r3\n vadd.i32 q7,q6,r3\n"
      "ldm r12,{r0,r1,r2,r3,r4,r5,r6,r7}\n"
      "1: vpstttt\n vldrbt.u8 q0,[r0]\n vldrbt.u8 q1,[r1]\n vldrbt.u8 q2,[r2]\n"
      "vldrbt.u8 q3,[r3]\n"
      "add r0,r0,r4\n add r1,r1,r5\n add r2,r2,r6\n add r3,r3,r7\n mov r9,sp\n"
      "vst40.8 {q0,q1,q2,q3},[r9]\n vst41.8 {q0,q1,q2,q3},[r9]\n"
      "vst42.8 {q0,q1,q2,q3},[r9]\n vst43.8 {q0,q1,q2,q3},[r9]\n"
      "vldrw.u32 q0,[sp]\n vstrw.32 q0,[r8,q4]\n vldrw.u32 q1,[sp,#16]\n vstrw.32 q1,[r8,q5]\n"
      "vldrw.u32 q2,[sp,#32]\n vstrw.32 q2,[r8,q6]\n vldrw.u32 q3,[sp,#48]\n"
      "vstrw.32 q3,[r8,q7]\n add r8,r8,#4\n le lr,1b\n"
      "add sp,sp,#68\n" EK_MVE_RETURN);
}

#else

static void channels(const ek_mve_planar *a, int step, int is_signed) {
  const uint8_t *w = a->w;
  const int tile = step == 0;
  for (int32_t c = 0; c < a->channels; ++c) {
    int32_t head[3]; /* bias, mult, shift */
    memcpy(head, w, 12);
    const int8_t *taps = (const int8_t *)w + 16;
    w += 32;
    const int32_t groups = (a->groups >> 8) + 1;
    for (int32_t g = 0; g < groups + (a->tail_planes != 0); ++g) {
      const int32_t bytes = tile ? 16 : 8 * step;
      const int8_t *x = a->planes + c * a->plane + g * bytes;
      int8_t *out = a->out + c + g * a->out_group;
      if (g == groups) {
        x -= a->tail_planes;
        out -= a->tail_out;
      }
      for (int i = 0; i < 8; ++i) {
        /* Accumulator i of the tile: row i & 1, column i >> 1. */
        const int8_t *first = tile ? x + 4 * (i >> 1) + (i & 1) : x + i * step;
        uint32_t acc = (uint32_t)head[0];
        for (int k = 0; k < 12; ++k) {
          if ((k & 3) < 3) acc += (uint32_t)(first[k] * taps[k]);
        }
        const int32_t y =
            ek_mve_requant((int32_t)acc, head[1], (int8_t)head[2], a->zp, is_signed);
        const int lane = i < 4 ? 2 * i : 2 * (i - 4) + 1;
        out[a->offsets[lane]] = (int8_t)ek_clamp(ek_sat_s8(y), a->lo, a->hi);
      }
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
  for (int i = 0; i < 8; ++i) {
    const int32_t at = two ? (i & 1) * p->out_su + (i >> 1) * p->out_sv : i * p->out_sv;
    offsets[i < 4 ? 2 * i : 2 * (i - 4) + 1] = (uint16_t)at;
  }
  a->offsets = offsets;
  a->out_group = group * p->out_sv;
  a->groups = (p->out_v / group - 1) * 256;
  const int32_t again = p->out_v % group ? group - p->out_v % group : 0;
  a->tail_planes = 4 * again * p->stride;
  a->tail_out = again * p->out_sv;
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
