#include "libc.h"

#include "plan.h"

/* The plan is words and numbers between white space. */
typedef struct {
    char *at;
    int bad;
} Words;

static char *word(Words *w) {
    while (*w->at == ' ' || *w->at == '\n') {
        w->at++;
    }
    char *start = w->at;
    while (*w->at && *w->at != ' ' && *w->at != '\n') {
        w->at++;
    }
    if (*w->at) {
        *w->at++ = 0;
    }
    if (!*start) {
        w->bad = 1;
    }
    return start;
}

static unsigned long number_of(Words *w, const char *text, unsigned long most) {
    char *end = NULL;
    unsigned long value = strtoul(text, &end, 10);
    if (!*text || *end || value > most) {
        w->bad = 1;
        return 0;
    }
    return value;
}

static unsigned long number(Words *w, unsigned long most) { return number_of(w, word(w), most); }

static void expect(Words *w, const char *what) {
    if (strcmp(word(w), what) != 0) {
        w->bad = 1;
    }
}

/* "<key> N", then an array for N entries. */
static void *section(Words *w, const char *key, size_t size, unsigned long *count) {
    expect(w, key);
    *count = number(w, MOST);
    void *array = calloc(*count + 1, size);
    if (!array) {
        w->bad = 1;
        *count = 0;
    }
    if (w->bad) {
        *count = 0;
    }
    return array;
}

static void ports(Words *w, const Plan *p, Port *list, unsigned long count) {
    for (unsigned long i = 0; i < count && !w->bad; i++) {
        list[i].buffer = number(w, p->n_buffers - 1);
        list[i].bytes = number(w, (unsigned long)-1);
        if (!w->bad && list[i].bytes > p->sizes[list[i].buffer]) {
            w->bad = 1;
        }
    }
}

static void step(Words *w, const Plan *p, Step *s) {
    const char *name = word(w);
    for (unsigned i = 0; i + 1 < sizeof s->function && name[i]; i++) {
        s->function[i] = name[i];
    }
    for (int i = 0; i < 6; i++) {
        size_t *slot = i < 3 ? &s->global[i] : &s->local[i - 3];
        *slot = number(w, 1ul << 31);
        if (*slot == 0 || (i >= 3 && s->global[i - 3] % *slot)) {
            w->bad = 1;
        }
    }
    ports(w, p, &s->writes, 1);
    s->count = number(w, MOST_ARGS);
    for (unsigned long i = 0; i < s->count && !w->bad; i++) {
        const char *arg = word(w);
        s->kind[i] = arg[0];
        unsigned long most = arg[0] == 'b' ? p->n_buffers : p->n_constants;
        if (most == 0 || (arg[0] != 'b' && arg[0] != 'c')) {
            w->bad = 1;
            return;
        }
        s->which[i] = number_of(w, arg + 1, most - 1);
    }
}

int plan_parse(char *text, size_t weights, Plan *p) {
    Words w = {text, 0};
    expect(&w, "edgekit-opencl-plan");
    (void)number(&w, 1);
    p->sizes = section(&w, "buffers", sizeof *p->sizes, &p->n_buffers);
    if (p->n_buffers == 0) {
        return 1;
    }
    for (unsigned long i = 0; i < p->n_buffers && !w.bad; i++) {
        p->sizes[i] = number(&w, (unsigned long)-1);
        if (p->sizes[i] == 0) {
            return 1;
        }
    }
    p->constants = section(&w, "constants", sizeof *p->constants, &p->n_constants);
    for (unsigned long i = 0; i < p->n_constants && !w.bad; i++) {
        p->constants[i].offset = number(&w, weights);
        p->constants[i].bytes = number(&w, weights - p->constants[i].offset);
        if (p->constants[i].bytes == 0) {
            w.bad = 1;
        }
    }
    p->inputs = section(&w, "inputs", sizeof *p->inputs, &p->n_inputs);
    ports(&w, p, p->inputs, p->n_inputs);
    p->outputs = section(&w, "outputs", sizeof *p->outputs, &p->n_outputs);
    ports(&w, p, p->outputs, p->n_outputs);
    p->steps = section(&w, "kernels", sizeof *p->steps, &p->n_steps);
    for (unsigned long i = 0; i < p->n_steps && !w.bad; i++) {
        step(&w, p, &p->steps[i]);
    }
    return w.bad;
}

void plan_free(Plan *p) {
    free(p->sizes);
    free(p->constants);
    free(p->inputs);
    free(p->outputs);
    free(p->steps);
}
