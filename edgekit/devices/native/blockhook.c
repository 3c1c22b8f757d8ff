/* Counts executed basic blocks for Unicorn's UC_HOOK_BLOCK.
 *
 * The table is keyed by (section, address, size) in open addressing; entries stay in the order of
 * their first execution, so that indices remain valid when the table grows. The state is owned by
 * edgekit/devices/counting.py, which declares the same struct field by field.
 */
#define _POSIX_C_SOURCE 200809L
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(_WIN32)
#define EK_EXPORT __declspec(dllexport)
#else
#define EK_EXPORT __attribute__((visibility("default")))
#endif

enum { EK_RUNNING, EK_OUT_OF_BUDGET, EK_OUT_OF_TIME, EK_FAILED, EK_STUCK };

typedef int (*ek_mem_read_fn)(void *uc, uint64_t address, void *bytes, size_t size);
typedef int (*ek_emu_stop_fn)(void *uc);

struct ek_entry {
    uint64_t executions;
    uint64_t taken;
    uint32_t address;
    uint32_t size;
    uint32_t instructions;
    uint32_t section;
    uint32_t switch_to; /* section that starts here, 0: none */
    uint32_t code;      /* offset of the block's bytes */
    uint32_t stuck;     /* "b .": without interrupts nothing ends it */
    uint32_t reserved;
};

struct ek_state {
    uint64_t instructions;
    uint64_t budget;
    uint64_t deadline_ns; /* CLOCK_MONOTONIC */
    ek_mem_read_fn mem_read;
    ek_emu_stop_fn emu_stop;
    const uint32_t *section_address;
    struct ek_entry *entries;
    uint32_t *index; /* entry number + 1, 0: free; twice as many slots as entries */
    uint8_t *code;
    uint32_t sections;
    uint32_t section;
    uint32_t used;
    uint32_t room;
    uint32_t code_used;
    uint32_t code_room;
    uint32_t previous; /* entry number + 1 of the block before */
    uint32_t next_address;
    uint32_t last_address;
    uint32_t last_size;
    uint32_t until_clock;
    uint32_t clock_stride;
    uint32_t stopped;
    uint32_t reserved;
};

EK_EXPORT size_t ek_state_bytes(void);
EK_EXPORT void ek_release(struct ek_state *st);
EK_EXPORT void ek_block_hook(void *uc, uint64_t address, uint32_t size, void *user);

size_t ek_state_bytes(void)
{
    return sizeof(struct ek_state);
}

void ek_release(struct ek_state *st)
{
    free(st->entries);
    free(st->index);
    free(st->code);
    st->entries = NULL;
    st->index = NULL;
    st->code = NULL;
    st->used = st->room = st->code_used = st->code_room = st->previous = 0;
}

static uint32_t ek_hash(uint32_t section, uint32_t address, uint32_t size)
{
    uint32_t h = (address >> 1) * 0x9E3779B1u ^ section * 0x85EBCA77u ^ size * 0xC2B2AE3Du;
    return h ^ h >> 15;
}

static int ek_grow(struct ek_state *st)
{
    uint32_t room = st->room ? 2 * st->room : 4096;
    uint32_t mask = 2 * room - 1;
    struct ek_entry *entries = realloc(st->entries, room * sizeof *entries);
    if (!entries) {
        return 0;
    }
    st->entries = entries;
    uint32_t *index = calloc((size_t)2 * room, sizeof *index);
    if (!index) {
        return 0;
    }
    for (uint32_t i = 0; i < st->used; i++) {
        const struct ek_entry *e = &entries[i];
        uint32_t slot = ek_hash(e->section, e->address, e->size) & mask;
        while (index[slot]) {
            slot = (slot + 1) & mask;
        }
        index[slot] = i + 1;
    }
    free(st->index);
    st->index = index;
    st->room = room;
    return 1;
}

/* First sight of a block: keep its bytes, count its instructions, look up the section it starts. */
static struct ek_entry *ek_insert(struct ek_state *st, void *uc, uint32_t address, uint32_t size)
{
    if (st->used == st->room && !ek_grow(st)) {
        return NULL;
    }
    if (st->code_used + size > st->code_room) {
        uint32_t room = st->code_room ? 2 * st->code_room : 1u << 16;
        while (room < st->code_used + size) {
            room *= 2;
        }
        uint8_t *code = realloc(st->code, room);
        if (!code) {
            return NULL;
        }
        st->code = code;
        st->code_room = room;
    }
    uint8_t *bytes = st->code + st->code_used;
    if (st->mem_read(uc, address, bytes, size)) {
        return NULL;
    }
    struct ek_entry *e = &st->entries[st->used];
    memset(e, 0, sizeof *e);
    e->address = address;
    e->size = size;
    e->section = st->section;
    e->code = st->code_used;
    for (uint32_t i = 1; i < size; i += bytes[i] >= 0xE8 ? 4u : 2u) {
        e->instructions++;
    }
    for (uint32_t i = 0; i < st->sections; i++) {
        if (st->section_address[i] == address) {
            e->switch_to = i + 1;
        }
    }
    e->stuck = size == 2 && bytes[0] == 0xFE && bytes[1] == 0xE7;
    st->code_used += size;
    uint32_t mask = 2 * st->room - 1;
    uint32_t slot = ek_hash(e->section, address, size) & mask;
    while (st->index[slot]) {
        slot = (slot + 1) & mask;
    }
    st->index[slot] = ++st->used;
    return e;
}

static struct ek_entry *ek_find(struct ek_state *st, void *uc, uint32_t address, uint32_t size)
{
    if (st->room) {
        uint32_t mask = 2 * st->room - 1;
        uint32_t slot = ek_hash(st->section, address, size) & mask;
        for (uint32_t i; (i = st->index[slot]) != 0; slot = (slot + 1) & mask) {
            struct ek_entry *e = &st->entries[i - 1];
            if (e->address == address && e->section == st->section && e->size == size) {
                return e;
            }
        }
    }
    return ek_insert(st, uc, address, size);
}

static void ek_stop(struct ek_state *st, void *uc, uint32_t why)
{
    st->stopped = why;
    st->emu_stop(uc);
}

void ek_block_hook(void *uc, uint64_t address64, uint32_t size, void *user)
{
    struct ek_state *st = user;
    uint32_t address = (uint32_t)address64;
    struct ek_entry *e = ek_find(st, uc, address, size);
    if (e && e->switch_to && e->switch_to != st->section) {
        st->section = e->switch_to;
        e = ek_find(st, uc, address, size);
    }
    if (!e) {
        ek_stop(st, uc, EK_FAILED);
        return;
    }
    e->executions++;
    st->instructions += e->instructions;
    if (st->previous && st->next_address != address) {
        st->entries[st->previous - 1].taken++;
    }
    st->previous = (uint32_t)(e - st->entries) + 1;
    st->next_address = address + size;
    st->last_address = address;
    st->last_size = size;
    if (e->stuck) {
        ek_stop(st, uc, EK_STUCK);
    }
    if (st->instructions > st->budget) {
        ek_stop(st, uc, EK_OUT_OF_BUDGET);
    }
    if (--st->until_clock == 0) {
        struct timespec now;
        st->until_clock = st->clock_stride;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec > st->deadline_ns) {
            ek_stop(st, uc, EK_OUT_OF_TIME);
        }
    }
}
