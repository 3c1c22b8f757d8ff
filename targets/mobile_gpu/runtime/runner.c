/* Runs a compiled network on an OpenCL device.
 *
 *   runner gpu|cpu info
 *   runner gpu|cpu run IN OUT         every sample of IN; outputs after one another
 *   runner gpu|cpu trace IN OUT       what every kernel wrote, in order, sample after sample
 *   runner gpu|cpu profile IN N       kernel_ns=<event time> for each kernel, N times
 *   runner gpu|cpu time IN N          total_ns=<wall clock of one inference>, N times
 *
 * Reads plan.txt, kernels.cl and weights.bin from the working folder. Says key=value lines; ends
 * with 0, or with 1 after "error=<one sentence>".
 */
#include "libc.h"
#include "cl_api.h"
#include "plan.h"

#define X(result, name, parameters) result(*name) parameters;
typedef struct {
    EK_CL_FUNCTIONS(X)
} Api;
#undef X

typedef struct {
    Api cl;
    cl_device_id device;
    cl_context context;
    cl_command_queue queue;
    cl_program program;
    cl_mem *buffers, *constants;
    Plan plan;
} Run;

static int fail(const char *what, const char *name, long code) {
    printf("error=%s%s%s", what, name[0] ? " " : "", name);
    if (code) {
        printf(" (code %ld)", code);
    }
    printf("\n");
    return 1;
}

/* -- files ----------------------------------------------------------------------------------- */

/* The whole file, with a zero behind it; NULL where it cannot be read. */
static char *read_file(const char *name, size_t *size) {
    FILE *f = fopen(name, "rb");
    if (!f) {
        return NULL;
    }
    char *data = NULL;
    long n = fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    if (n >= 0 && fseek(f, 0, SEEK_SET) == 0) {
        data = calloc((size_t)n + 1, 1);
        if (data && fread(data, 1, (size_t)n, f) != (size_t)n) {
            free(data);
            data = NULL;
        }
    }
    fclose(f);
    *size = data ? (size_t)n : 0;
    return data;
}

/* -- OpenCL ---------------------------------------------------------------------------------- */

/* Casting an object pointer to a function pointer goes through bytes: ISO C has no other way. */
static void *symbol(void *library, const char *name, void *slot, size_t size) {
    void *found = dlsym(library, name);
    memcpy(slot, &found, size);
    return found;
}

static int load_api(Api *cl) {
    static const char *const names[] = {
        "libOpenCL.so.1",
        "libOpenCL.so",
        "/vendor/lib64/libOpenCL.so",
        "/system/vendor/lib64/libOpenCL.so",
        "/vendor/lib64/egl/libGLES_mali.so",
        "/system/vendor/lib64/egl/libGLES_mali.so",
    };
    void *library = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !library; i++) {
        library = dlopen(names[i], RTLD_NOW);
    }
    if (!library) {
        return fail("no OpenCL library was found; libOpenCL.so is needed", "", 0);
    }
#define X(result, name, parameters)                                                                \
    if (!symbol(library, #name, &cl->name, sizeof cl->name)) {                                     \
        return fail("the OpenCL library lacks", #name, 0);                                         \
    }
    EK_CL_FUNCTIONS(X)
#undef X
    return 0;
}

static void say(const Run *r, const char *key, cl_uint what) {
    static char text[16384];
    memset(text, 0, sizeof text);
    r->cl.clGetDeviceInfo(r->device, what, sizeof text - 1, text, NULL);
    printf("%s=%s\n", key, text);
}

/* The first device of the type on any platform. */
static int open_device(Run *r, int cpu) {
    cl_platform_id platforms[16];
    cl_uint n = 0;
    if (r->cl.clGetPlatformIDs(16, platforms, &n) != CL_SUCCESS || n == 0) {
        return fail("there is no OpenCL platform", "", 0);
    }
    cl_bitfield type = cpu ? CL_DEVICE_TYPE_CPU : CL_DEVICE_TYPE_GPU;
    for (cl_uint i = 0; i < n && i < 16; i++) {
        cl_uint found = 0;
        if (r->cl.clGetDeviceIDs(platforms[i], type, 1, &r->device, &found) == CL_SUCCESS &&
            found > 0) {
            char name[256] = {0};
            r->cl.clGetPlatformInfo(platforms[i], CL_PLATFORM_NAME, sizeof name - 1, name, NULL);
            printf("platform=%s\n", name);
            say(r, "device", CL_DEVICE_NAME);
            say(r, "version", CL_DEVICE_VERSION);
            say(r, "driver", CL_DRIVER_VERSION);
            return 0;
        }
    }
    return fail("no OpenCL platform has a device of type", cpu ? "cpu" : "gpu", 0);
}

static int build(Run *r, const char *source, size_t size) {
    cl_int e = 0;
    r->program = r->cl.clCreateProgramWithSource(r->context, 1, &source, &size, &e);
    if (e) {
        return fail("the OpenCL program was refused", "", e);
    }
    e = r->cl.clBuildProgram(r->program, 1, &r->device, "", NULL, NULL);
    if (e) {
        static char log[2048];
        r->cl.clGetProgramBuildInfo(r->program, r->device, CL_PROGRAM_BUILD_LOG, sizeof log - 1,
                                    log, NULL);
        for (size_t i = 0; i < sizeof log; i++) {
            log[i] = log[i] == '\n' ? ' ' : log[i];
        }
        return fail("the device's compiler refused the kernels:", log, e);
    }
    for (unsigned long i = 0; i < r->plan.n_steps; i++) {
        Step *s = &r->plan.steps[i];
        s->handle = r->cl.clCreateKernel(r->program, s->function, &e);
        if (e) {
            return fail("the program lacks kernel", s->function, e);
        }
        size_t most = 0;
        r->cl.clGetKernelWorkGroupInfo(s->handle, r->device, CL_KERNEL_WORK_GROUP_SIZE, sizeof most,
                                       &most, NULL);
        if (most && s->local[0] * s->local[1] * s->local[2] > most) {
            return fail("the device allows too small a work-group for kernel", s->function,
                        (long)most);
        }
        for (unsigned long k = 0; k < s->count; k++) {
            cl_mem *m = s->kind[k] == 'b' ? &r->buffers[s->which[k]] : &r->constants[s->which[k]];
            e = r->cl.clSetKernelArg(s->handle, (cl_uint)k, sizeof *m, m);
            if (e) {
                return fail("an argument was refused by kernel", s->function, e);
            }
        }
    }
    return 0;
}

static int prepare(Run *r, int profiling, char *weights, const char *source, size_t size) {
    cl_int e = 0;
    r->context = r->cl.clCreateContext(NULL, 1, &r->device, NULL, NULL, &e);
    if (e) {
        return fail("no OpenCL context was given", "", e);
    }
    cl_bitfield how = profiling ? CL_QUEUE_PROFILING_ENABLE : 0;
    r->queue = r->cl.clCreateCommandQueue(r->context, r->device, how, &e);
    if (e) {
        return fail("no OpenCL queue was given", "", e);
    }
    const Plan *p = &r->plan;
    r->buffers = calloc(p->n_buffers + 1, sizeof *r->buffers);
    r->constants = calloc(p->n_constants + 1, sizeof *r->constants);
    if (!r->buffers || !r->constants) {
        return fail("out of memory", "", 0);
    }
    for (unsigned long i = 0; i < p->n_buffers; i++) {
        r->buffers[i] = r->cl.clCreateBuffer(r->context, CL_MEM_READ_WRITE, p->sizes[i], NULL, &e);
        if (e) {
            return fail("the device has too little memory for the activations", "", e);
        }
    }
    for (unsigned long i = 0; i < p->n_constants; i++) {
        r->constants[i] =
            r->cl.clCreateBuffer(r->context, CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR,
                                 p->constants[i].bytes, weights + p->constants[i].offset, &e);
        if (e) {
            return fail("the device has too little memory for the weights", "", e);
        }
    }
    return build(r, source, size);
}

static void release(Run *r) {
    Plan *p = &r->plan;
    for (unsigned long i = 0; i < p->n_steps; i++) {
        if (p->steps[i].handle) {
            r->cl.clReleaseKernel(p->steps[i].handle);
        }
    }
    for (unsigned long i = 0; r->buffers && i < p->n_buffers; i++) {
        if (r->buffers[i]) {
            r->cl.clReleaseMemObject(r->buffers[i]);
        }
    }
    for (unsigned long i = 0; r->constants && i < p->n_constants; i++) {
        if (r->constants[i]) {
            r->cl.clReleaseMemObject(r->constants[i]);
        }
    }
    if (r->program) {
        r->cl.clReleaseProgram(r->program);
    }
    if (r->queue) {
        r->cl.clReleaseCommandQueue(r->queue);
    }
    if (r->context) {
        r->cl.clReleaseContext(r->context);
    }
    free(r->buffers);
    free(r->constants);
    plan_free(p);
}

/* -- running --------------------------------------------------------------------------------- */

static int launch(Run *r, Step *s, cl_event *event) {
    cl_int e = r->cl.clEnqueueNDRangeKernel(r->queue, s->handle, 3, NULL, s->global, s->local, 0,
                                            NULL, event);
    return e ? fail("the device refused kernel", s->function, e) : 0;
}

static int write_inputs(Run *r, const char *data) {
    for (unsigned long i = 0; i < r->plan.n_inputs; i++) {
        const Port *p = &r->plan.inputs[i];
        cl_int e = r->cl.clEnqueueWriteBuffer(r->queue, r->buffers[p->buffer], CL_TRUE, 0, p->bytes,
                                              data, 0, NULL, NULL);
        if (e) {
            return fail("an input could not be written", "", e);
        }
        data += p->bytes;
    }
    return 0;
}

static int read_port(Run *r, const Port *p, char *data) {
    cl_int e = r->cl.clEnqueueReadBuffer(r->queue, r->buffers[p->buffer], CL_TRUE, 0, p->bytes,
                                         data, 0, NULL, NULL);
    return e ? fail("a result could not be read", "", e) : 0;
}

/* One sample. traced: after each kernel, what it wrote; else the outputs at the end. */
static int infer(Run *r, const char *in, char *out, int traced) {
    if (write_inputs(r, in)) {
        return 1;
    }
    for (unsigned long i = 0; i < r->plan.n_steps; i++) {
        Step *s = &r->plan.steps[i];
        if (launch(r, s, NULL)) {
            return 1;
        }
        if (traced) {
            if (read_port(r, &s->writes, out)) {
                return 1;
            }
            out += s->writes.bytes;
        }
    }
    for (unsigned long i = 0; !traced && i < r->plan.n_outputs; i++) {
        if (read_port(r, &r->plan.outputs[i], out)) {
            return 1;
        }
        out += r->plan.outputs[i].bytes;
    }
    return r->cl.clFinish(r->queue) ? fail("the device did not finish", "", 0) : 0;
}

static int run_all(Run *r, const char *in, size_t samples, size_t width, const char *name,
                   int traced) {
    size_t size = 0;
    for (unsigned long i = 0; i < (traced ? r->plan.n_steps : r->plan.n_outputs); i++) {
        size += traced ? r->plan.steps[i].writes.bytes : r->plan.outputs[i].bytes;
    }
    char *out = calloc(size + 1, 1);
    FILE *f = out ? fopen(name, "wb") : NULL;
    int failed = f ? 0 : fail("cannot be written:", name, 0);
    for (size_t k = 0; k < samples && !failed; k++) {
        failed = infer(r, in + k * width, out, traced);
        if (!failed && fwrite(out, 1, size, f) != size) {
            failed = fail("cannot be written:", name, 0);
        }
    }
    if (f && fclose(f) != 0 && !failed) {
        failed = fail("cannot be written:", name, 0);
    }
    free(out);
    return failed;
}

static int profile(Run *r, const char *in, unsigned long repeats) {
    cl_event *events = calloc(r->plan.n_steps + 1, sizeof *events);
    int failed = events ? write_inputs(r, in) : fail("out of memory", "", 0);
    for (unsigned long n = 0; n < repeats + 1 && !failed; n++) { /* the first one warms up */
        for (unsigned long i = 0; i < r->plan.n_steps && !failed; i++) {
            failed = launch(r, &r->plan.steps[i], &events[i]);
        }
        r->cl.clFinish(r->queue);
        for (unsigned long i = 0; i < r->plan.n_steps && events[i]; i++) {
            cl_ulong begin = 0, end = 0;
            r->cl.clGetEventProfilingInfo(events[i], CL_PROFILING_COMMAND_START, sizeof begin,
                                          &begin, NULL);
            r->cl.clGetEventProfilingInfo(events[i], CL_PROFILING_COMMAND_END, sizeof end, &end,
                                          NULL);
            if (n > 0 && !failed) {
                printf("kernel_ns=%lu\n", (unsigned long)(end - begin));
            }
            r->cl.clReleaseEvent(events[i]);
            events[i] = NULL;
        }
    }
    free(events);
    return failed;
}

static long now(void) {
    struct timespec t = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long)t.tv_sec * 1000000000l + (long)t.tv_nsec;
}

static int time_whole(Run *r, const char *in, unsigned long repeats) {
    size_t size = 1;
    for (unsigned long i = 0; i < r->plan.n_outputs; i++) {
        size += r->plan.outputs[i].bytes;
    }
    char *out = calloc(size, 1);
    int failed = out ? infer(r, in, out, 0) : fail("out of memory", "", 0);
    for (unsigned long n = 0; n < repeats && !failed; n++) {
        long start = now();
        failed = infer(r, in, out, 0);
        printf("total_ns=%ld\n", now() - start);
    }
    free(out);
    return failed;
}

/* The plan is checked before the device is opened. */
static int command(Run *r, char **argv) {
    const char *verb = argv[2];
    size_t plan_size = 0, weights_size = 0, source_size = 0, in_size = 0;
    char *text = read_file("plan.txt", &plan_size);
    char *weights = read_file("weights.bin", &weights_size);
    char *source = read_file("kernels.cl", &source_size);
    char *in = read_file(argv[3], &in_size);
    int failed = 0;
    size_t width = 0;
    if (!text || !weights || !source || !in) {
        failed = fail("plan.txt, weights.bin, kernels.cl or the input cannot be read", "", 0);
    } else if (plan_parse(text, weights_size, &r->plan)) {
        failed = fail("plan.txt is no launch plan", "", 0);
    }
    for (unsigned long i = 0; !failed && i < r->plan.n_inputs; i++) {
        width += r->plan.inputs[i].bytes;
    }
    if (!failed && (width == 0 || in_size == 0 || in_size % width)) {
        failed = fail("the input holds no whole number of samples", "", 0);
    }
    failed = failed || load_api(&r->cl) || open_device(r, strcmp(argv[1], "cpu") == 0);
    failed = failed || prepare(r, strcmp(verb, "profile") == 0, weights, source, source_size);
    unsigned long repeats = failed ? 0 : strtoul(argv[4], NULL, 10);
    if (!failed && strcmp(verb, "profile") == 0) {
        failed = profile(r, in, repeats);
    } else if (!failed && strcmp(verb, "time") == 0) {
        failed = time_whole(r, in, repeats);
    } else if (!failed) {
        failed = run_all(r, in, in_size / width, width, argv[4], strcmp(verb, "trace") == 0);
    }
    release(r);
    free(text);
    free(weights);
    free(source);
    free(in);
    return failed;
}

static int one_of(const char *text, const char *const *list) {
    for (; *list; list++) {
        if (strcmp(text, *list) == 0) {
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    static const char *const verbs[] = {"run", "trace", "profile", "time", NULL};
    static const char *const types[] = {"gpu", "cpu", NULL};
    static Run run;
    int info = argc == 3 && strcmp(argv[2], "info") == 0;
    if (!(info || (argc == 5 && one_of(argv[2], verbs))) || !one_of(argv[1], types)) {
        return fail("usage: runner gpu|cpu info, or run|trace IN OUT, or profile|time IN N", "", 0);
    }
    if (!info) {
        return command(&run, argv);
    }
    if (load_api(&run.cl) || open_device(&run, strcmp(argv[1], "cpu") == 0)) {
        return 1;
    }
    size_t group = 0;
    cl_ulong local = 0;
    run.cl.clGetDeviceInfo(run.device, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof group, &group, NULL);
    run.cl.clGetDeviceInfo(run.device, CL_DEVICE_LOCAL_MEM_SIZE, sizeof local, &local, NULL);
    printf("max_work_group=%lu\nlocal_memory_bytes=%lu\n", (unsigned long)group,
           (unsigned long)local);
    say(&run, "extensions", CL_DEVICE_EXTENSIONS);
    return 0;
}
