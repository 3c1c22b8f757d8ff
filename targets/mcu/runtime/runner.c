/* Runs the model on samples from a file; the same program on a microcontroller and on a host.
 *
 *   run IN OUT      every sample of IN (all inputs, one after the other) through the model;
 *                   OUT gets all outputs of each sample
 *   trace IN OUT    the same, but OUT gets a record for each layer's output: layer, output index,
 *                   bytes (uint32 each, little endian), then the bytes (built with EDGEKIT_TRACE)
 *   profile IN      one inference of the first sample, between ek_marker_begin and ek_marker_end
 *   time IN N       one inference to warm up, then N, each timed: lines total_ns=...
 *                   (built with EDGEKIT_TRACE: pairs of lines layer=..., layer_ns=...); then of all
 *                   of them loop_ns=, cpu_ns= (processor time), switches= (times it was put aside
 *                   for others), peak_kb= (memory), and core= wherever another one was seen
 *
 * Results are lines key=value. Exit codes: 0 done, 2 wrong arguments or files, 3 the model failed.
 */
#include "edgekit_model.h"
#include "ek_io.h"

enum { EK_OK = 0, EK_USAGE = 2, EK_MODEL = 3 };

__attribute__((noinline)) void ek_marker_begin(void) { __asm volatile("" ::: "memory"); }
/* Takes and gives what the model said, so that one instruction of the caller lies between the two. */
__attribute__((noinline)) int ek_marker_end(int code) {
  __asm volatile("" ::: "memory");
  return code;
}

static int same(const char *a, const char *b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

static void print_value(const char *key, uint64_t value) {
  char text[24];
  int at = (int)sizeof text;
  text[--at] = 0;
  text[--at] = '\n';
  /* Thirty-two bits at a time keeps 64-bit division out of small cores. */
  uint32_t low = (uint32_t)value, high = (uint32_t)(value >> 32);
  do {
    uint32_t digit = 0;
    for (int bit = 63; bit >= 0; --bit) { /* long division by ten */
      const uint32_t in = bit >= 32 ? (high >> (bit - 32)) & 1u : (low >> bit) & 1u;
      uint32_t *word = bit >= 32 ? &high : &low;
      const uint32_t mask = 1u << (bit & 31);
      digit = 2 * digit + in;
      *word &= ~mask;
      if (digit >= 10) digit -= 10, *word |= mask;
    }
    text[--at] = (char)('0' + digit);
  } while (low | high);
  ek_io_print(key);
  ek_io_print(text + at);
}

/* 1: a sample was read; 0: end of the file; -1: the file ends inside a sample. */
static int read_sample(int32_t file) {
  for (int i = 0; i < EDGEKIT_MODEL_INPUTS; ++i) {
    const uint32_t want = edgekit_model_input_bytes(i);
    const uint32_t got = ek_io_read(file, edgekit_model_input(i), want);
    if (got != want) return got == 0 && i == 0 ? 0 : -1;
  }
  return 1;
}

static int fail(const char *text, int code) {
  ek_io_print("error=");
  ek_io_print(text);
  ek_io_print("\n");
  return code;
}

#ifdef EDGEKIT_TRACE

void edgekit_trace(int layer, int output, const void *data, uint32_t bytes);

static struct {
  int32_t file; /* -1: nothing to write */
  int timing, failed;
  uint64_t last;
} trace;

void edgekit_trace(int layer, int output, const void *data, uint32_t bytes) {
  if (trace.timing) {
    const uint64_t now = ek_io_time_ns();
    if (trace.timing > 1) {
      print_value("layer=", (uint64_t)layer);
      print_value("layer_ns=", now - trace.last);
    }
    trace.last = ek_io_time_ns();
  }
  if (trace.file >= 0) {
    const uint32_t head[3] = {(uint32_t)layer, (uint32_t)output, bytes};
    trace.failed |= ek_io_write(trace.file, head, sizeof head);
    trace.failed |= ek_io_write(trace.file, data, bytes);
  }
}

#endif

/* run and trace: all samples of a file. */
static int run_file(int32_t in, int32_t out, int traced) {
  uint32_t samples = 0;
  int more;
#ifdef EDGEKIT_TRACE
  trace.file = traced ? out : -1;
#endif
  while ((more = read_sample(in)) > 0) {
    if (edgekit_model_invoke()) return fail("the model failed", EK_MODEL);
    for (int i = 0; !traced && i < EDGEKIT_MODEL_OUTPUTS; ++i)
      if (ek_io_write(out, edgekit_model_output(i), edgekit_model_output_bytes(i)))
        return fail("cannot write the output file", EK_USAGE);
    ++samples;
  }
#ifdef EDGEKIT_TRACE
  if (trace.failed) return fail("cannot write the output file", EK_USAGE);
#endif
  if (more < 0) return fail("the input file ends inside a sample", EK_USAGE);
  print_value("samples=", samples);
  return EK_OK;
}

#ifdef EK_HOST
/* time: inputs are filled anew before each inference, because the model reuses their buffers. */
static int run_timed(const char *name, uint32_t repeats) {
  ek_usage first = {0}, now = {0};
  uint64_t begin = 0;
  int32_t core = -1;
  for (uint32_t k = 0; k <= repeats; ++k) {
    const int32_t in = ek_io_open(name, 'r');
    const int more = in < 0 ? -1 : read_sample(in);
    ek_io_close(in);
    if (more <= 0) return fail("no sample in the input file", EK_USAGE);
#ifdef EDGEKIT_TRACE
    trace.file = -1;
    trace.timing = k ? 2 : 1;
    trace.last = ek_io_time_ns();
#endif
    const uint64_t start = ek_io_time_ns();
    if (edgekit_model_invoke()) return fail("the model failed", EK_MODEL);
    const uint64_t end = ek_io_time_ns();
    if (k) print_value("total_ns=", end - start);
    if (!k) { /* the loop begins after the warm-up */
      ek_io_usage(&first);
      begin = ek_io_time_ns();
    }
    const int32_t seen = ek_io_core();
    if (seen >= 0 && seen != core) print_value("core=", (uint64_t)seen);
    core = seen;
  }
  const uint64_t all = ek_io_time_ns() - begin;
  ek_io_usage(&now);
  print_value("loop_ns=", all);
  print_value("cpu_ns=", now.cpu_ns - first.cpu_ns);
  print_value("switches=", now.switches - first.switches);
  print_value("peak_kb=", now.peak_kb);
  return EK_OK;
}
#endif

int ek_run(int argc, char **argv) {
  if (edgekit_model_init()) return fail("the model does not initialize", EK_MODEL);
  if (argc < 3) return fail("usage: run IN OUT | trace IN OUT | profile IN", EK_USAGE);
#ifdef EK_HOST
  if (same(argv[1], "time") && argc == 4) {
    uint32_t repeats = 0;
    for (const char *c = argv[3]; *c >= '0' && *c <= '9'; ++c)
      repeats = 10 * repeats + (uint32_t)(*c - '0');
    return run_timed(argv[2], repeats);
  }
#endif
  const int32_t in = ek_io_open(argv[2], 'r');
  if (in < 0) return fail("cannot open the input file", EK_USAGE);
  int code = EK_USAGE;
  if (same(argv[1], "profile")) {
    if (read_sample(in) <= 0) return fail("no sample in the input file", EK_USAGE);
    ek_marker_begin();
    code = ek_marker_end(edgekit_model_invoke());
    if (code) return fail("the model failed", EK_MODEL);
  } else {
    const int traced = same(argv[1], "trace");
#ifndef EDGEKIT_TRACE
    if (traced) return fail("this program was built without EDGEKIT_TRACE", EK_USAGE);
#endif
    if (!(traced || same(argv[1], "run")) || argc != 4)
      return fail("usage: run IN OUT | trace IN OUT | profile IN", EK_USAGE);
    const int32_t out = ek_io_open(argv[3], 'w');
    if (out < 0) return fail("cannot open the output file", EK_USAGE);
    code = run_file(in, out, traced);
    ek_io_close(out);
    if (code) return code;
  }
  ek_io_close(in);
  print_value("stack_bytes=", ek_io_stack_bytes());
  return EK_OK;
}
