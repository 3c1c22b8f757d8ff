/* Runs a compiled model with TVM's runtime library alone; no Python. Plain C on tvm_ffi's C API.
 *
 *   run IN OUT      every sample of IN (all inputs, one after the other) through the model;
 *                   OUT gets all outputs of each sample
 *   profile IN      one inference of the first sample, between ek_marker_begin and ek_marker_end
 *   time IN N       one inference to warm up, then N, each timed: lines total_ns=...
 *   layers IN N     the same with pairs of lines layer=FUNCTION, layer_ns=... for every call
 *
 * MODEL.io, a text beside the library, has one line an input: "input BITS CODE RANK DIM...", code
 * as in DLPack. The library and this text are found beside the program, or in EDGEKIT_MODEL.
 * Results are lines key=value. Exit codes: 0 done, 2 wrong arguments or files, 3 the model failed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <tvm/ffi/c_api.h>

enum { EK_OK = 0, EK_USAGE = 2, EK_MODEL = 3, MAX_INPUTS = 256, MAX_RANK = 8 };

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

static int run_file(FILE *in, const char *out_name) {
  FILE *out = fopen(out_name, "wb");
  if (!out) return fail("cannot write the output file", EK_USAGE);
  long samples = 0;
  int more, code = 0;
  while (!code && (more = read_sample(in)) > 0) {
    TVMFFIAny result;
    code = invoke(&result);
    if (!code) code = write_outputs(result, out), release(result);
    ++samples;
  }
  if (fclose(out) && !code) code = fail("cannot write the output file", EK_USAGE);
  if (code) return code;
  if (more < 0) return fail("the input file ends inside a sample", EK_USAGE);
  printf("samples=%ld\n", samples);
  return EK_OK;
}

static struct {
  int printing;
  uint64_t start;
} layers;

/* Called around every call of the virtual machine: (function, name, before, result, args...). */
static int on_call(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  (void)self;
  const uint64_t now = now_ns();
  memset(result, 0, sizeof *result);
  result->type_index = kTVMFFIInt; /* 0: go on */
  if (count < 3) return 0;
  if (args[2].v_int64 == 0 && layers.printing) {
    const char *name = "";
    size_t size = 0;
    if (args[1].type_index == kTVMFFIRawStr) {
      name = args[1].v_c_str, size = strlen(name);
    } else if (args[1].type_index == kTVMFFISmallStr) {
      name = args[1].v_bytes, size = args[1].small_str_len;
    } else if (args[1].type_index == kTVMFFIStr) {
      const TVMFFIByteArray *text =
          (const TVMFFIByteArray *)((const char *)args[1].v_obj + sizeof(TVMFFIObject));
      name = text->data, size = text->size;
    }
    if (size > 3 && !memcmp(name, "ek_", 3))
      printf("layer=%.*s\nlayer_ns=%llu\n", (int)size, name,
             (unsigned long long)(now - layers.start));
  }
  layers.start = now_ns();
  return 0;
}

static int run_timed(FILE *in, const char *repeats, int per_layer) {
  const long n = strtol(repeats, NULL, 10);
  if (read_sample(in) <= 0) return fail("no sample in the input file", EK_USAGE);
  if (per_layer) {
    TVMFFIAny args[1], out;
    TVMFFIObjectHandle hook = NULL;
    if (TVMFFIFunctionCreate(NULL, on_call, NULL, &hook)) return fail_tvm("no instrument");
    args[0] = any_object(hook, kTVMFFIFunction);
    if (call(method(vm, "set_instrument"), args, 1, &out)) return fail_tvm("no instrument");
  }
  for (long k = 0; k <= n; ++k) {
    TVMFFIAny result;
    layers.printing = k > 0;
    const uint64_t start = now_ns();
    const int code = invoke(&result);
    const uint64_t end = now_ns();
    if (code) return code;
    release(result);
    if (k) printf("total_ns=%llu\n", (unsigned long long)(end - start));
  }
  return EK_OK;
}

int main(int argc, char **argv) {
  char path[4096];
  if (argc < 3) return fail("usage: run IN OUT | profile IN | time IN N | layers IN N", EK_USAGE);
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
  if (!strcmp(argv[1], "run") && argc == 4) {
    code = run_file(in, argv[3]);
  } else if (!strcmp(argv[1], "profile") && argc == 3) {
    TVMFFIAny result;
    if (read_sample(in) <= 0) return fail("no sample in the input file", EK_USAGE);
    ek_marker_begin();
    code = invoke(&result);
    ek_marker_end();
  } else if ((!strcmp(argv[1], "time") || !strcmp(argv[1], "layers")) && argc == 4) {
    code = run_timed(in, argv[3], argv[1][0] == 'l');
  } else {
    code = fail("usage: run IN OUT | profile IN | time IN N | layers IN N", EK_USAGE);
  }
  fclose(in);
  fflush(stdout);
  _Exit(code); /* TVM's own clean-up has been seen to hang under emulation */
}
