/*
 * virtio-balloon-rs: a bug costs the balloon, wherever it strikes
 *
 * Each function of the library fails in each kind of work that uses it: by a
 * panic before or behind what it does, or by the answer that it did nothing.
 * QEMU answers, a migration ends, and what the guest uses stays as it is. After
 * a reset, or plugged in again, the balloon works.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-entries.h"
#include "vbr-fault.h"
#include "vbr-hint.h"
#include "vbr-pair.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vmem.h"

#ifdef VBR_INJECT

#define PART_LIMIT_S 3600
#define AREA (96 * MiB)
#define NPAGES 64

/* Those that no work makes fail, and why. */
static const char *const never[] = {
    /* They do nothing that could. */
    "vbr_abi_version", "vbr_status_str", "vbr_dirty_is_active",
    /* Only with a packed ring, which the driver here does not have. */
    "vbr_request_give_up_answer",
};

static const char *const hows[] = { "panic", "behind", "busy", "invalid" };

/* The names of functions that failed in a test before this one. */
static GHashTable *failed;
static unsigned int works_to_do, works_done;

static bool is_in(const char *name, const char *const *list, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        if (!strcmp(name, list[i])) {
            return true;
        }
    }
    return false;
}

static void assert_memory(VbrDev *d)
{
    vbr_assert_filled(d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
}

static void run(VbrVm *vm, const char *work)
{
    const VbrWork *w = vbr_works;

    while (strcmp(w->name, work)) {
        w++;
    }
    w->run(vm);
}

/* The balloon begins anew in one of several ways, and then it works. */
static void begin_anew(VbrVm *vm, unsigned int round)
{
    static void (*const ways[])(VbrVm *vm) = {
        vbr_fault_restart, vbr_fault_system_reset, vbr_fault_replug,
    };
    VbrDev *d = &vm->d;

    ways[round % ARRAY_SIZE(ways)](vm);
    g_assert(!vbr_is_broken(d));
    run(vm, "batch");
    g_assert(!vbr_is_broken(d));
    g_assert_cmpuint(vbr_used(d, VBR_INFLATE), ==, 1);
    g_assert_cmpuint(vbr_used(d, VBR_DEFLATE), ==, 1);
    assert_memory(d);
}

/*
 * Whatever failed, QEMU is well, and so is the balloon once it begins anew. The
 * machine also moves before, and it begins anew at both ends.
 */
static void recover(VbrVm *vm, unsigned int round)
{
    VbrVm *to;

    assert_memory(&vm->d);
    run(vm, "stop");
    to = vbr_fault_move(vm);
    g_assert_nonnull(to);
    begin_anew(to, round + 1);
    vbr_fault_return(vm, to);
    vbr_fault_new_list(vm);
    begin_anew(vm, round);
}

static bool is_panic(const char *how)
{
    return !strcmp(how, "panic") || !strcmp(how, "behind");
}

/* Has a use of @function fail like this in the work; says whether it came. */
static bool fail_in(VbrVm *vm, const VbrWork *work, const char *function,
                    unsigned int use, const char *how, unsigned int round,
                    GHashTable *used)
{
    vbr_fault_set_use(vm, function, use, how);
    work->run(vm);
    vbr_fault_add_used(vm, used);
    if (vbr_fault_pending(vm)) {
        vbr_fault_set(vm, NULL, NULL);
        return false;
    }
    g_test_message("%s in %s, use %u: %s", function, work->name, use, how);
    if (!is_panic(how)) {
        g_assert(!vbr_is_broken(&vm->d));
    }
    recover(vm, round);
    return true;
}

/*
 * The first use in all ways; each is another round. Of the @uses that a clean
 * run has, the second and the last in one way each, by turns: all ways of all
 * uses would take three times as long.
 */
static void fail_each_way(VbrVm *vm, const VbrWork *work, const char *function,
                          unsigned int uses, unsigned int *round,
                          GHashTable *used)
{
    const unsigned int later[] = { uses > 1 ? 2 : 0, uses > 2 ? uses : 0 };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(hows); i++) {
        if (!fail_in(vm, work, function, 1, hows[i], (*round)++, used)) {
            return;
        }
        g_hash_table_add(failed, (void *)function);
    }
    for (i = 0; i < ARRAY_SIZE(later); i++) {
        const char *how = hows[*round % ARRAY_SIZE(hows)];

        if (later[i] &&
            !fail_in(vm, work, function, later[i], how, (*round)++, used)) {
            g_test_message("%s in %s: no use %u", function, work->name,
                           later[i]);
        }
    }
}

/*
 * The functions that the work was ever seen to use, until there is no other:
 * one that fails can lead to others.
 */
static void check_work(const VbrWork *work, bool hints)
{
    g_autoptr(GHashTable) used = g_hash_table_new_full(g_str_hash, g_str_equal,
                                                       g_free, NULL);
    bool tried[ARRAY_SIZE(vbr_entries)] = {};
    VbrVm *vm = vbr_fault_machine(hints);
    unsigned int round = 0;
    size_t i;

    vbr_fill(&vm->d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    if (work->snapshots) {
        run(vm, "save");
    }
    vbr_fault_set(vm, NULL, NULL);
    work->run(vm);
    if (work->check) {
        work->check(vm);
    }
    vbr_fault_add_used(vm, used);
    recover(vm, 0);
    for (i = 0; i < ARRAY_SIZE(vbr_entries); i++) {
        if (!tried[i] && g_hash_table_contains(used, vbr_entries[i])) {
            unsigned int uses = GPOINTER_TO_UINT(
                g_hash_table_lookup(used, vbr_entries[i]));

            tried[i] = true;
            fail_each_way(vm, work, vbr_entries[i], uses, &round, used);
            i = -1;
        }
    }
    vbr_vm_free(vm);
}

/*
 * Where a panic was asked for is known: to look for it takes a second each. A
 * part that hangs ends after many times what the longest takes.
 *
 * What QEMU leaks is told by whom it was allocated from, but for that GLib's
 * frames have to be walked, which takes most of the time of such a QEMU. So it
 * is done where there are leaks that are not ours: with snapshots.
 */
static void prepare(bool snapshots)
{
    g_setenv("RUST_BACKTRACE", "0", true);
    g_setenv("ASAN_OPTIONS", snapshots ? "fast_unwind_on_malloc=0"
                                       : "fast_unwind_on_malloc=1", true);
    alarm(PART_LIMIT_S);
}

static void test_with_hints(const void *opaque)
{
    const VbrWork *work = opaque;

    prepare(work->snapshots);
    check_work(work, true);
    works_done++;
}

static void test_with_requests(const void *opaque)
{
    const VbrWork *work = opaque;

    prepare(work->snapshots);
    check_work(work, false);
    works_done++;
}

static void add_works(const char *queues, GTestDataFunc test)
{
    const VbrWork *work;

    for (work = vbr_works; work->name; work++) {
        g_autofree char *name = g_strdup_printf("virtio-balloon-rs/fault/%s/%s",
                                                work->name, queues);

        qtest_add_data_func(name, work, test);
        works_to_do++;
    }
}

static void assert_moves(VbrVm *vm)
{
    VbrVm *to = vbr_fault_move(vm);

    g_assert_nonnull(to);
    vbr_fault_return(vm, to);
}

/* A machine whose library has the fault planned before anybody can ask. */
static VbrVm *machine_with(const char *function, const char *how)
{
    g_autofree char *fault = g_strdup_printf("%s:1:%s", function, how);
    VbrVm *vm;

    g_setenv("VBR_INJECT", fault, true);
    vm = vbr_pc(VBR_FAULT_RAM_ARG " " VBR_FAULT_LIST);
    g_unsetenv("VBR_INJECT");
    return vm;
}

/* What is called for the first device, or its class, of a process only. */
static void test_first(void)
{
    static const char *const functions[] = { "vbr_log_set", "vbr_ram_new" };
    size_t i, j;

    prepare(false);
    for (i = 0; i < ARRAY_SIZE(functions); i++) {
        for (j = 0; j < ARRAY_SIZE(hows); j++) {
            VbrVm *vm = machine_with(functions[i], hows[j]);

            while (!vbr_fault_plug(vm, true)) {
                continue;
            }
            g_assert(!vbr_fault_pending(vm));
            vbr_vm_attach(vm, VBR_SLOT);
            vbr_start(&vm->d, 0);
            vbr_assert_works(&vm->d);
            assert_moves(vm);
            vbr_assert_works(&vm->d);
            vbr_vm_free(vm);
        }
        g_hash_table_add(failed, (void *)functions[i]);
    }
    works_done++;
}

/* Pages were left out, and the guest runs at the other end already. */
static void check_postcopy(const char *function, const char *how)
{
    VbrPair p = vbr_pair(VBR_FAULT_LIST, VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;

    vbr_pair_capability(&p, "postcopy-ram");
    vbr_fill(d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    vbr_pair_move(&p);
    vbr_hint_id(d, vbr_hint_wait_round(d, 0));
    vbr_hint_pages(d, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", NPAGES * VBR_PAGE);
    vbr_fault_set(p.from, function, how);
    qtest_qmp_assert_success(p.from->qts,
                             "{ 'execute': 'migrate-start-postcopy' }");
    vbr_migrate_until(p.from->qts, "postcopy-active");
    qtest_qmp_eventwait(p.to->qts, "RESUME");
    vbr_stream_adopt(p.to, p.from);
    assert_memory(&p.to->d);
    qtest_readb(p.to->qts, AREA);
    vbr_migrate_speed(p.from->qts, VBR_FAST);
    vbr_migrate_until(p.from->qts, "completed");
    vbr_migrate_until(p.to->qts, "completed");
    g_assert(!vbr_fault_pending(p.from));
    assert_memory(&p.to->d);
    vbr_assert_works(&p.to->d);
    vbr_pair_free(&p);
}

/* A function that breaks the device, or its hints, and one that saves those. */
typedef struct Broken {
    const char *breaks;
    const char *saves;
    bool device;
} Broken;

/*
 * What broke moves with all that the driver has negotiated, whatever fails
 * then. The host's target goes along, and is kept by a reset there.
 */
static void check_broken(const Broken *b, bool hints, const char *how)
{
    VbrVm *vm = vbr_fault_machine(hints), *to;

    vbr_fill(&vm->d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    vbr_set_balloon(vm->qts, 48 * MiB);
    vbr_fault_set(vm, b->breaks, "panic");
    run(vm, "batch");
    vbr_config_read(&vm->d, 0);
    g_assert(!vbr_fault_pending(vm));
    g_assert(vbr_is_broken(&vm->d) == b->device);
    if (how) {
        vbr_fault_set(vm, b->saves, how);
        /* It says why, and can be tried again. */
        g_assert_null(vbr_fault_move(vm));
        g_assert(!vbr_fault_pending(vm));
    }
    to = vbr_fault_move(vm);
    g_assert_nonnull(to);
    g_assert(vbr_is_broken(&to->d) == vbr_is_broken(&vm->d));
    vbr_fault_restart(to);
    g_assert_cmphex(vbr_config_read(&to->d, 0), ==, 16 * MiB / VBR_PAGE);
    begin_anew(to, 0);
    vbr_fault_return(vm, to);
    vbr_vm_free(vm);
}

static void test_broken(void)
{
    static const Broken broken[] = {
        { "vbr_batch_run", "vbr_state_save_broken", true },
        { "vbr_hints_view", "vbr_hints_save_broken", false },
    };
    size_t i, j;

    prepare(false);
    for (i = 0; i < 2 * ARRAY_SIZE(broken); i++) {
        const Broken *b = &broken[i / 2];

        check_broken(b, i % 2, NULL);
        for (j = 0; j < ARRAY_SIZE(hows); j++) {
            check_broken(b, i % 2, hows[j]);
        }
        g_hash_table_add(failed, (void *)b->saves);
    }
    works_done++;
}

static void test_postcopy(void)
{
    static const char *const functions[] = {
        "vbr_ram_postcopy", "vbr_ram_is_left_out",
    };
    size_t i, j;

    prepare(false);
    for (i = 0; i < ARRAY_SIZE(functions); i++) {
        for (j = 0; j < ARRAY_SIZE(hows); j++) {
            check_postcopy(functions[i], hows[j]);
        }
        g_hash_table_add(failed, (void *)functions[i]);
    }
    works_done++;
}

/*
 * What virtio-mem has not plugged is not there: also where all of RAM is sent
 * anew nobody reads it, which would fill it at both ends.
 */
static void check_unplugged(const char *function)
{
    VbrPair p = vbr_pair(VBR_FAULT_LIST " -m 128M,slots=2,maxmem=1G "
                         "-object memory-backend-ram,id=back,size=128M "
                         "-device virtio-mem-pci,id=mem,memdev=back,addr=07.0,"
                         "requested-size=64M,block-size=2M", NULL, 0);
    uint64_t addr = vbr_memory_address(p.from, "mem", "memaddr");
    uint64_t plugged = 16 * VBR_VMEM_BLOCK, unplugged = addr + plugged;
    const size_t pages = plugged / VBR_PAGE;

    vbr_vmem_request(p.from, 7, VIRTIO_MEM_REQ_PLUG, addr, 16);
    vbr_fill(&p.from->d, addr, VBR_USED_PAGES, VBR_USED_BYTE);
    vbr_pair_move(&p);
    /* Behind the first synchronization: QEMU corrects what that says itself. */
    vbr_fault_set(p.from, function, "panic");
    vbr_pair_arrive(&p);
    g_assert(!vbr_fault_pending(p.from));
    g_assert_cmpuint(vbr_resident(&p.from->d, unplugged, pages), ==, 0);
    g_assert_cmpuint(vbr_resident(&p.to->d, unplugged, pages), ==, 0);
    vbr_assert_filled(&p.to->d, addr, VBR_USED_PAGES, VBR_USED_BYTE);
    vbr_pair_free(&p);
}

static void test_unplugged(void)
{
    prepare(false);
    check_unplugged("vbr_ram_synced");
    check_unplugged("vbr_ram_sweep");
    check_unplugged("vbr_dirty_sync_begin");
}

static void test_missed(void)
{
    static const char *const refused[] = { "busy", "invalid" };
    size_t i;

    prepare(false);
    for (i = 0; i < ARRAY_SIZE(refused); i++) {
        vbr_fault_missed_poison(refused[i]);
        vbr_fault_missed_balloon(refused[i]);
    }
    works_done++;
}

static void test_rare(void)
{
    size_t i;

    prepare(false);
    for (i = 0; i < ARRAY_SIZE(hows); i++) {
        vbr_fault_rare(hows[i], is_panic(hows[i]), failed);
    }
    works_done++;
}

/* A function that is new in the header has to fail somewhere, too. */
static void test_all(void)
{
    unsigned int missing = 0;
    size_t i;

    if (works_done != works_to_do) {
        g_test_skip("the tests before this one were not all run");
        return;
    }
    for (i = 0; i < ARRAY_SIZE(vbr_entries); i++) {
        bool is_never = is_in(vbr_entries[i], never, ARRAY_SIZE(never));

        if (g_hash_table_contains(failed, vbr_entries[i]) == is_never) {
            g_test_message("%s %s", vbr_entries[i],
                           is_never ? "can fail" : "never failed");
            missing++;
        }
    }
    g_assert_cmpuint(missing, ==, 0);
}

void vbr_add_fault_tests(void)
{
    failed = g_hash_table_new(g_str_hash, g_str_equal);
    add_works("hints", test_with_hints);
    add_works("requests", test_with_requests);
    works_to_do += 5;
    qtest_add_func("virtio-balloon-rs/fault/first", test_first);
    qtest_add_func("virtio-balloon-rs/fault/postcopy", test_postcopy);
    qtest_add_func("virtio-balloon-rs/fault/unplugged", test_unplugged);
    qtest_add_func("virtio-balloon-rs/fault/broken", test_broken);
    qtest_add_func("virtio-balloon-rs/fault/missed", test_missed);
    qtest_add_func("virtio-balloon-rs/fault/rare", test_rare);
    qtest_add_func("virtio-balloon-rs/fault/all", test_all);
}

#else

/* Only a build for tests has a library that fails when it is told to. */
void vbr_add_fault_tests(void)
{
}

#endif
