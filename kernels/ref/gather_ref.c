/* Runs of bytes by constant indices. */
#include "ek_copy_run.h"
#include "ek_movement.h"

void ek_gather_ref(const ek_gather_params *p, const void *input, const int32_t *indices,
                   void *output) {
  const int32_t run = p->run;
  const uint8_t *in = input;
  uint8_t *out = output;
  for (int32_t o = 0; o < p->outer; ++o, in += p->block) {
    for (int32_t k = 0; k < p->count; ++k, out += run) ek_copy_run(out, in + indices[k] * run, run);
  }
}
