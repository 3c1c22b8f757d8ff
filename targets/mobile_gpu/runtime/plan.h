/* The launch plan, plan.txt: which kernels run, on which buffers, with which geometry. */
#ifndef EDGEKIT_PLAN_H
#define EDGEKIT_PLAN_H

#include "cl_api.h"

#define MOST 65536 /* buffers, constants and kernels of a plan */
#define MOST_ARGS 64

typedef struct {
    size_t offset, bytes;
} Piece;

typedef struct {
    unsigned long buffer;
    size_t bytes;
} Port;

typedef struct {
    char function[80];
    size_t global[3], local[3];
    Port writes;
    unsigned long count;
    char kind[MOST_ARGS]; /* 'b': buffer, 'c': constant */
    unsigned long which[MOST_ARGS];
    cl_kernel handle;
} Step;

typedef struct {
    unsigned long n_buffers, n_constants, n_inputs, n_outputs, n_steps;
    size_t *sizes;
    Piece *constants;
    Port *inputs, *outputs;
    Step *steps;
} Plan;

/* Fill the plan from the text, which is changed; 0, or 1 when the text is no plan. weights: bytes of
 * the weights file. Every number is checked: buffers and constants exist, ports fit, work-groups
 * divide. What was allocated is freed by plan_free, also after a failure. */
int plan_parse(char *text, size_t weights, Plan *plan);
void plan_free(Plan *plan);

#endif
