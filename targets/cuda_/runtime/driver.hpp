/* The part of the CUDA driver that the runner calls, over the kernels compiled into this library
   (host.hpp). Memory ends at an inaccessible page; nothing can be timed. */

struct ek_kernel {
  const char *name;
  int args;
  int collective; /* threads meet: they have to be coroutines */
  void (*call)(void **);
};
extern "C" const ek_kernel ek_kernels[];
static const ek_kernel *ek_running;
static void **ek_args;

static void ek_start(void) {
  ek_running->call(ek_args);
  ek_threads[ek_me].at = EK_DONE;
  swapcontext(&ek_threads[ek_me].context, &ek_scheduler);
}

static void ek_place(unsigned i) {
  ek_me = i;
  threadIdx.x = i % blockDim.x;
  threadIdx.y = i / blockDim.x % blockDim.y;
  threadIdx.z = i / blockDim.x / blockDim.y;
}

/* All threads from one meeting point to the next; 0 where they do not meet. */
static int ek_block(unsigned n) {
  if (!ek_running->collective) {
    for (unsigned i = 0; i < n; i++) {
      ek_place(i);
      ek_running->call(ek_args);
    }
    return 1;
  }
  for (unsigned i = 0; i < n; i++) {
    ek_thread *t = &ek_threads[i];
    getcontext(&t->context);
    t->context.uc_stack.ss_sp = ek_stacks + (size_t)i * EK_STACK;
    t->context.uc_stack.ss_size = EK_STACK;
    t->context.uc_link = 0;
    t->phase = 0;
    makecontext(&t->context, ek_start, 0);
  }
  for (;;) {
    for (unsigned i = 0; i < n; i++) {
      ek_place(i);
      swapcontext(&ek_scheduler, &ek_threads[i].context);
      if (ek_threads[i].at != ek_threads[0].at) return 0;
    }
    if (ek_threads[0].at == EK_DONE) return 1;
  }
}

extern "C" {

int cuInit(unsigned) {
  ek_stacks = (unsigned char *)mmap(0, (size_t)EK_MAX_THREADS * EK_STACK, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return ek_stacks == MAP_FAILED ? 2 : 0;
}
int cuDriverGetVersion(int *v) { *v = 0; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int) { *d = 0; return 0; }
int cuDeviceGetName(char *name, int n, int) {
  snprintf(name, (size_t)n, "edgekit's host execution of CUDA kernels");
  return 0;
}
int cuDeviceGetAttribute(int *v, int, int) { *v = 0; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int) { *c = (void *)1; return 0; }
int cuCtxSetCurrent(void *) { return 0; }
int cuModuleLoadData(void **m, const void *) { *m = (void *)1; return 0; }
int cuModuleGetFunction(void **f, void *, const char *name) {
  for (const ek_kernel *k = ek_kernels; k->name; k++)
    if (!strcmp(k->name, name)) {
      *f = (void *)k;
      return 0;
    }
  return 500; /* CUDA_ERROR_NOT_FOUND */
}
int cuMemAlloc_v2(unsigned long long *p, size_t n) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const size_t size = (n + 15) / 16 * 16, whole = (size + page - 1) / page * page;
  unsigned char *m = (unsigned char *)mmap(0, whole + page, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (m == MAP_FAILED || mprotect(m + whole, page, PROT_NONE)) return 2;
  memset(m, 0xa5, whole);
  *p = (unsigned long long)(uintptr_t)(m + whole - size);
  return 0;
}
int cuMemcpyHtoD_v2(unsigned long long d, const void *s, size_t n) {
  memcpy((void *)(uintptr_t)d, s, n);
  return 0;
}
int cuMemcpyDtoH_v2(void *d, unsigned long long s, size_t n) {
  memcpy(d, (const void *)(uintptr_t)s, n);
  return 0;
}
int cuStreamCreate(void **s, unsigned) { *s = (void *)1; return 0; }
int cuStreamSynchronize(void *) { return 0; }
int cuEventCreate(void **e, unsigned) { *e = (void *)1; return 0; }
int cuEventRecord(void *, void *) { return 0; }
int cuEventSynchronize(void *) { return 0; }
int cuEventElapsedTime(float *, void *, void *) { return 801; } /* CUDA_ERROR_NOT_SUPPORTED */

int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *, void **args, void **extra) {
  const unsigned long long n = (unsigned long long)bx * by * bz;
  if (shared || extra || n == 0 || n > EK_MAX_THREADS || !gx || !gy || !gz) return 1;
  ek_running = (const ek_kernel *)f;
  ek_args = args;
  blockDim = {bx, by, bz};
  gridDim = {gx, gy, gz};
  for (unsigned z = 0; z < gz; z++)
    for (unsigned y = 0; y < gy; y++)
      for (unsigned x = 0; x < gx; x++) {
        blockIdx = {x, y, z};
        if (!ek_block((unsigned)n)) return 719; /* CUDA_ERROR_LAUNCH_FAILED */
      }
  return 0;
}

} /* extern "C" */
