/* The MLPerf Tiny runner protocol over a UART, and an extension for verification and profiles.
 *
 * Protocol (strings, delimiters, order of messages): MLCommons tiny benchmark, "API" of the reference
 * submissions, and EEMBC EnergyRunner: commands end with '%', every one is answered by lines and
 * m-ready. name, timestamp, profile, help, db load N, db HEX, db print, infer N [W], results.
 *
 * Extension, commands beginning with x-; its lines end with * and their CRC-32 in eight hex digits:
 *   x-info            x-id-[ID], x-input-[I,BYTES]..., x-output-[O,BYTES]..., x-layers-[N],
 *                     x-clock-[HZ], x-handler-[INSTRUCTIONS]
 *   x-load I N CRC MS x-send, then takes N raw bytes for input I, none later than MS after the one
 *                     before; x-loaded, or an error when the CRC-32 is not theirs
 *   x-infer           one inference
 *   x-out O           x-data-[O,BYTES,CRC], then the raw bytes
 *   x-time N          N inferences after one to warm up: x-lap-[TICKS,WRAPS] each; then one of nothing
 *   x-layer-time      one inference: x-lap-[LAYER,TICKS] for each layer
 *   x-trace           one inference: x-layer-[LAYER,OUTPUT,BYTES,CRC] and the raw bytes of each output
 *   x-stack           x-stack-[BYTES]: most stack used since the start
 */
#include "ek_board.h"
#include "ek_serial_model.h"

enum { COMMAND = 80, INPUT_BYTES = EK_TOTAL_INPUT_BYTES };

#define VERSION "ULPMark for tinyML Firmware V0.0.1"

static struct {
  char text[COMMAND + 1];
  uint32_t length;
} command;

/* The generic byte buffer of the db commands; also what the inputs are filled from. */
static struct {
  uint8_t bytes[EK_DB_BYTES];
  uint32_t size, at;
} db;

/* -- output ------------------------------------------------------------------------------------------ */

static void put(const char *text) {
  while (*text) ek_board_putc((uint8_t)*text++);
}

static void put_raw(const void *data, uint32_t bytes) {
  for (const uint8_t *p = data; bytes; --bytes) ek_board_putc(*p++);
}

static const char *decimal(uint64_t value, char digits[21]) {
  int at = 20;
  digits[at] = 0;
  do {
    digits[--at] = (char)('0' + (int)(value % 10u));
    value /= 10u;
  } while (value);
  return digits + at;
}

static void put_number(uint64_t value) {
  char digits[21];
  put(decimal(value, digits));
}

static void put_hex(uint8_t byte) {
  static const char digits[] = "0123456789abcdef";
  ek_board_putc((uint8_t)digits[byte >> 4]);
  ek_board_putc((uint8_t)digits[byte & 15u]);
}

/* "%.3f" without a library. */
static void put_milli(float value) {
  if (value < 0.0f) put("-"), value = -value;
  const uint64_t milli = (uint64_t)(value * 1000.0f + 0.5f);
  put_number(milli / 1000u);
  ek_board_putc('.');
  ek_board_putc((uint8_t)('0' + (int)(milli / 100u % 10u)));
  ek_board_putc((uint8_t)('0' + (int)(milli / 10u % 10u)));
  ek_board_putc((uint8_t)('0' + (int)(milli % 10u)));
}

static void put_checked(const char *text);
static void put_check(void);

/* PREFIX-[A,B,...]*CRCCRLF: lines of the extension carry a checksum, figures most of all. */
static void put_list(const char *prefix, const uint64_t *values, int n) {
  put_checked(prefix);
  put_checked("-[");
  for (int i = 0; i < n; ++i) {
    char digits[21];
    if (i) put_checked(",");
    put_checked(decimal(values[i], digits));
  }
  put_checked("]");
  put_check();
}
#define LIST(prefix, ...)                                                              \
  put_list(prefix, (const uint64_t[]){__VA_ARGS__},                                    \
           (int)(sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)))

static void error(const char *text) {
  put("e-[");
  put(text);
  put("]\r\n");
}

/* CRC-32 of IEEE 802.3, a bit at a time: no table. */
static uint32_t crc_step(uint32_t crc, uint8_t byte) {
  crc ^= byte;
  for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
  return crc;
}

static uint32_t crc32(const void *data, uint32_t bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const uint8_t *p = data; bytes; --bytes) crc = crc_step(crc, *p++);
  return ~crc;
}

static uint32_t line_crc = 0xFFFFFFFFu;

static void put_checked(const char *text) {
  for (const char *p = text; *p; ++p) line_crc = crc_step(line_crc, (uint8_t)*p);
  put(text);
}

static void put_check(void) {
  const uint32_t crc = ~line_crc;
  ek_board_putc('*');
  for (int shift = 24; shift >= 0; shift -= 8) put_hex((uint8_t)(crc >> shift));
  put("\r\n");
  line_crc = 0xFFFFFFFFu;
}

/* -- arguments ---------------------------------------------------------------------------------------- */

static int same(const char *a, const char *b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

/* The next word of a command, cut off with a zero; NULL at the end. */
static char *word(char **rest) {
  char *p = *rest;
  while (*p == ' ') ++p;
  if (!*p) return NULL;
  char *start = p;
  while (*p && *p != ' ') ++p;
  if (*p) *p++ = 0;
  *rest = p;
  return start;
}

/* A number, or -1 for anything else. */
static int64_t number(const char *text) {
  if (!text || !*text) return -1;
  int64_t value = 0;
  for (; *text; ++text) {
    if (*text < '0' || *text > '9' || value > (int64_t)1 << 40) return -1;
    value = 10 * value + (*text - '0');
  }
  return value;
}

static int nibble(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/* -- the model ---------------------------------------------------------------------------------------- */

/* Fills the inputs from the buffer: raw values, or what the benchmark sends instead of them. Before every
 * inference, because the model reuses its input buffers. */
static void load_inputs(void) {
  uint32_t at = 0;
#if EK_DB_FORMAT == EK_DB_PIXELS
  int8_t *to = edgekit_model_input(0);
  for (; at < db.at && at < INPUT_BYTES; ++at) to[at] = (int8_t)(db.bytes[at] ^ 0x80u);
#elif EK_DB_FORMAT == EK_DB_FLOATS
  int8_t *to = edgekit_model_input(0);
  for (; 4u * at + 4u <= db.at && at < INPUT_BYTES; ++at) {
    float real;
    __builtin_memcpy(&real, db.bytes + 4u * at, 4);
    const float scaled = real / EDGEKIT_MODEL_INPUT_0_SCALE;
    int32_t q = (int32_t)(scaled < 0.0f ? scaled - 0.5f : scaled + 0.5f);
    q += EDGEKIT_MODEL_INPUT_0_ZERO_POINT;
    to[at] = (int8_t)(q < -128 ? -128 : q > 127 ? 127 : q);
  }
#else
  for (int i = 0; i < EDGEKIT_MODEL_INPUTS; ++i) {
    uint8_t *to = edgekit_model_input(i);
    for (uint32_t k = edgekit_model_input_bytes(i); k && at < db.at; --k) *to++ = db.bytes[at++];
  }
#endif
}

/* What x-load brought; raw, whatever the db commands take. */
static uint8_t kept[INPUT_BYTES];
static int use_kept;

static void fill(void) {
  if (!use_kept) {
    load_inputs();
    return;
  }
  uint32_t at = 0;
  for (int i = 0; i < EDGEKIT_MODEL_INPUTS; ++i) {
    uint8_t *to = edgekit_model_input(i);
    for (uint32_t k = edgekit_model_input_bytes(i); k; --k) *to++ = kept[at++];
  }
}

static void infer_once(void) {
  fill();
  if (edgekit_model_invoke()) error("the model failed");
}

static void timestamp(void) {
  put("m-lap-us-");
  const uint64_t hz = ek_board_clock_hz(), ticks = ek_clock_ticks();
  put_number(ticks / hz * 1000000u + ticks % hz * 1000000u / hz);
  put("\r\n");
}

static float output_value(uint32_t i) {
#if defined(EDGEKIT_MODEL_OUTPUT_0_DTYPE_FLOAT32)
  return ((const float *)edgekit_model_output(0))[i];
#elif defined(EDGEKIT_MODEL_OUTPUT_0_DTYPE_UINT8)
  const int32_t q = ((const uint8_t *)edgekit_model_output(0))[i];
  return EDGEKIT_MODEL_OUTPUT_0_SCALE * (float)(q - EDGEKIT_MODEL_OUTPUT_0_ZERO_POINT);
#elif defined(EDGEKIT_MODEL_OUTPUT_0_DTYPE_INT16)
  const int32_t q = ((const int16_t *)edgekit_model_output(0))[i];
  return EDGEKIT_MODEL_OUTPUT_0_SCALE * (float)(q - EDGEKIT_MODEL_OUTPUT_0_ZERO_POINT);
#else
  const int32_t q = ((const int8_t *)edgekit_model_output(0))[i];
  return EDGEKIT_MODEL_OUTPUT_0_SCALE * (float)(q - EDGEKIT_MODEL_OUTPUT_0_ZERO_POINT);
#endif
}

static void results(void) {
  put("m-results-[");
#if EK_RESULT_ERROR /* the benchmark's figure of an autoencoder: mean squared error to its input */
  float sum = 0.0f;
  for (uint32_t i = 0; i < EDGEKIT_MODEL_OUTPUT_0_ELEMENTS; ++i) {
    float real = 0.0f;
#if EK_DB_FORMAT == EK_DB_FLOATS
    if (4u * i + 4u <= db.at) __builtin_memcpy(&real, db.bytes + 4u * i, 4);
#else
    real = EDGEKIT_MODEL_INPUT_0_SCALE *
           (float)((int8_t)db.bytes[i] - EDGEKIT_MODEL_INPUT_0_ZERO_POINT);
#endif
    const float d = output_value(i) - real;
    sum += d * d;
  }
  put_milli(sum / (float)EDGEKIT_MODEL_OUTPUT_0_ELEMENTS);
#else
  for (uint32_t i = 0; i < EDGEKIT_MODEL_OUTPUT_0_ELEMENTS; ++i) {
    if (i) put(",");
    put_milli(output_value(i));
  }
#endif
  put("]\r\n");
}

/* -- the benchmark's commands -------------------------------------------------------------------------- */

static void cmd_infer(char *rest) {
  const char *first = word(&rest), *second = first ? word(&rest) : NULL;
  const int64_t n = first ? number(first) : 1, warm = second ? number(second) : 10;
  if (n <= 0) {
    error("Inference iterations must be >0");
    return;
  }
  if (warm < 0) {
    error("Inference warmup must be >=0");
    return;
  }
  put("m-warmup-start-");
  put_number((uint64_t)warm);
  put("\r\n");
  for (int64_t i = 0; i < warm; ++i) infer_once();
  put("m-warmup-done\r\nm-infer-start-");
  put_number((uint64_t)n);
  put("\r\n");
  timestamp();
  for (int64_t i = 0; i < n; ++i) infer_once();
  timestamp();
  put("m-infer-done\r\n");
  results();
}

static void db_print(void) {
  for (uint32_t i = 0; i < db.size; ++i) {
    if (i % 8u == 0) put("m-buffer-");
    put_hex(db.bytes[i]);
    put(i % 8u == 7u || i + 1u == db.size ? "\r\n" : "-");
  }
}

static void cmd_db(char *rest) {
  const char *what = word(&rest);
  if (!what) {
    error("Command 'db' requires a subcommand");
  } else if (same(what, "load")) {
    const char *count = word(&rest);
    if (!count) {
      error("Command 'db load' requires the # of bytes");
      return;
    }
    const int64_t n = number(count);
    if (n <= 0) {
      error("Command 'db load' must be >0 bytes");
    } else if (n > EK_DB_BYTES) {
      error("Command 'db load' is for more bytes than the buffer has");
    } else {
      db.size = (uint32_t)n;
      db.at = 0;
      use_kept = 0;
      put("m-[Expecting ");
      put_number((uint64_t)n);
      put(" bytes]\r\n");
    }
  } else if (same(what, "print")) {
    db_print();
  } else {
    uint32_t length = 0;
    while (what[length]) ++length;
    if (length & 1u) {
      error("Insufficent number of hex digits");
      return;
    }
    for (uint32_t i = 0; i < length; i += 2) {
      const int high = nibble(what[i]), low = nibble(what[i + 1]);
      if (high < 0 || low < 0) {
        error("Invalid hex digit");
        return;
      }
      if (db.at < db.size) db.bytes[db.at++] = (uint8_t)(high << 4 | low);
      if (db.at == db.size) {
        put("m-load-done\r\n");
        return;
      }
    }
  }
}

static void help(void) {
  put(VERSION
      "\r\n\r\n"
      "help         : Print this information\r\n"
      "name         : Print the name of the device\r\n"
      "timestamp    : Generate a timestamp\r\n"
      "db SUBCMD    : Manipulate a generic byte buffer\r\n"
      "  load N     : Allocate N bytes and set load counter\r\n"
      "  db HH[HH]* : Load 8-bit hex byte(s) until N bytes\r\n"
      "  print      : Print the buffer as hex\r\n"
      "infer N [W]  : Load input, execute N inferences after W warmup loops\r\n"
      "results      : Return the result fp32 vector\r\n");
}

/* -- the extension ------------------------------------------------------------------------------------- */

static void x_info(void) {
  put_checked("x-id-[" EK_MODEL_ID "]");
  put_check();
  for (int i = 0; i < EDGEKIT_MODEL_INPUTS; ++i)
    LIST("x-input", (uint64_t)i, edgekit_model_input_bytes(i));
  for (int i = 0; i < EDGEKIT_MODEL_OUTPUTS; ++i)
    LIST("x-output", (uint64_t)i, edgekit_model_output_bytes(i));
  LIST("x-layers", EDGEKIT_MODEL_LAYERS);
  LIST("x-clock", ek_board_clock_hz());
  LIST("x-handler", EK_CLOCK_HANDLER_INSTRUCTIONS);
}

static void x_load(char *rest) {
  const int64_t index = number(word(&rest)), bytes = number(word(&rest));
  const int64_t crc = number(word(&rest)), patience = number(word(&rest));
  if (index < 0 || index >= EDGEKIT_MODEL_INPUTS || crc < 0 || patience < 0 ||
      bytes != (int64_t)edgekit_model_input_bytes((int)index)) {
    error("x-load does not fit the model's inputs");
    return;
  }
  uint8_t *to = kept;
  for (int i = 0; i < (int)index; ++i) to += edgekit_model_input_bytes(i);
  put("x-send\r\n");
  const uint64_t wait = (uint64_t)patience * (ek_board_clock_hz() / 1000u);
  uint64_t last = ek_clock_ticks();
  for (int64_t got = 0; got < bytes;) {
    const int c = ek_board_getc();
    if (c >= 0) {
      to[got++] = (uint8_t)c;
      last = ek_clock_ticks();
    } else if (ek_clock_ticks() - last > wait) {
      error("x-load: bytes are missing");
      return;
    }
  }
  if (crc32(to, (uint32_t)bytes) != (uint32_t)crc) {
    error("x-load: the checksum is wrong");
    return;
  }
  use_kept = 1;
  put("x-loaded\r\n");
}

static void x_out(char *rest) {
  const int64_t index = number(word(&rest));
  if (index < 0 || index >= EDGEKIT_MODEL_OUTPUTS) {
    error("x-out: there is no such output");
    return;
  }
  const uint32_t bytes = edgekit_model_output_bytes((int)index);
  const void *data = edgekit_model_output((int)index);
  LIST("x-data", (uint64_t)index, bytes, crc32(data, bytes));
  put_raw(data, bytes);
  put("\r\n");
}

/* One instruction: what is around it is what it costs to look at the clock. */
static __attribute__((naked)) int nothing(void) { __asm volatile("bx lr"); }
/* Through pointers that the compiler does not see through: both calls are the same instructions. */
static int (*volatile invoke_ptr)(void) = edgekit_model_invoke;
static int (*volatile nothing_ptr)(void) = nothing;

static __attribute__((noinline)) void lap(int (*function)(void)) {
  const uint32_t wraps = ek_clock_interrupts();
  const uint64_t start = ek_clock_ticks();
  function();
  const uint64_t end = ek_clock_ticks();
  LIST("x-lap", end - start, ek_clock_interrupts() - wraps);
}

static void x_time(char *rest) {
  const int64_t n = number(word(&rest));
  if (n <= 0) {
    error("x-time takes a number of inferences");
    return;
  }
  infer_once();
  for (int64_t i = 0; i < n; ++i) {
    fill();
    lap(invoke_ptr);
  }
  lap(nothing_ptr);
}

static struct {
  int traced;
  uint64_t last;
  uint32_t ticks[EDGEKIT_MODEL_LAYERS];
} watch;

/* Called by ek_traced_invoke (generated) after each layer, once for each output. */
void ek_watch(int layer, int output, const void *data, uint32_t bytes);
void ek_watch(int layer, int output, const void *data, uint32_t bytes) {
  if (watch.traced) {
    LIST("x-layer", (uint64_t)layer, (uint64_t)output, bytes, crc32(data, bytes));
    put_raw(data, bytes);
    put("\r\n");
    return;
  }
  const uint64_t now = ek_clock_ticks();
  watch.ticks[layer] += (uint32_t)(now - watch.last);
  watch.last = ek_clock_ticks();
}

static void x_layers(int traced) {
  watch.traced = traced;
  for (int i = 0; i < EDGEKIT_MODEL_LAYERS; ++i) watch.ticks[i] = 0;
  fill();
  watch.last = ek_clock_ticks();
  ek_traced_invoke();
  for (int i = 0; !traced && i < EDGEKIT_MODEL_LAYERS; ++i)
    LIST("x-lap", (uint64_t)i, watch.ticks[i]);
}

extern uint32_t ek_stack_limit[], ek_stack_top[]; /* linker script; painted by startup.c */

static void x_stack(void) {
  const uint32_t *p = ek_stack_limit;
  while (p < ek_stack_top && *p == 0xA5A5A5A5u) ++p;
  LIST("x-stack", (uint64_t)((uintptr_t)ek_stack_top - (uintptr_t)p));
}

/* -- the loop ------------------------------------------------------------------------------------------ */

static void execute(char *text) {
  char *rest = text;
  const char *what = word(&rest);
  if (!what) what = "";
  if (same(what, "name")) {
    put("m-name-dut-[" EK_VENDOR "]\r\n");
  } else if (same(what, "timestamp")) {
    timestamp();
  } else if (same(what, "profile")) {
    put("m-profile-[" VERSION "]\r\nm-model-[" EK_MODEL_NAME "]\r\n");
  } else if (same(what, "help")) {
    help();
  } else if (same(what, "db")) {
    cmd_db(rest);
  } else if (same(what, "infer")) {
    cmd_infer(rest);
  } else if (same(what, "results")) {
    results();
  } else if (same(what, "x-info")) {
    x_info();
  } else if (same(what, "x-load")) {
    x_load(rest);
  } else if (same(what, "x-infer")) {
    infer_once();
  } else if (same(what, "x-out")) {
    x_out(rest);
  } else if (same(what, "x-time")) {
    x_time(rest);
  } else if (same(what, "x-layer-time")) {
    x_layers(0);
  } else if (same(what, "x-trace")) {
    x_layers(1);
  } else if (same(what, "x-stack")) {
    x_stack();
  } else {
    put("e-[Unknown command: ");
    put(what);
    put("]\r\n");
  }
  put("m-ready\r\n");
}

void ek_fault(const uint32_t *frame, uint32_t exception);
void ek_fault(const uint32_t *frame, uint32_t exception) {
  LIST("e-fault", exception, frame[6]);
  for (;;) {
  }
}

void ek_main(void);
void ek_main(void) {
  ek_board_init();
  ek_clock_init();
  put("m-timestamp-mode-performance\r\n");
  timestamp();
  if (edgekit_model_init()) error("the model does not initialize");
  put("m-init-done\r\nm-ready\r\n");
  for (;;) {
    const int c = ek_board_getc();
    if (c < 0) continue;
    if (c == '%') {
      command.text[command.length] = 0;
      command.length = 0;
      execute(command.text);
    } else if (c == '\r' || c == '\n') {
      continue; /* people at a terminal */
    } else if (command.length < COMMAND) {
      command.text[command.length++] = (char)c;
    }
  }
}
