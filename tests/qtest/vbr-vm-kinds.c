/*
 * virtio-balloon-rs: each kind of memory, by each queue
 *
 * What is to happen stands in docs/memory.md, and is read from there.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci_ids.h"
#include "vbr-hint.h"
#include "vbr-kinds.h"
#include "vbr-message.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vmem.h"

/* What is sent before the memory that is hinted: it takes a while. */
#define BALLAST (32 * MiB)

/* That the host refuses is said once or twice, however often it does. */
#define MOST_LINES 2

/* Of q35's host bridge: where the configuration space of PCI is in memory. */
#define PCIEXBAR 0x60
#define PCIEXBAR_DEFAULT 0xb0000000
#define PCIEXBAR_128M (1 << 1)
#define PCIEXBAR_ON 1

typedef struct Cell Cell;

typedef struct Way {
    const char *name;
    const char *props;
    void (*give)(VbrPlace *p);
} Way;

typedef struct Outcome {
    const char *word;
    /* What the guest reads in the memory that it gave away. */
    uint8_t byte;
    bool gone;
    /* What the file's other users read there: -1 for what it was before. */
    int other;
} Outcome;

struct Cell {
    const VbrKind *kind;
    const Way *way;
    const Outcome *outcome;
};

static uint64_t given(VbrPlace *p)
{
    return p->addr + p->unit;
}

static uint64_t given_bytes(VbrPlace *p)
{
    return 2 * p->unit;
}

static void inflate(VbrPlace *p)
{
    vbr_send_range(&p->vm->d, VBR_INFLATE, given(p),
                   given_bytes(p) / VBR_PAGE);
}

static void message(VbrPlace *p)
{
    vbr_send_one(&p->vm->d, VBR_INFLATE, given(p),
                 given_bytes(p) / VBR_PAGE);
}

static void report(VbrPlace *p)
{
    VbrDev *d = &p->vm->d;
    VbrSeg seg = { given(p), given_bytes(p), true };

    vbr_add(d, VBR_REPORT, &seg, 1);
    vbr_notify(d, VBR_REPORT);
    vbr_take(d, VBR_REPORT, 1);
}

/* Leaves the stream in @p->stream, once the migration is complete. */
static void hint(VbrPlace *p)
{
    VbrDev *d = &p->vm->d;
    g_autofree char *uri = NULL;

    vbr_place_mark(p);
    p->stream = vbr_stream_name();
    uri = g_strdup_printf("file:%s", p->stream);
    if (p->offset >= BALLAST) {
        /* Its block may be the first one that is sent. */
        vbr_fill(d, p->addr - BALLAST, BALLAST / VBR_PAGE, VBR_GUEST_BYTE);
    }
    vbr_hint_open_to(d, uri);
    vbr_hint_block(d, given(p), given_bytes(p));
    vbr_hint_id(d, VBR_HINT_STOP);
    vbr_hint_wait(d, "hinted-bytes", given_bytes(p));
}

static const Way ways[] = {
    { "inflate", "page-poison=on", inflate },
    { "range", "page-range=on", message },
    { "chunk", "balloon-chunks=on", message },
    { "report", "free-page-reporting=on", report },
    { "hint", VBR_HINT_OPTS, hint },
};

static const Outcome outcomes[] = {
    { "zeros", 0, true, -1 },
    { "hole", 0, true, 0 },
    { "file", VBR_FILE_BYTE, true, -1 },
    { "kept", VBR_GUEST_BYTE, false, -1 },
    { "stays", VBR_GUEST_BYTE, false, -1 },
    { "refused", VBR_GUEST_BYTE, false, -1 },
    { "left out", VBR_GUEST_BYTE, false, -1 },
    { "not sent", VBR_GUEST_BYTE, false, -1 },
};

static bool is(const char *a, const char *b)
{
    return !strcmp(a, b);
}

/* How much of the host's memory is private copies of what is mapped there. */
static uint64_t private_copies(VbrPlace *p)
{
    return vbr_smaps(&p->vm->d, p->addr, "Anonymous:");
}

/* In the file, what was given away is a hole, or is not. */
static void assert_hole(VbrPlace *p, bool hole)
{
    off_t from = p->offset + p->unit;
    off_t next;

    if (p->fd < 0 || p->unit > VBR_SMALL_UNIT) {
        /* hugetlbfs does not say. */
        return;
    }
    next = lseek(p->fd, from, hole ? SEEK_DATA : SEEK_HOLE);
    g_assert_cmpint(next, >=, from + given_bytes(p));
}

static void assert_other(VbrPlace *p, const Outcome *o, uint8_t before)
{
    uint64_t i;

    for (i = 0; p->other && i < 4 * p->unit; i++) {
        bool middle = i >= p->unit && i < 3 * p->unit;

        g_assert_cmphex(p->other[i], ==,
                        middle && o->other >= 0 ? o->other : before);
    }
}

/* The memory, that beside it, and what others see of both. */
static void assert_memory(VbrPlace *p, const Outcome *o, uint64_t copies,
                          uint8_t other_before)
{
    VbrDev *d = &p->vm->d;
    size_t unit = p->unit / VBR_PAGE;

    g_assert_cmpuint(vbr_resident(d, given(p), 2 * unit), ==,
                     o->gone ? 0 : 2 * unit);
    if (is(o->word, "file") || is(o->word, "kept")) {
        /* What the driver writes to send a request makes copies, too. */
        uint64_t gone = copies + 8 * VBR_PAGE - private_copies(p);
        uint64_t wanted = o->gone ? given_bytes(p) : 0;

        g_assert_cmpuint(gone, >=, wanted);
        g_assert_cmpuint(gone, <=, wanted + 8 * VBR_PAGE);
    }
    assert_hole(p, is(o->word, "hole"));
    assert_other(p, o, other_before);
    vbr_assert_filled(d, given(p), 2 * unit, o->byte);
    g_assert_cmpuint(vbr_resident(d, p->addr, unit), ==, unit);
    vbr_assert_filled(d, p->addr, unit, VBR_GUEST_BYTE);
    g_assert_cmpuint(vbr_resident(d, p->addr + 3 * p->unit, unit), ==, unit);
    vbr_assert_filled(d, p->addr + 3 * p->unit, unit, VBR_GUEST_BYTE);
}

/* Each counter has to be what it should, those of other reasons 0. */
static void assert_counters(VbrPlace *p, const Cell *c)
{
    VbrDev *d = &p->vm->d;
    uint64_t bytes = given_bytes(p);
    const char *way = c->way->name;
    bool refused = is(c->outcome->word, "refused");
    bool report = is(way, "report"), hint = is(way, "hint");
    bool pfns = is(way, "inflate");
    bool message = !report && !hint && !pfns;
    bool inflated = !refused && (pfns || message);

    vbr_assert_counter(d, "discard-errors", is(c->outcome->word, "stays"));
    vbr_assert_counter(d, "inhibited-bytes", 0);
    vbr_assert_counter(d, "discarded-bytes", c->outcome->gone ? bytes : 0);
    vbr_assert_counter(d, "inflated-bytes", inflated ? bytes : 0);
    vbr_assert_counter(d, "ballooned-bytes", inflated ? bytes : 0);
    vbr_assert_counter(d, "ignored-bad-pfns",
                       refused && pfns ? bytes / VBR_PAGE : 0);
    vbr_assert_counter(d, "malformed-messages", refused && message);
    vbr_assert_counter(d, "reported-bytes", report && !refused ? bytes : 0);
    vbr_assert_counter(d, "ignored-report-bytes",
                       report && refused ? bytes : 0);
    vbr_assert_counter(d, "ignored-report-file-bytes",
                       is(c->outcome->word, "kept") ? bytes : 0);
    if (hint) {
        vbr_assert_counter(d, "refused-hint-not-ram-bytes",
                           refused ? bytes : 0);
        vbr_assert_counter(d, "hint-left-out-bytes",
                           is(c->outcome->word, "left out") ? bytes : 0);
    }
    g_assert_false(vbr_is_broken(d));
}

static void check(const void *data)
{
    const Cell *c = data;
    VbrPlace *p = vbr_place(c->kind, c->way->props);
    uint8_t other_before;
    uint64_t copies;

    if (!p) {
        return;
    }
    copies = private_copies(p);
    other_before = p->other ? p->other[0] : 0;
    c->way->give(p);
    if (is(c->way->name, "hint")) {
        bool sent = is(c->outcome->word, "refused") && vbr_place_migrates(p);
        size_t pages = given_bytes(p) / VBR_PAGE;

        /* Taken in, one way or the other. */
        vbr_hint_complete(&p->vm->d);
        g_assert_cmpuint(vbr_place_marks_sent(p), ==, sent ? pages : 0);
        unlink(p->stream);
        vbr_place_unmark(p);
    }
    assert_memory(p, c->outcome, copies, other_before);
    assert_counters(p, c);
    vbr_place_free(p);
}

/* A part that goes and comes back is new memory. */
static void test_unplug(void)
{
    VbrPlace *p = vbr_place(vbr_kind_find("virtio-mem"), "page-poison=on");
    VbrDev *d = &p->vm->d;

    inflate(p);
    vbr_assert_counter(d, "ballooned-bytes", given_bytes(p));
    vbr_kind_replug(p, false);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    inflate(p);
    vbr_assert_counter(d, "ignored-bad-pfns", given_bytes(p) / VBR_PAGE);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_kind_replug(p, true);
    vbr_assert_counter(d, "ballooned-bytes", 0);

    /* A new driver changes nothing of it, nor does another map of memory. */
    vbr_restart(d, 0);
    vbr_fill(d, p->addr, 4 * p->unit / VBR_PAGE, VBR_GUEST_BYTE);
    inflate(p);
    vbr_assert_gone(d, given(p), given_bytes(p) / VBR_PAGE);
    vbr_assert_kept(d, p->addr, p->unit / VBR_PAGE, VBR_GUEST_BYTE);
    qtest_qmp_device_add(p->vm->qts, "virtio-rng-pci", "rng",
                         "{'addr': '0a.0'}");
    vbr_assert_counter(d, "ballooned-bytes", given_bytes(p));
    vbr_place_free(p);
}

/* @n requests of a page each, no two side by side. */
static void inflate_apart(VbrDev *d, uint64_t addr, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        vbr_send_range(d, VBR_INFLATE, addr + 2 * i * VBR_PAGE, 1);
    }
}

/* How many lines QEMU said. */
static size_t said_lines(const char *file)
{
    g_autofree char *text = NULL;
    size_t lines = 0;

    g_assert(g_file_get_contents(file, &text, NULL, NULL));
    for (const char *at = text; (at = strchr(at, '\n')); at++) {
        lines++;
    }
    return lines;
}

/*
 * Private memory that is locked beside a DIMM of shared memory: that the host
 * refuses the one again and again is counted, said no more than twice, and
 * changes nothing for the other.
 */
static void test_locked(void)
{
    const size_t n = 64;
    g_autofree char *said = vbr_stream_name();
    uint64_t dimm;
    VbrVm *vm;
    VbrDev *d;

    if (!vbr_can_lock()) {
        return;
    }
    vm = vbr_pc("-m 128M,slots=2,maxmem=1G -overcommit mem-lock=on "
                "-object memory-backend-memfd,id=back,size=128M "
                "-device pc-dimm,id=mem,memdev=back -device " VBR_PCI ","
                VBR_SLOT_ARG ",inflate-hold-ms=0 2>%s", said);
    if (vbr_has_locked(vm)) {
        d = &vm->d;
        vbr_vm_attach(vm, VBR_SLOT);
        vbr_start(d, 0);
        dimm = vbr_memory_address(vm, "mem", "addr");
        vbr_fill(d, 96 * MiB, 2 * n, VBR_GUEST_BYTE);
        vbr_fill(d, dimm, 2 * n, VBR_GUEST_BYTE);
        inflate_apart(d, 96 * MiB, n);
        vbr_assert_filled(d, 96 * MiB, 2 * n, VBR_GUEST_BYTE);
        vbr_assert_counter(d, "discard-errors", n);
        inflate_apart(d, dimm, n);
        vbr_assert_counter(d, "discard-errors", n);
        vbr_assert_counter(d, "discarded-bytes", n * VBR_PAGE);
        vbr_assert_counter(d, "ballooned-bytes", 2 * n * VBR_PAGE);
        for (size_t i = 0; i < n; i++) {
            vbr_assert_gone(d, dimm + 2 * i * VBR_PAGE, 1);
            vbr_assert_kept(d, dimm + (2 * i + 1) * VBR_PAGE, 1,
                            VBR_GUEST_BYTE);
        }
        g_assert_cmpuint(said_lines(said), <=, MOST_LINES);
    }
    vbr_vm_free(vm);
    unlink(said);
}

/* Shows it in 128 MiB from @addr on. */
static void place_mmconfig(VbrVm *vm, uint64_t addr)
{
    QPCIDevice *host = qpci_device_find(vm->bus, QPCI_DEVFN(0, 0));

    qpci_config_writel(host, PCIEXBAR, 0);
    qpci_config_writel(host, PCIEXBAR + 4, addr >> 32);
    qpci_config_writel(host, PCIEXBAR,
                       (uint32_t)addr | PCIEXBAR_128M | PCIEXBAR_ON);
    g_free(host);
}

/*
 * Something is laid over a half of virtio-mem's memory, and taken away again.
 * What is in the balloon of the other half stays there.
 */
static void test_borders(void)
{
    VbrPlace *p = vbr_place(vbr_kind_find("virtio-mem"),
                            "page-poison=on -M q35");
    uint64_t half = QEMU_ALIGN_DOWN(p->addr, 128 * MiB) + 64 * MiB;
    VbrDev *d = &p->vm->d;

    inflate(p);
    vbr_assert_counter(d, "ballooned-bytes", given_bytes(p));
    place_mmconfig(p->vm, half);
    /* It is there: the first device's identity. */
    g_assert_cmphex(qtest_readw(p->vm->qts, half), ==, PCI_VENDOR_ID_INTEL);
    vbr_assert_counter(d, "ballooned-bytes", given_bytes(p));
    place_mmconfig(p->vm, PCIEXBAR_DEFAULT);
    vbr_assert_counter(d, "ballooned-bytes", given_bytes(p));

    /* The parts are known as before. */
    vbr_send_range(d, VBR_DEFLATE, given(p), given_bytes(p) / VBR_PAGE);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_fill(d, p->addr, 4 * p->unit / VBR_PAGE, VBR_GUEST_BYTE);
    inflate(p);
    vbr_assert_gone(d, given(p), given_bytes(p) / VBR_PAGE);
    vbr_assert_kept(d, p->addr, p->unit / VBR_PAGE, VBR_GUEST_BYTE);
    vbr_kind_replug(p, false);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_place_free(p);
}

/* The text between the first two backticks of a cell. */
static char *quoted(const char *cell)
{
    const char *from = strchr(cell, '`');
    const char *to = from ? strchr(from + 1, '`') : NULL;

    return to ? g_strndup(from + 1, to - from - 1) : NULL;
}

static const Outcome *find_outcome(const char *word)
{
    for (size_t i = 0; i < ARRAY_SIZE(outcomes); i++) {
        if (is(outcomes[i].word, word)) {
            return &outcomes[i];
        }
    }
    return NULL;
}

static void add_row(char **cells, const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        g_autofree char *word = quoted(cells[2 + i]);
        g_autofree char *path = g_strdup_printf(
            "virtio-balloon-rs/kinds/%s/%s", name, ways[i].name);
        Cell *c = g_new0(Cell, 1);

        *c = (Cell) { vbr_kind_find(name), &ways[i], find_outcome(word) };
        if (!c->kind || !c->outcome) {
            g_error("docs/memory.md: no test for %s: %s", name, word);
        }
        qtest_add_data_func_full(path, c, check, g_free);
    }
}

/* The table of docs/memory.md, beside which this file lies. */
static char **read_table(void)
{
    g_autofree char *dir = g_path_get_dirname(__FILE__);
    g_autofree char *path = g_build_filename(dir, "../../docs/memory.md",
                                             NULL);
    g_autofree char *text = NULL;
    g_autoptr(GError) err = NULL;

    if (!g_file_get_contents(path, &text, NULL, &err)) {
        g_error("the table of kinds of memory: %s", err->message);
    }
    return g_strsplit(text, "\n", 0);
}

/* The columns are the ways, in their order. */
static void check_head(const char *line)
{
    g_autoptr(GString) head = g_string_new("| kind |");

    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        g_string_append_printf(head, " %s |", ways[i].name);
    }
    g_assert_cmpstr(line, ==, head->str);
}

void vbr_add_kinds_tests(void)
{
    g_auto(GStrv) lines = read_table();
    unsigned int rows = 0, i;

    for (i = 0; lines[i]; i++) {
        g_auto(GStrv) cells = g_strsplit(lines[i], "|", 0);
        bool is_row = g_strv_length(cells) == ARRAY_SIZE(ways) + 3;
        g_autofree char *name = is_row ? quoted(cells[1]) : NULL;

        if (g_str_has_prefix(lines[i], "| kind |")) {
            check_head(lines[i]);
        }
        if (name) {
            /* One row for each kind, in their order. */
            g_assert_cmpstr(name, ==, vbr_kind_name(rows));
            add_row(cells, name);
            rows++;
        }
    }
    g_assert_null(vbr_kind_name(rows));
    qtest_add_func("virtio-balloon-rs/kinds/virtio-mem/unplug", test_unplug);
    qtest_add_func("virtio-balloon-rs/kinds/virtio-mem/borders", test_borders);
    qtest_add_func("virtio-balloon-rs/kinds/locked/again", test_locked);
}
