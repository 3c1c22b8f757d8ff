/* Runs a compiled model with TVM's runtime library alone; no Python. Plain C on tvm_ffi's C API.
 *
 *   run IN OUT      every sample of IN (all inputs, one after the other) through the model;
 *                   OUT gets all outputs of each sample
 *   trace IN OUT    the same, but OUT gets what every kernel wrote: records of a 64-bit length of the
 *                   name, the name, a 64-bit size, the bytes; of each sample a record 0, 0 is last
 *   profile IN      of the first sample one inference to warm up, one between ek_marker_begin and
 *                   ek_marker_end, then one with ek_call_K before the K-th kernel and
 *                   ek_marker_between after it: what devices that count instructions look for.
 *                   Lines call=FUNCTION name the kernels in order
 *   time IN N       inferences to warm up (50 ms), then N, each timed: lines total_ns=...; then of
 *                   all of them loop_ns=, cpu_ns= (processor time), switches= (times it was put aside
 *                   for others), peak_kb= (memory), and core= wherever another one was seen
 *   layers IN N     the same with pairs of lines layer=FUNCTION, layer_ns=... for every call
 *
 * MODEL.io, a text beside the library, has one line an input: "input BITS CODE RANK DIM...", code
 * as in DLPack. The library and this text are found beside the program, or in EDGEKIT_MODEL.
 * One thread, whatever TVM_NUM_THREADS says.
 * Results are lines key=value. Exit codes: 0 done, 2 wrong arguments or files, 3 the model failed.
 */
#ifndef _GNU_SOURCE /* sched_getcpu */
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <tvm/ffi/c_api.h>

enum { EK_OK = 0, EK_USAGE = 2, EK_MODEL = 3, MAX_INPUTS = 256, MAX_RANK = 8 };
enum { MAX_CALLS = 512, MAX_NAME = 64, WARM_UP_NS = 50000000 };
static const char USAGE[] =
    "usage: run IN OUT | trace IN OUT | profile IN | time IN N | layers IN N";

typedef struct {
  DLManagedTensorVersioned managed;
  int64_t shape[MAX_RANK];
  int64_t strides[MAX_RANK];
  uint64_t bytes;
  TVMFFIObjectHandle tensor;
} Input;

static Input inputs[MAX_INPUTS];
static int input_count;
static TVMFFIObjectHandle main_function, array_item, array_size, vm;

void ek_marker_begin(void);
void ek_marker_end(void);
__attribute__((noinline)) void ek_marker_begin(void) { __asm volatile("" ::: "memory"); }
__attribute__((noinline)) void ek_marker_end(void) { __asm volatile("" ::: "memory"); }

#ifdef EK_CALL_MARKERS /* one function a call, so that each has an address */
void ek_marker_between(void);
__attribute__((noinline)) void ek_marker_between(void) { __asm volatile("" ::: "memory"); }
#define EK_1(N)                                                  \
  void ek_call_##N(void);                                        \
  __attribute__((noinline, used)) void ek_call_##N(void) { __asm volatile("" ::: "memory"); }
#define EK_8(N) EK_1(N##0) EK_1(N##1) EK_1(N##2) EK_1(N##3) EK_1(N##4) EK_1(N##5) EK_1(N##6) EK_1(N##7)
#define EK_64(N) EK_8(N##0) EK_8(N##1) EK_8(N##2) EK_8(N##3) EK_8(N##4) EK_8(N##5) EK_8(N##6) EK_8(N##7)
EK_64(0) EK_64(1) EK_64(2) EK_64(3) EK_64(4) EK_64(5) EK_64(6) EK_64(7) /* octal: 000 to 777 */
#undef EK_1
#define EK_1(N) ek_call_##N,
static void (*const call_markers[MAX_CALLS])(void) = {
    EK_64(0) EK_64(1) EK_64(2) EK_64(3) EK_64(4) EK_64(5) EK_64(6) EK_64(7)};
static void mark_call(int k) { if (k < MAX_CALLS) call_markers[k](); }
static void mark_between(void) { ek_marker_between(); }
#else
static void mark_call(int k) { (void)k; }
static void mark_between(void) {}
#endif

static int fail(const char *text, int code) {
  printf("error=%s\n", text);
  return code;
}

/* What went wrong inside TVM, in one line. */
static int fail_tvm(const char *what) {
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  if (!error) return fail(what, EK_MODEL);
  const TVMFFIErrorCell *cell = (const TVMFFIErrorCell *)((const char *)error + sizeof(TVMFFIObject));
  size_t line = 0;
  while (line < cell->message.size && cell->message.data[line] != '\n') ++line;
  printf("error=%s: %.*s\n", what, (int)line, cell->message.data);
  TVMFFIObjectDecRef(error);
  return EK_MODEL;
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static TVMFFIAny any_int(int64_t value) {
  TVMFFIAny a;
  memset(&a, 0, sizeof a);
  a.type_index = kTVMFFIInt;
  a.v_int64 = value;
  return a;
}

static TVMFFIAny any_bool(int value) {
  TVMFFIAny a = any_int(value);
  a.type_index = kTVMFFIBool;
  return a;
}

static TVMFFIAny any_text(const char *value) {
  TVMFFIAny a = any_int(0);
  a.type_index = kTVMFFIRawStr;
  a.v_c_str = value;
  return a;
}

static TVMFFIAny any_object(TVMFFIObjectHandle object, int32_t type_index) {
  TVMFFIAny a = any_int(0);
  a.type_index = type_index;
  a.v_obj = (TVMFFIObject *)object;
  return a;
}

static TVMFFIAny any_module(TVMFFIObjectHandle m) { return any_object(m, kTVMFFIModule); }

static TVMFFIObjectHandle global(const char *name) {
  const TVMFFIByteArray text = {name, strlen(name)};
  TVMFFIObjectHandle out = NULL;
  return TVMFFIFunctionGetGlobal(&text, &out) ? NULL : out;
}

/* 0 and the result; objects in it belong to the caller. */
static int call(TVMFFIObjectHandle f, TVMFFIAny *args, int count, TVMFFIAny *result) {
  memset(result, 0, sizeof *result);
  return !f || TVMFFIFunctionCall(f, args, count, result);
}

static TVMFFIObjectHandle method(TVMFFIObjectHandle module, const char *name) {
  TVMFFIAny args[3] = {any_module(module), any_text(name), any_bool(0)}, out;
  TVMFFIObjectHandle get = global("ffi.ModuleGetFunction");
  if (call(get, args, 3, &out) || out.type_index != kTVMFFIFunction) return NULL;
  return out.v_obj;
}

static void no_delete(DLManagedTensorVersioned *self) { (void)self; }

/* The inputs' descriptions, and memory for them; 0 when all is well. */
static int read_description(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) return 1;
  int bits, code, rank, bad = 0;
  while (!bad && fscanf(file, " input %d %d %d", &bits, &code, &rank) == 3) {
    if (input_count == MAX_INPUTS || rank < 0 || rank > MAX_RANK) {
      bad = 1;
      break;
    }
    Input *in = &inputs[input_count++];
    uint64_t elements = 1;
    for (int i = 0; i < rank; ++i) {
      long long d = 0;
      bad |= fscanf(file, " %lld", &d) != 1 || d < 1;
      in->shape[i] = d;
      elements *= (uint64_t)d;
    }
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; --i) in->strides[i] = stride, stride *= in->shape[i];
    in->bytes = elements * (uint64_t)bits / 8;
    DLTensor *t = &in->managed.dl_tensor;
    in->managed.version.major = DLPACK_MAJOR_VERSION;
    in->managed.version.minor = DLPACK_MINOR_VERSION;
    in->managed.deleter = no_delete;
    t->data = aligned_alloc(64, (in->bytes + 127) / 64 * 64);
    t->device.device_type = kDLCPU;
    t->ndim = rank;
    t->dtype.code = (uint8_t)code;
    t->dtype.bits = (uint8_t)bits;
    t->dtype.lanes = 1;
    t->shape = in->shape;
    t->strides = in->strides;
    bad |= !t->data || TVMFFITensorFromDLPackVersioned(&in->managed, 64, 1, &in->tensor);
  }
  fclose(file);
  return bad;
}

static int load(const char *library) {
  TVMFFIAny args[3] = {any_text(library)}, out, exec;
  if (call(global("ffi.ModuleLoadFromFile"), args, 1, &out)) return fail_tvm("cannot load the model");
  TVMFFIObjectHandle loader = method(out.v_obj, "vm_load_executable");
  if (!loader || call(loader, args, 0, &exec)) return fail_tvm("the library holds no model");
  vm = exec.v_obj;
  args[0] = any_int(kDLCPU), args[1] = any_int(0), args[2] = any_int(2 /* pooled memory */);
  if (call(method(vm, "vm_initialization"), args, 3, &out)) return fail_tvm("no virtual machine");
  main_function = method(vm, "main");
  array_item = global("ffi.ArrayGetItem");
  array_size = global("ffi.ArraySize");
  return main_function && array_item && array_size ? 0 : fail("the model has no main", EK_MODEL);
}

static int invoke(TVMFFIAny *result) {
  TVMFFIAny args[MAX_INPUTS];
  for (int i = 0; i < input_count; ++i) args[i] = any_object(inputs[i].tensor, kTVMFFITensor);
  return call(main_function, args, input_count, result) ? fail_tvm("the model failed") : 0;
}

/* 1: a sample was read; 0: end of the file; -1: the file ends inside a sample. */
static int read_sample(FILE *file) {
  for (int i = 0; i < input_count; ++i) {
    const size_t got = fread(inputs[i].managed.dl_tensor.data, 1, inputs[i].bytes, file);
    if (got != inputs[i].bytes) return got == 0 && i == 0 ? 0 : -1;
  }
  return 1;
}

static int write_outputs(TVMFFIAny result, FILE *file) {
  TVMFFIAny args[2] = {result}, out;
  if (call(array_size, args, 1, &out)) return fail_tvm("no outputs");
  const int64_t count = out.v_int64;
  for (int64_t i = 0; i < count; ++i) {
    args[1] = any_int(i);
    if (call(array_item, args, 2, &out)) return fail_tvm("no output");
    const DLTensor *t = (const DLTensor *)((const char *)out.v_obj + sizeof(TVMFFIObject));
    uint64_t bytes = t->dtype.bits / 8;
    for (int d = 0; d < t->ndim; ++d) bytes *= (uint64_t)t->shape[d];
    const char *data = (const char *)t->data + t->byte_offset;
    const size_t put = fwrite(data, 1, bytes, file);
    TVMFFIObjectDecRef(out.v_obj);
    if (put != bytes) return fail("cannot write the output file", EK_USAGE);
  }
  return 0;
}

static void release(TVMFFIAny result) {
  if (result.type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(result.v_obj);
}

static int instrument(void);
static FILE *trace_file; /* open: kernels' outputs go there */
static int trace_failed;

static void trace_record(const char *name, size_t size, const void *data, uint64_t bytes) {
  const uint64_t length = size;
  trace_failed |= fwrite(&length, sizeof length, 1, trace_file) != 1 ||
                  fwrite(name, 1, size, trace_file) != size ||
                  fwrite(&bytes, sizeof bytes, 1, trace_file) != 1 ||
                  fwrite(data, 1, bytes, trace_file) != bytes;
}

/* The last argument of a kernel is what it writes. */
static void trace_call(const char *name, size_t size, const TVMFFIAny *a) {
  const DLTensor *t = NULL;
  if (a->type_index == kTVMFFIDLTensorPtr) t = (const DLTensor *)a->v_ptr;
  if (a->type_index == kTVMFFITensor)
    t = (const DLTensor *)((const char *)a->v_obj + sizeof(TVMFFIObject));
  if (!t) return;
  uint64_t bytes = t->dtype.bits / 8;
  for (int d = 0; d < t->ndim; ++d) bytes *= (uint64_t)t->shape[d];
  trace_record(name, size, (const char *)t->data + t->byte_offset, bytes);
}

static int run_file(FILE *in, const char *out_name, int tracing) {
  FILE *out = fopen(out_name, "wb");
  if (!out) return fail("cannot write the output file", EK_USAGE);
  if (tracing) trace_file = out;
  if (tracing && instrument()) return EK_MODEL;
  long samples = 0;
  int more, code = 0;
  while (!code && (more = read_sample(in)) > 0) {
    TVMFFIAny result;
    code = invoke(&result);
    if (!code && !tracing) code = write_outputs(result, out);
    if (!code) release(result);
    if (tracing) trace_record("", 0, "", 0);
    ++samples;
  }
  if ((fclose(out) || trace_failed) && !code) code = fail("cannot write the output file", EK_USAGE);
  if (code) return code;
  if (more < 0) return fail("the input file ends inside a sample", EK_USAGE);
  printf("samples=%ld\n", samples);
  return EK_OK;
}

static struct {
  int printing, counting, calls;
  uint64_t start;
  char names[MAX_CALLS][MAX_NAME];
} layers;

/* The name of the function that is called, "" where it is none of the model's kernels. */
static size_t name_of(const TVMFFIAny *a, const char **name) {
  size_t size = 0;
  *name = "";
  if (a->type_index == kTVMFFIRawStr) {
    *name = a->v_c_str, size = strlen(*name);
  } else if (a->type_index == kTVMFFISmallStr) {
    *name = a->v_bytes, size = a->small_str_len;
  } else if (a->type_index == kTVMFFIStr) {
    const TVMFFIByteArray *text =
        (const TVMFFIByteArray *)((const char *)a->v_obj + sizeof(TVMFFIObject));
    *name = text->data, size = text->size;
  }
  return size > 3 && !memcmp(*name, "ek_", 3) ? size : 0;
}

/* Called around every call of the virtual machine: (function, name, before, result, args...). */
static int on_call(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  const uint64_t now = layers.counting ? 0 : now_ns();
  (void)self;
  mark_between();
  memset(result, 0, sizeof *result);
  result->type_index = kTVMFFIInt; /* 0: go on */
  if (count < 3) return 0;
  const char *name;
  const size_t size = name_of(&args[1], &name);
  const int before = args[2].v_int64 != 0;
  if (!before && size && layers.printing)
    printf("layer=%.*s\nlayer_ns=%llu\n", (int)size, name,
           (unsigned long long)(now - layers.start));
  if (!before && size && trace_file) trace_call(name, size, &args[count - 1]);
  if (before && size && layers.counting) {
    const int k = layers.calls++;
    if (k < MAX_CALLS) snprintf(layers.names[k], MAX_NAME, "%.*s", (int)size, name);
    mark_call(k);
    return 0;
  }
  layers.start = layers.counting ? 0 : now_ns();
  return 0;
}

static int instrument(void) {
  TVMFFIAny args[1], out;
  TVMFFIObjectHandle hook = NULL;
  if (TVMFFIFunctionCreate(NULL, on_call, NULL, &hook)) return fail_tvm("no instrument");
  args[0] = any_object(hook, kTVMFFIFunction);
  return call(method(vm, "set_instrument"), args, 1, &out) ? fail_tvm("no instrument") : 0;
}

/* Processor time and the number of times that this process was put aside for others. */
static void usage(uint64_t *cpu_ns, uint64_t *switches) {
  struct rusage r;
  memset(&r, 0, sizeof r);
  getrusage(RUSAGE_SELF, &r);
  *cpu_ns = (uint64_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000000u +
            (uint64_t)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1000u;
  *switches = (uint64_t)r.ru_nivcsw;
}

/* Not ru_maxrss, which begins with the memory of the process that started this one. */
static unsigned long peak_kb(void) {
  unsigned long kb = 0;
  char line[128];
  FILE *f = fopen("/proc/self/status", "r");
  while (f && fgets(line, sizeof line, f))
    if (sscanf(line, "VmHWM: %lu", &kb) == 1) break;
  if (f) fclose(f);
  return kb;
}

static int run_timed(FILE *in, const char *repeats, int per_layer) {
  const long n = strtol(repeats, NULL, 10);
  if (read_sample(in) <= 0) return fail("no sample in the input file", EK_USAGE);
  int code = per_layer ? instrument() : 0;
  if (code) return code;
  const uint64_t began = now_ns();
  uint64_t loop = began, cpu[2] = {0, 0}, switches[2] = {0, 0};
  int core = -1;
  for (long k = -1; k < n; ++k) {
    TVMFFIAny result;
    if (k <= 0) { /* the loop begins after the warm-up */
      loop = now_ns();
      usage(&cpu[0], &switches[0]);
    }
    layers.printing = k >= 0;
    const uint64_t start = now_ns();
    code = invoke(&result);
    const uint64_t end = now_ns();
    if (code) return code;
    release(result);
    if (k >= 0) {
      printf("total_ns=%llu\n", (unsigned long long)(end - start));
    } else if (end - began < WARM_UP_NS) {
      --k;
    }
    const int seen = sched_getcpu();
    if (k >= 0 && !per_layer && seen >= 0 && seen != core) printf("core=%d\n", core = seen);
  }
  const uint64_t all = now_ns() - loop;
  usage(&cpu[1], &switches[1]);
  if (!per_layer)
    printf("loop_ns=%llu\ncpu_ns=%llu\nswitches=%llu\npeak_kb=%lu\n", (unsigned long long)all,
           (unsigned long long)(cpu[1] - cpu[0]), (unsigned long long)(switches[1] - switches[0]),
           peak_kb());
  return EK_OK;
}

static int run_counted(FILE *in) {
  TVMFFIAny result;
  if (read_sample(in) <= 0) return fail("no sample in the input file", EK_USAGE);
  int code = invoke(&result); /* memory is in its pools, symbols are found */
  if (code) return code;
  release(result);
  ek_marker_begin();
  code = invoke(&result);
  ek_marker_end();
  if (code) return code;
  release(result);
  code = instrument();
  if (code) return code;
  layers.counting = 1;
  code = invoke(&result);
  ek_marker_end();
  if (code) return code;
  for (int k = 0; k < layers.calls && k < MAX_CALLS; ++k) printf("call=%s\n", layers.names[k]);
  return EK_OK;
}

int main(int argc, char **argv) {
  char path[4096];
  if (argc < 3) return fail(USAGE, EK_USAGE);
  setenv("TVM_NUM_THREADS", "1", 1);
  const int tracing = !strcmp(argv[1], "trace");
  const char *base = getenv("EDGEKIT_MODEL"), *slash = strrchr(argv[0], '/');
  const int folder = base || !slash ? 0 : (int)(slash - argv[0] + 1);
  if (!base) base = "model";
  snprintf(path, sizeof path, "%.*s%s.io", folder, argv[0], base);
  if (read_description(path)) return fail("cannot read the model's description", EK_USAGE);
  snprintf(path, sizeof path, "%.*s%s.so", folder, argv[0], base);
  int code = load(path);
  if (code) return code;
  FILE *in = fopen(argv[2], "rb");
  if (!in) return fail("cannot open the input file", EK_USAGE);
  if ((!strcmp(argv[1], "run") || tracing) && argc == 4) {
    code = run_file(in, argv[3], tracing);
  } else if (!strcmp(argv[1], "profile") && argc == 3) {
    code = run_counted(in);
  } else if ((!strcmp(argv[1], "time") || !strcmp(argv[1], "layers")) && argc == 4) {
    code = run_timed(in, argv[3], argv[1][0] == 'l');
  } else {
    code = fail(USAGE, EK_USAGE);
  }
  fclose(in);
  fflush(stdout);
  _Exit(code); /* TVM's own clean-up has been seen to hang under emulation */
}
