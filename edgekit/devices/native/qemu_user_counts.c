/* QEMU TCG plugin for user-mode emulation: counts executed instructions by block and section.
 *
 * A section begins when a block at its address is executed and lasts until the next one begins.
 * Arguments: counts=FILE (written at exit), budget=N (exit code 71 beyond it), section=ADDRESS (any
 * number, numbered from 1). The file: records of four 64-bit words (address, instructions of the
 * block, section, executions), in no particular order.
 *
 * One program thread is assumed. The functions of the plugin API (version 1) are declared here
 * because distributions ship QEMU without its plugin header; names and types follow QEMU's
 * documentation of TCG plugins.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
typedef void (*ek_tb_trans_fn)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*ek_exec_fn)(unsigned int vcpu, void *user);
typedef void (*ek_exit_fn)(qemu_plugin_id_t id, void *user);
enum { EK_CB_NO_REGS = 0, EK_EXIT_BUDGET = 71, EK_EXIT_INTERNAL = 70, EK_MAX_SECTIONS = 4096 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, ek_tb_trans_fn fn);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, ek_exec_fn fn,
                                                 int flags, void *user);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, ek_exit_fn fn, void *user);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

#define EK_EXPORT __attribute__((visibility("default")))
EK_EXPORT int qemu_plugin_version = 1;
EK_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv);

struct ek_block {
    struct ek_block *next;
    uint64_t address;
    uint64_t count;
    uint32_t section; /* that starts here, 0: none */
    uint64_t *executions; /* by section */
};

static struct ek_block *blocks;
static const char *path;
static uint64_t marks[EK_MAX_SECTIONS];
static uint32_t n_marks, section;
static uint64_t budget = UINT64_MAX, executed;

static void die(const char *what)
{
    fprintf(stderr, "edgekit plugin: %s\n", what);
    _exit(EK_EXIT_INTERNAL);
}

static void tb_exec(unsigned int vcpu, void *user)
{
    struct ek_block *b = user;
    (void)vcpu;
    if (b->section) {
        section = b->section;
    }
    b->executions[section]++;
    executed += b->count;
    if (executed > budget) {
        _exit(EK_EXIT_BUDGET);
    }
}

static void tb_trans(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    struct ek_block *b = calloc(1, sizeof *b);
    if (!b || !(b->executions = calloc(n_marks + 1, sizeof *b->executions))) {
        die("out of memory");
    }
    b->address = qemu_plugin_tb_vaddr(tb);
    b->count = qemu_plugin_tb_n_insns(tb);
    for (uint32_t i = 0; i < n_marks; i++) {
        if (marks[i] == b->address) {
            b->section = i + 1;
        }
    }
    b->next = blocks;
    blocks = b;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, tb_exec, EK_CB_NO_REGS, b);
}

static void at_exit(qemu_plugin_id_t id, void *user)
{
    (void)id;
    (void)user;
    FILE *f = fopen(path, "wb");
    if (!f) {
        die("cannot write the counts");
    }
    for (const struct ek_block *b = blocks; b; b = b->next) {
        for (uint32_t s = 0; s <= n_marks; s++) {
            const uint64_t record[4] = {b->address, b->count, s, b->executions[s]};
            if (record[3] && fwrite(record, sizeof record, 1, f) != 1) {
                die("cannot write the counts");
            }
        }
    }
    if (fclose(f)) {
        die("cannot write the counts");
    }
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
        if (!strcmp(argv[i], "counts")) {
            path = strdup(value);
        } else if (!strcmp(argv[i], "budget")) {
            budget = strtoull(value, NULL, 0);
        } else if (!strcmp(argv[i], "section") && n_marks < EK_MAX_SECTIONS) {
            marks[n_marks++] = strtoull(value, NULL, 0);
        } else {
            return -1;
        }
    }
    if (!path) {
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, tb_trans);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
