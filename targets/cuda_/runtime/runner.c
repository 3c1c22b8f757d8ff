/* Runs a launch plan on an NVIDIA GPU through the CUDA driver.

     runner run IN OUT          every sample of IN; outputs to OUT
     runner trace IN OUT        the same with the plan that keeps every tensor
     runner time IN N           N inferences of the first sample: total_ns (copies included), gpu_ns
     runner layers IN N         launch=INDEX and launch_ns of each kernel, N times
     runner info                what the driver says of the device

   Files in the working folder: plan.txt (trace.txt), weights.bin, kernels.cubin, kernels.ptx.
   Results are key=value lines; an error is one line error=..., exit code 1. EDGEKIT_CUDA_DRIVER
   names another driver library than libcuda.so.1; EDGEKIT_CUDA_DEVICE the device's number. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_ARGS = 16, MAX_NAME = 128, MAX_PORTS = 4096 };
enum { NO_BINARY_FOR_GPU = 209, CC_MAJOR = 75, CC_MINOR = 76 };

typedef unsigned long long device_ptr;

/* Every function of the driver that is used: its C name, our name, its parameters. */
#define DRIVER(X)                                                                                  \
  X(cuInit, init, (unsigned flags))                                                                \
  X(cuDriverGetVersion, version, (int *v))                                                         \
  X(cuDeviceGetCount, count, (int *n))                                                             \
  X(cuDeviceGet, get, (int *device, int ordinal))                                                  \
  X(cuDeviceGetName, name, (char *name, int n, int device))                                        \
  X(cuDeviceGetAttribute, attribute, (int *v, int which, int device))                              \
  X(cuDevicePrimaryCtxRetain, retain, (void **context, int device))                                \
  X(cuCtxSetCurrent, set_current, (void *context))                                                 \
  X(cuModuleLoadData, load, (void **module, const void *image))                                    \
  X(cuModuleGetFunction, function, (void **f, void *module, const char *name))                     \
  X(cuMemAlloc_v2, alloc, (device_ptr * p, size_t n))                                              \
  X(cuMemcpyHtoD_v2, to_device, (device_ptr d, const void *s, size_t n))                           \
  X(cuMemcpyDtoH_v2, to_host, (void *d, device_ptr s, size_t n))                                   \
  X(cuStreamCreate, stream, (void **s, unsigned flags))                                            \
  X(cuStreamSynchronize, synchronize, (void *s))                                                   \
  X(cuEventCreate, event, (void **e, unsigned flags))                                              \
  X(cuEventRecord, record, (void *e, void *s))                                                     \
  X(cuEventSynchronize, wait, (void *e))                                                           \
  X(cuEventElapsedTime, elapsed, (float *ms, void *a, void *b))                                    \
  X(cuLaunchKernel, launch,                                                                        \
    (void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,        \
     unsigned shared, void *stream, void **args, void **extra))

struct driver {
#define MEMBER(c, ours, args) int(*ours) args;
  DRIVER(MEMBER)
};

struct port {
  size_t offset, bytes;
};
struct step {
  char kernel[MAX_NAME];
  unsigned grid[3], block[3];
  int args;
  char space[MAX_ARGS]; /* 'a': arena, 'w': weights */
  size_t offset[MAX_ARGS];
  void *function;
  device_ptr pointers[MAX_ARGS];
  void *parameters[MAX_ARGS];
};
struct plan {
  size_t arena, weights;
  int inputs, outputs, steps;
  struct port in[MAX_PORTS], out[MAX_PORTS];
  struct step *step;
};
struct machine {
  struct driver cu;
  int device;
  void *stream;
  device_ptr arena;
};

static void fail(const char *format, ...) {
  va_list args;
  va_start(args, format);
  printf("error=");
  vprintf(format, args);
  printf("\n");
  va_end(args);
  fflush(stdout);
  exit(1);
}

static void check(int code, const char *what) {
  if (code == 100) fail("no NVIDIA GPU: the driver finds no device");
  if (code) fail("%s failed with CUDA error %d", what, code);
}

static unsigned char *read_file(const char *path, size_t *size, int optional) {
  FILE *f = fopen(path, "rb");
  if (!f && optional) return NULL;
  if (!f) fail("'%s' cannot be read", path);
  if (fseek(f, 0, SEEK_END)) fail("'%s' cannot be read", path);
  const long n = ftell(f);
  if (n < 0 || fseek(f, 0, SEEK_SET)) fail("'%s' cannot be read", path);
  unsigned char *data = malloc((size_t)n + 1);
  if (!data) fail("no memory for '%s'", path);
  if (fread(data, 1, (size_t)n, f) != (size_t)n) fail("'%s' cannot be read", path);
  data[n] = 0; /* PTX is text */
  fclose(f);
  *size = (size_t)n;
  return data;
}

static void read_plan(const char *path, struct plan *p) {
  FILE *f = fopen(path, "r");
  char word[16];
  int version = 0;
  if (!f || fscanf(f, "edgekit-cuda %d", &version) != 1 || version != 1)
    fail("'%s' is no launch plan of version 1", path);
  int room = 0;
  while (fscanf(f, "%15s", word) == 1) {
    int ok = 0;
    if (!strcmp(word, "arena")) ok = fscanf(f, "%zu", &p->arena) == 1;
    else if (!strcmp(word, "weights")) ok = fscanf(f, "%zu", &p->weights) == 1;
    else if (!strcmp(word, "steps")) {
      ok = fscanf(f, "%d", &room) == 1 && room >= 0 && !p->step;
      if (ok) ok = (p->step = calloc((size_t)room + 1, sizeof *p->step)) != NULL;
    } else if (!strcmp(word, "input") && p->inputs < MAX_PORTS) {
      struct port *q = &p->in[p->inputs++];
      ok = fscanf(f, "%zu %zu", &q->offset, &q->bytes) == 2 && q->offset + q->bytes <= p->arena;
    } else if (!strcmp(word, "output") && p->outputs < MAX_PORTS) {
      struct port *q = &p->out[p->outputs++];
      ok = fscanf(f, "%zu %zu", &q->offset, &q->bytes) == 2 && q->offset + q->bytes <= p->arena;
    } else if (!strcmp(word, "launch") && p->steps < room) {
      struct step *s = &p->step[p->steps++];
      ok = fscanf(f, "%127s %u %u %u %u %u %u %d", s->kernel, &s->grid[0], &s->grid[1],
                  &s->grid[2], &s->block[0], &s->block[1], &s->block[2], &s->args) == 8 &&
           s->args >= 0 && s->args <= MAX_ARGS;
      for (int i = 0; ok && i < s->args; i++)
        ok = fscanf(f, " %c%zu", &s->space[i], &s->offset[i]) == 2 &&
             (s->space[i] == 'a' || s->space[i] == 'w') &&
             s->offset[i] <= (s->space[i] == 'a' ? p->arena : p->weights);
    }
    if (!ok) fail("'%s' is damaged at '%s'", path, word);
  }
  if (p->steps != room) fail("'%s' ends too early", path);
  fclose(f);
}

static void open_driver(struct machine *m) {
  const char *name = getenv("EDGEKIT_CUDA_DRIVER");
  if (!name || !*name) name = "libcuda.so.1";
  void *library = dlopen(name, RTLD_NOW);
  if (!library) fail("no NVIDIA GPU: the driver library '%s' cannot be loaded", name);
#define LOOKUP(c, ours, args)                                                                      \
  {                                                                                                \
    void *found = dlsym(library, #c);                                                              \
    if (!found) fail("the driver library has no " #c);                                             \
    memcpy(&m->cu.ours, &found, sizeof found);                                                     \
  }
  DRIVER(LOOKUP)
  check(m->cu.init(0), "cuInit");
  int count = 0;
  check(m->cu.count(&count), "cuDeviceGetCount");
  if (count < 1) fail("no NVIDIA GPU: the driver finds no device");
  const char *number = getenv("EDGEKIT_CUDA_DEVICE");
  check(m->cu.get(&m->device, number ? atoi(number) : 0), "cuDeviceGet");
}

static void describe(struct machine *m) {
  char name[256] = "";
  int driver = 0, major = 0, minor = 0;
  check(m->cu.name(name, (int)sizeof name, m->device), "cuDeviceGetName");
  check(m->cu.version(&driver), "cuDriverGetVersion");
  check(m->cu.attribute(&major, CC_MAJOR, m->device), "cuDeviceGetAttribute");
  check(m->cu.attribute(&minor, CC_MINOR, m->device), "cuDeviceGetAttribute");
  printf("device=%s\ndriver=%d.%d\ncompute_capability=%d.%d\n", name, driver / 1000,
         driver % 1000 / 10, major, minor);
}

static void prepare(struct machine *m, struct plan *p) {
  void *context = NULL, *module = NULL;
  size_t size = 0;
  check(m->cu.retain(&context, m->device), "cuDevicePrimaryCtxRetain");
  check(m->cu.set_current(context), "cuCtxSetCurrent");
  unsigned char *image = read_file("kernels.cubin", &size, 0);
  int code = m->cu.load(&module, image);
  if (code == NO_BINARY_FOR_GPU) { /* another GPU: the driver compiles the portable form */
    free(image);
    image = read_file("kernels.ptx", &size, 0);
    code = m->cu.load(&module, image);
    if (!code) printf("module=ptx\n");
  } else if (!code) printf("module=cubin\n");
  if (code == NO_BINARY_FOR_GPU) fail("the kernels are for a newer GPU than this one");
  check(code, "cuModuleLoadData");
  free(image);
  check(m->cu.stream(&m->stream, 0), "cuStreamCreate");
  device_ptr weights = 0;
  check(m->cu.alloc(&m->arena, p->arena ? p->arena : 1), "cuMemAlloc of the arena");
  check(m->cu.alloc(&weights, p->weights ? p->weights : 1), "cuMemAlloc of the weights");
  if (p->weights) {
    unsigned char *data = read_file("weights.bin", &size, 0);
    if (size != p->weights) fail("weights.bin has %zu bytes; %zu are expected", size, p->weights);
    check(m->cu.to_device(weights, data, size), "cuMemcpyHtoD of the weights");
    free(data);
  }
  for (int i = 0; i < p->steps; i++) {
    struct step *s = &p->step[i];
    if (m->cu.function(&s->function, module, s->kernel)) fail("the module has no %s", s->kernel);
    for (int k = 0; k < s->args; k++) {
      s->pointers[k] = (s->space[k] == 'a' ? m->arena : weights) + s->offset[k];
      s->parameters[k] = &s->pointers[k];
    }
  }
}

static void launch(struct machine *m, struct step *s) {
  const int code = m->cu.launch(s->function, s->grid[0], s->grid[1], s->grid[2], s->block[0],
                                s->block[1], s->block[2], 0, m->stream, s->parameters, NULL);
  if (code) fail("the launch of %s failed with CUDA error %d", s->kernel, code);
}

static void set_inputs(struct machine *m, struct plan *p, const unsigned char *data) {
  for (int i = 0; i < p->inputs; i++) {
    check(m->cu.to_device(m->arena + p->in[i].offset, data, p->in[i].bytes), "cuMemcpyHtoD");
    data += p->in[i].bytes;
  }
}

static void get_outputs(struct machine *m, struct plan *p, unsigned char *data) {
  for (int i = 0; i < p->outputs; i++) {
    check(m->cu.to_host(data, m->arena + p->out[i].offset, p->out[i].bytes), "cuMemcpyDtoH");
    data += p->out[i].bytes;
  }
}

static void infer(struct machine *m, struct plan *p) {
  for (int i = 0; i < p->steps; i++) launch(m, &p->step[i]);
}

static size_t width(const struct port *ports, int n) {
  size_t sum = 0;
  for (int i = 0; i < n; i++) sum += ports[i].bytes;
  return sum;
}

static long long now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (long long)t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void run_all(struct machine *m, struct plan *p, const char *in, const char *out) {
  size_t size = 0;
  const size_t sample = width(p->in, p->inputs), result = width(p->out, p->outputs);
  unsigned char *data = read_file(in, &size, 0), *row = malloc(result + 1);
  if (!sample || size % sample) fail("'%s' holds no whole number of samples", in);
  FILE *f = fopen(out, "wb");
  if (!f || !row) fail("'%s' cannot be written", out);
  for (size_t i = 0; i < size / sample; i++) {
    set_inputs(m, p, data + i * sample);
    infer(m, p);
    check(m->cu.synchronize(m->stream), "cuStreamSynchronize");
    get_outputs(m, p, row);
    if (fwrite(row, 1, result, f) != result) fail("'%s' cannot be written", out);
  }
  if (fclose(f)) fail("'%s' cannot be written", out);
  free(row);
  free(data);
}

static unsigned char *first_sample(struct plan *p, const char *in) {
  size_t size = 0;
  unsigned char *data = read_file(in, &size, 0);
  if (size < width(p->in, p->inputs)) fail("'%s' holds no sample", in);
  return data;
}

static float between(struct machine *m, void *a, void *b) {
  float ms = 0;
  const int code = m->cu.elapsed(&ms, a, b);
  if (code == 801) fail("this device has no clock: its time would say nothing about a GPU");
  check(code, "cuEventElapsedTime");
  return ms;
}

static void time_all(struct machine *m, struct plan *p, const char *in, int repeats, int layers) {
  unsigned char *data = first_sample(p, in), *row = malloc(width(p->out, p->outputs) + 1);
  void **events = calloc((size_t)p->steps + 2, sizeof *events);
  if (!row || !events) fail("no memory");
  for (int i = 0; i <= p->steps; i++) check(m->cu.event(&events[i], 0), "cuEventCreate");
  for (int i = -3; i < repeats; i++) { /* three to warm up */
    const long long start = now_ns();
    set_inputs(m, p, data);
    check(m->cu.record(events[0], m->stream), "cuEventRecord");
    for (int k = 0; k < p->steps; k++) {
      launch(m, &p->step[k]);
      if (layers) check(m->cu.record(events[k + 1], m->stream), "cuEventRecord");
    }
    if (!layers) check(m->cu.record(events[p->steps], m->stream), "cuEventRecord");
    check(m->cu.synchronize(m->stream), "cuStreamSynchronize");
    get_outputs(m, p, row);
    const long long end = now_ns();
    if (p->steps == 0) fail("the model has nothing to compute");
    const float whole = between(m, events[0], events[p->steps]);
    if (i < 0) continue;
    if (!layers) printf("total_ns=%lld\ngpu_ns=%.0f\n", end - start, (double)whole * 1e6);
    for (int k = 0; layers && k < p->steps; k++)
      printf("launch=%d\nlaunch_ns=%.0f\n", k, (double)between(m, events[k], events[k + 1]) * 1e6);
  }
  free(events);
  free(row);
  free(data);
}

int main(int argc, char **argv) {
  static struct plan p;
  static struct machine m;
  const char *verb = argc > 1 ? argv[1] : "";
  const int timed = !strcmp(verb, "time") || !strcmp(verb, "layers");
  if (!strcmp(verb, "info") && argc == 2) {
    open_driver(&m);
    describe(&m);
    return 0;
  }
  if (argc != 4 || !(timed || !strcmp(verb, "run") || !strcmp(verb, "trace")))
    fail("usage: runner run|trace IN OUT, runner time|layers IN N, runner info");
  read_plan(strcmp(verb, "trace") ? "plan.txt" : "trace.txt", &p);
  open_driver(&m);
  prepare(&m, &p);
  if (timed) {
    describe(&m);
    time_all(&m, &p, argv[2], atoi(argv[3]), verb[0] == 'l');
  } else run_all(&m, &p, argv[2], argv[3]);
  free(p.step);
  return 0;
}
