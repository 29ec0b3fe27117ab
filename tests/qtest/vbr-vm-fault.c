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

#define AREA (96 * MiB)
#define NPAGES 64

/* Those that no work makes fail, and why. */
static const char *const never[] = {
    /* They do nothing that could. */
    "vbr_abi_version", "vbr_status_str", "vbr_dirty_is_active",
    /* Only with a packed ring, which the driver here does not have. */
    "vbr_request_give_up_answer",
};

/* What the guest's memory hangs on: without it the device stops. */
static const char *const vital[] = {
    "vbr_batch_abandon", "vbr_batch_cancel", "vbr_device_set_features",
    "vbr_device_set_memory",
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

/* Whatever failed: QEMU is well, and so is the balloon once it begins anew. */
static void recover(VbrVm *vm, bool whole, unsigned int round)
{
    assert_memory(&vm->d);
    run(vm, "stop");
    if (whole) {
        run(vm, "migrate");
        assert_memory(&vm->d);
    }
    vbr_fault_new_list(vm);
    switch (round % 3) {
    case 0:
        break;
    case 1:
        vbr_system_reset(&vm->d);
        break;
    case 2:
        vbr_fault_replug(vm);
        break;
    }
    vbr_restart(&vm->d, 0);
    g_assert(!vbr_is_broken(&vm->d));
    run(vm, "batch");
    g_assert(!vbr_is_broken(&vm->d));
    assert_memory(&vm->d);
}

/* Has @function fail like this in the work; says whether it was used. */
static bool fail_in(VbrVm *vm, const VbrWork *work, const char *function,
                    const char *how, unsigned int round)
{
    bool panic = !strcmp(how, "panic") || !strcmp(how, "behind");

    vbr_fault_set(vm, function, how);
    work->run(vm);
    if (vbr_fault_pending(vm)) {
        vbr_fault_set(vm, NULL, NULL);
        return false;
    }
    g_test_message("%s in %s: %s", function, work->name, how);
    if (!panic && !is_in(function, vital, ARRAY_SIZE(vital))) {
        g_assert(!vbr_is_broken(&vm->d));
    }
    recover(vm, panic, round);
    return true;
}

static void check_work(const VbrWork *work, bool hints)
{
    VbrVm *vm = vbr_fault_machine(hints);
    unsigned int round = 0;
    size_t i, j;

    vbr_fill(&vm->d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    run(vm, "save");
    for (i = 0; i < ARRAY_SIZE(vbr_entries); i++) {
        for (j = 0; j < ARRAY_SIZE(hows); j++) {
            if (!fail_in(vm, work, vbr_entries[i], hows[j], round++)) {
                break;
            }
            g_hash_table_add(failed, (void *)vbr_entries[i]);
        }
    }
    vbr_vm_free(vm);
}

/* Where a panic was asked for is known: to look for it takes a second each. */
static void expect_panics(void)
{
    g_setenv("RUST_BACKTRACE", "0", true);
}

static void test_work(const void *work)
{
    expect_panics();
    check_work(work, true);
    check_work(work, false);
    works_done++;
}

/* A machine whose library has the fault planned before anybody can ask. */
static VbrVm *machine_with(const char *function, const char *how)
{
    g_autofree char *fault = g_strdup_printf("%s:1:%s", function, how);
    VbrVm *vm;

    g_setenv("VBR_INJECT", fault, true);
    vm = vbr_pc(VBR_FAULT_LIST);
    g_unsetenv("VBR_INJECT");
    return vm;
}

/* What is called for the first device, or its class, of a process only. */
static void test_first(void)
{
    static const char *const functions[] = { "vbr_log_set", "vbr_ram_new" };
    size_t i, j;

    expect_panics();
    for (i = 0; i < ARRAY_SIZE(functions); i++) {
        for (j = 0; j < ARRAY_SIZE(hows); j++) {
            VbrVm *vm = machine_with(functions[i], hows[j]);

            while (!vbr_try(vm->qts, "{ 'execute': 'device_add', "
                            "'arguments': { 'driver': '" VBR_PCI "', "
                            "'id': '" VBR_ID "', 'addr': '04.0', "
                            "'free-page-hint': true } }")) {
                continue;
            }
            g_assert(!vbr_fault_pending(vm));
            vbr_vm_attach(vm, VBR_SLOT);
            vbr_start(&vm->d, 0);
            vbr_assert_works(&vm->d);
            run(vm, "migrate");
            assert_memory(&vm->d);
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

static void test_postcopy(void)
{
    static const char *const functions[] = {
        "vbr_ram_postcopy", "vbr_ram_is_left_out",
    };
    size_t i, j;

    expect_panics();
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
                         "-object memory-backend-ram,id=back,size=128M,"
                         "reserve=off -device virtio-mem-pci,id=mem,"
                         "memdev=back,addr=07.0,requested-size=64M,"
                         "block-size=2M", NULL, 0);
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
    expect_panics();
    check_unplugged("vbr_ram_synced");
    check_unplugged("vbr_ram_sweep");
    check_unplugged("vbr_dirty_sync_begin");
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
    const VbrWork *work;

    failed = g_hash_table_new(g_str_hash, g_str_equal);
    for (work = vbr_works; work->name; work++) {
        g_autofree char *name = g_strdup_printf("virtio-balloon-rs/fault/%s",
                                                work->name);

        qtest_add_data_func(name, work, test_work);
        works_to_do++;
    }
    works_to_do += 2;
    qtest_add_func("virtio-balloon-rs/fault/first", test_first);
    qtest_add_func("virtio-balloon-rs/fault/postcopy", test_postcopy);
    qtest_add_func("virtio-balloon-rs/fault/unplugged", test_unplugged);
    qtest_add_func("virtio-balloon-rs/fault/all", test_all);
}

#else

/* Only a build for tests has a library that fails when it is told to. */
void vbr_add_fault_tests(void)
{
}

#endif
