/* QEMU TCG plugin: counts executed basic blocks, exactly, also under -icount.
 *
 * QEMU may leave a translation block early: with -icount an instruction that touches a device ends
 * the attempt, is executed on its own, and the rest follows as another block. An inline counter
 * that runs before every instruction shows how far each block really got; the rest is then joined
 * to it, so that the record is the same as if the block had run in one go.
 *
 * Arguments: status=FILE (struct ek_status, shared with the parent while QEMU runs), blocks=FILE
 * (written at exit), budget=N, start=ADDRESS (count from there on; 0: from the first block),
 * section=ADDRESS (any number, numbered from 1), fault=ADDRESS (any number: fault handlers).
 *
 * The functions of the plugin API (version 1) are declared here because distributions ship QEMU
 * without its plugin header; names and types follow QEMU's documentation of TCG plugins.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*ek_tb_trans_fn)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*ek_exec_fn)(unsigned int vcpu, void *user);
typedef void (*ek_exit_fn)(qemu_plugin_id_t id, void *user);
enum { EK_CB_NO_REGS = 0, EK_INLINE_ADD_U64 = 0 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, ek_tb_trans_fn fn);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, ek_exec_fn fn,
                                                 int flags, void *user);
extern void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, int op,
                                                       void *counter, uint64_t add);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, ek_exit_fn fn, void *user);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb,
                                                        size_t index);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);

#define EK_EXPORT __attribute__((visibility("default")))
EK_EXPORT int qemu_plugin_version = 1;
EK_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv);

enum { EK_RUNNING, EK_OUT_OF_BUDGET, EK_STUCK };
enum { EK_MAX_MARKS = 4096, EK_MAX_SPINS = 1000000 };

struct ek_status {
    uint64_t started;  /* instructions begun, those before `start` included */
    uint64_t before;   /* of these, before `start` */
    uint64_t stopped;  /* EK_OUT_OF_BUDGET, EK_STUCK: nothing is counted from here on */
    uint64_t address;  /* of the block being executed */
    uint64_t fault_pc; /* instruction at which a fault handler was entered last, plus 1; 0: never */
    uint64_t handler;  /* that handler */
    uint64_t ended;    /* 1: the last instruction was a semihosting call, so the program ended itself */
};

struct ek_block {
    uint64_t executions;
    uint64_t taken;
    uint32_t address;
    uint32_t size;
    uint32_t section;
    uint32_t code; /* offset in the code bytes */
};

struct ek_tb {
    uint32_t address;
    uint32_t size;
    uint32_t count;
    uint32_t section; /* that starts here, 0: none */
    bool is_fault;
    uint8_t *code;
};

static struct ek_status *status;
static const char *blocks_path;
static uint64_t budget = UINT64_MAX;
static uint32_t start_address;
static uint32_t section_marks[EK_MAX_MARKS], fault_marks[EK_MAX_MARKS];
static uint32_t n_sections, n_faults;

static struct ek_block *blocks;
static uint32_t *slots;
static uint32_t used, room;
static uint8_t *code;
static size_t code_used, code_room;
static uint32_t section;

static const struct ek_tb *current; /* the block being executed, as a whole */
static uint64_t current_mark;       /* status->started when it began */
static bool counting;
static uint32_t spins; /* times in a row that one single-instruction block was executed */

static void die(const char *what)
{
    fprintf(stderr, "edgekit plugin: %s\n", what);
    _exit(70);
}

static void *grow(void *old, size_t bytes)
{
    void *p = realloc(old, bytes);
    if (!p) {
        die("out of memory");
    }
    return p;
}

static uint32_t hash(uint32_t sec, uint32_t address, uint32_t size)
{
    uint32_t h = (address >> 1) * 0x9E3779B1u ^ sec * 0x85EBCA77u ^ size * 0xC2B2AE3Du;
    return h ^ h >> 15;
}

static void rehash(void)
{
    room = room ? 2 * room : 4096;
    blocks = grow(blocks, room * sizeof *blocks);
    free(slots);
    slots = calloc((size_t)2 * room, sizeof *slots);
    if (!slots) {
        die("out of memory");
    }
    for (uint32_t i = 0; i < used; i++) {
        uint32_t s = hash(blocks[i].section, blocks[i].address, blocks[i].size) & (2 * room - 1);
        while (slots[s]) {
            s = (s + 1) & (2 * room - 1);
        }
        slots[s] = i + 1;
    }
}

static struct ek_block *find(const struct ek_tb *tb, uint32_t size)
{
    if (used == room) {
        rehash();
    }
    uint32_t s = hash(section, tb->address, size) & (2 * room - 1);
    for (; slots[s]; s = (s + 1) & (2 * room - 1)) {
        struct ek_block *b = &blocks[slots[s] - 1];
        if (b->address == tb->address && b->size == size && b->section == section) {
            return b;
        }
    }
    if (code_used + size > code_room) {
        code_room = 2 * (code_room + size) + 65536;
        code = grow(code, code_room);
    }
    struct ek_block *b = &blocks[used];
    *b = (struct ek_block){.address = tb->address, .size = size, .section = section,
                           .code = (uint32_t)code_used};
    memcpy(code + code_used, tb->code, size);
    code_used += size;
    slots[s] = ++used;
    return b;
}

/* Bytes of the first n instructions. */
static uint32_t prefix(const struct ek_tb *tb, uint64_t n)
{
    uint32_t at = 0;
    while (n-- && at < tb->size) {
        at += tb->code[at + 1] >= 0xE8 ? 4 : 2;
    }
    return at;
}

static void record(uint32_t done_bytes, uint32_t next)
{
    if (done_bytes) {
        struct ek_block *b = find(current, done_bytes);
        b->executions++;
        b->taken += next != current->address + done_bytes;
    }
}

static void tb_exec(unsigned int vcpu, void *user)
{
    const struct ek_tb *tb = user;
    (void)vcpu;
    if (!counting) {
        if (status->stopped || (start_address && tb->address != start_address)) {
            return;
        }
        counting = true;
        status->before = status->started;
    } else {
        uint64_t done = status->started - current_mark;
        uint32_t bytes = done < current->count ? prefix(current, done) : current->size;
        if (tb->is_fault && current->address != tb->address) {
            status->handler = tb->address;
            status->fault_pc = current->address + (done ? prefix(current, done - 1) : 0) + 1;
        } else if (bytes < current->size && tb->address == current->address + bytes &&
                   tb->address + tb->size <= current->address + current->size && !tb->section) {
            return; /* the rest of a block that was interrupted */
        }
        record(bytes, tb->address);
    }
    if (tb->section) {
        section = tb->section;
    }
    /* A fault handler that ends in "b ." is the usual way to hang after a fault. */
    spins = tb == current && tb->count == 1 ? spins + 1 : 0;
    if (spins > EK_MAX_SPINS && status->fault_pc) {
        status->stopped = EK_STUCK;
        counting = false;
    }
    current = tb;
    current_mark = status->started;
    status->address = tb->address;
    if (status->started - status->before > budget) {
        status->stopped = EK_OUT_OF_BUDGET;
        counting = false;
    }
}

static void tb_trans(qemu_plugin_id_t id, struct qemu_plugin_tb *qtb)
{
    (void)id;
    size_t n = qemu_plugin_tb_n_insns(qtb);
    struct ek_tb *tb = grow(NULL, sizeof *tb);
    *tb = (struct ek_tb){.address = (uint32_t)qemu_plugin_tb_vaddr(qtb), .count = (uint32_t)n};
    tb->code = grow(NULL, 4 * n + 1);
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(qtb, i);
        /* Not qemu_plugin_insn_size(): at the end of a page it counts the halfword that QEMU
         * has read ahead to see whether the next instruction crosses the page. */
        const uint8_t *bytes = qemu_plugin_insn_data(insn);
        size_t size = bytes[1] >= 0xE8 ? 4 : 2;
        memcpy(tb->code + tb->size, bytes, size);
        tb->size += (uint32_t)size;
        qemu_plugin_register_vcpu_insn_exec_inline(insn, EK_INLINE_ADD_U64, &status->started, 1);
    }
    for (uint32_t i = 0; i < n_sections; i++) {
        if (section_marks[i] == tb->address) {
            tb->section = i + 1;
        }
    }
    for (uint32_t i = 0; i < n_faults; i++) {
        tb->is_fault |= fault_marks[i] == tb->address;
    }
    qemu_plugin_register_vcpu_tb_exec_cb(qtb, tb_exec, EK_CB_NO_REGS, tb);
}

static void at_exit(qemu_plugin_id_t id, void *user)
{
    (void)id;
    (void)user;
    if (counting) {
        uint64_t done = status->started - current_mark;
        uint32_t bytes = done < current->count ? prefix(current, done) : current->size;
        record(bytes, current->address + bytes);
        status->ended = bytes == current->size && bytes >= 2 && current->code[bytes - 2] == 0xAB &&
                        current->code[bytes - 1] == 0xBE;
    }
    FILE *f = fopen(blocks_path, "wb");
    uint32_t head[2] = {used, (uint32_t)code_used};
    if (!f || fwrite(head, sizeof head, 1, f) != 1 ||
        fwrite(blocks, sizeof *blocks, used, f) != used ||
        fwrite(code, 1, code_used, f) != code_used || fclose(f)) {
        die("cannot write the block file");
    }
}

static void mark(uint32_t *marks, uint32_t *count, const char *value)
{
    if (*count == EK_MAX_MARKS) {
        die("too many addresses");
    }
    marks[(*count)++] = (uint32_t)strtoul(value, NULL, 0);
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) {
            return -1;
        }
        *value++ = 0;
        if (!strcmp(argv[i], "status")) {
            int fd = open(value, O_RDWR);
            void *p = fd < 0 ? MAP_FAILED
                             : mmap(NULL, sizeof *status, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (p == MAP_FAILED) {
                die("cannot map the status file");
            }
            close(fd);
            status = p;
        } else if (!strcmp(argv[i], "blocks")) {
            blocks_path = strdup(value);
        } else if (!strcmp(argv[i], "budget")) {
            budget = strtoull(value, NULL, 0);
        } else if (!strcmp(argv[i], "start")) {
            start_address = (uint32_t)strtoul(value, NULL, 0);
        } else if (!strcmp(argv[i], "section")) {
            mark(section_marks, &n_sections, value);
        } else if (!strcmp(argv[i], "fault")) {
            mark(fault_marks, &n_faults, value);
        } else {
            return -1;
        }
    }
    if (!status || !blocks_path) {
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, tb_trans);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
