/*
 * virtio-balloon-rs: machines whose memory grows, and very large ones
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-vm.h"
#include "qobject/qdict.h"

#define NUM_PAGES offsetof(struct virtio_balloon_config, num_pages)

/* The memory hotplug registers of ACPI on a PC. */
#define ACPI_MEMHP_BASE 0xa00
#define ACPI_MEMHP_SELECT 0
#define ACPI_MEMHP_FLAGS 0x14
#define ACPI_MEMHP_EJECT (1 << 3)

static void plug_dimm(VbrVm *vm)
{
    qtest_qmp_assert_success(vm->qts,
                             "{ 'execute': 'object-add', 'arguments': "
                             "{ 'qom-type': 'memory-backend-ram', "
                             "'id': 'mem1', 'size': 134217728 } }");
    qtest_qmp_device_add(vm->qts, "pc-dimm", "dimm1", "{'memdev': 'mem1'}");
}

static uint64_t dimm_address(VbrVm *vm)
{
    QDict *rsp = qtest_qmp(vm->qts, "{ 'execute': 'qom-get', 'arguments': "
                           "{ 'path': '/machine/peripheral/dimm1', "
                           "'property': 'addr' } }");
    uint64_t addr = qdict_get_int(rsp, "return");

    qobject_unref(rsp);
    return addr;
}

/* Memory that was plugged counts, and can be ballooned as the rest can. */
static void test_dimm(void)
{
    VbrVm *vm = vbr_pc("-m 128M,slots=2,maxmem=1G -device " VBR_PCI ","
                       VBR_SLOT_ARG);
    VbrDev *d = &vm->d;
    uint64_t addr;

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 128 * MiB);
    plug_dimm(vm);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 256 * MiB);
    vbr_set_balloon(vm->qts, 64 * MiB);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==,
                    192 * MiB / VBR_PAGE);

    addr = dimm_address(vm);
    vbr_fill(d, addr, 128, 0x71);
    vbr_send_range(d, VBR_INFLATE, addr + 32 * VBR_PAGE, 64);
    vbr_assert_gone(d, addr + 32 * VBR_PAGE, 64);
    vbr_assert_kept(d, addr, 32, 0x71);
    vbr_assert_kept(d, addr + 96 * VBR_PAGE, 32, 0x71);
    vbr_assert_counter(d, "ballooned-bytes", 64 * VBR_PAGE);
    vbr_set_actual(d, 64);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==,
                    256 * MiB - 64 * VBR_PAGE);
    vbr_vm_free(vm);
}

/* The guest's side of it: select the slot, eject what is in it. */
static void unplug_dimm(VbrVm *vm)
{
    qtest_qmp_device_del_send(vm->qts, "dimm1");
    qtest_outl(vm->qts, ACPI_MEMHP_BASE + ACPI_MEMHP_SELECT, 0);
    qtest_outb(vm->qts, ACPI_MEMHP_BASE + ACPI_MEMHP_FLAGS,
               ACPI_MEMHP_EJECT);
    qtest_qmp_eventwait(vm->qts, "DEVICE_DELETED");
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'object-del', "
                             "'arguments': { 'id': 'mem1' } }");
}

/* Memory that went away is no memory, and comes back as new memory. */
static void test_dimm_unplug(void)
{
    VbrVm *vm = vbr_pc("-m 128M,slots=2,maxmem=1G -device " VBR_PCI ","
                       VBR_SLOT_ARG);
    VbrDev *d = &vm->d;
    uint64_t addr;

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    plug_dimm(vm);
    addr = dimm_address(vm);
    vbr_send_range(d, VBR_INFLATE, addr, 64);
    unplug_dimm(vm);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 128 * MiB);
    vbr_send_range(d, VBR_INFLATE, addr, 64);
    vbr_send_range(d, VBR_DEFLATE, addr, 64);
    vbr_assert_counter(d, "ignored-bad-pfns", 128);
    vbr_assert_works(d);

    plug_dimm(vm);
    g_assert_cmphex(dimm_address(vm), ==, addr);
    vbr_fill(d, addr, 64, 0x72);
    vbr_send_range(d, VBR_INFLATE, addr, 32);
    vbr_assert_gone(d, addr, 32);
    vbr_assert_kept(d, addr + 32 * VBR_PAGE, 32, 0x72);
    vbr_vm_free(vm);
}

/*
 * Unplugged while a request is in work whose payload lies in the DIMM and
 * names its pages: the device may not touch what is gone.
 */
static void test_dimm_unplug_in_request(void)
{
    VbrVm *vm = vbr_pc("-m 128M,slots=2,maxmem=1G -device " VBR_PCI ","
                       VBR_SLOT_ARG);
    VbrDev *d = &vm->d;
    uint64_t addr;
    VbrSeg seg;

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    plug_dimm(vm);
    addr = dimm_address(vm);
    seg = (VbrSeg) { .addr = addr + 32 * MiB, .len = 96 * MiB };
    for (uint64_t at = 0; at < seg.len; at += 2 * MiB) {
        vbr_w32(d, seg.addr + at, (addr + at) >> VBR_PAGE_SHIFT);
    }
    vbr_add(d, VBR_INFLATE, &seg, 1);
    vbr_notify(d, VBR_INFLATE);
    g_assert_cmpuint(vbr_used(d, VBR_INFLATE), ==, 0);
    unplug_dimm(vm);
    vbr_take(d, VBR_INFLATE, 1);
    vbr_assert_works(d);
    vbr_vm_free(vm);
}

/* A DIMM that comes in the middle of work changes none of it. */
static void test_dimm_in_request(void)
{
    VbrVm *vm = vbr_pc("-m 128M,slots=2,maxmem=1G -device " VBR_PCI ","
                       VBR_SLOT_ARG);
    VbrSeg seg = { .addr = 32 * MiB, .len = 64 * MiB };

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    vbr_add(&vm->d, VBR_INFLATE, &seg, 1);
    vbr_notify(&vm->d, VBR_INFLATE);
    plug_dimm(vm);
    vbr_take(&vm->d, VBR_INFLATE, 1);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

/* Can a machine of this size be had here?  Not every host overcommits. */
static bool can_have(const char *args)
{
    g_autofree char *cmd = g_strdup_printf("%s %s -S -display none "
                                           "-accel qtest -monitor stdio",
                                           g_getenv("QTEST_QEMU_BINARY"),
                                           args);
    g_autofree char *shell = g_strdup_printf("echo quit | %s", cmd);
    const char *argv[] = { "/bin/sh", "-c", shell, NULL };
    int status;

    if (!g_spawn_sync(NULL, (char **)argv, NULL,
                      G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                      NULL, NULL, NULL, NULL, &status, NULL)) {
        return false;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#define RAM_ARGS(size) "-nodefaults -M pc,memory-backend=ram -m " size \
    " -cpu qemu64,phys-bits=48 " \
    "-object memory-backend-ram,id=ram,reserve=off,size=" size
#define HUGE_ARGS RAM_ARGS("17T")

/*
 * The target is a number of pages in 32 bits: above 16 TiB it must stop
 * at the largest, and not start again at 0.
 */
static void test_above_16t(void)
{
    VbrVm *vm;
    VbrDev *d;

    /* Only the size may be a reason to skip. */
    g_assert(can_have(RAM_ARGS("1G")));
    if (!can_have(HUGE_ARGS)) {
        g_test_skip("this host does not lend 17 TiB of address space");
        return;
    }
    vm = vbr_pc(HUGE_ARGS " -device " VBR_PCI "," VBR_SLOT_ARG);
    d = &vm->d;
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 17 * TiB);
    vbr_set_balloon(vm->qts, 1 * TiB);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, UINT32_MAX);
    vbr_set_balloon(vm->qts, 1 * GiB);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, UINT32_MAX);
    vbr_set_balloon(vm->qts, 2 * TiB);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, 15 * TiB / VBR_PAGE);
    vbr_set_actual(d, UINT32_MAX);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==,
                    17 * TiB - UINT32_MAX * VBR_PAGE);
    vbr_assert_works(d);
    vbr_vm_free(vm);
}

void vbr_add_memory_tests(void)
{
    qtest_add_func("virtio-balloon-rs/memory/dimm", test_dimm);
    qtest_add_func("virtio-balloon-rs/memory/dimm-in-request",
                   test_dimm_in_request);
    qtest_add_func("virtio-balloon-rs/memory/dimm-unplug",
                   test_dimm_unplug);
    qtest_add_func("virtio-balloon-rs/memory/dimm-unplug-in-request",
                   test_dimm_unplug_in_request);
    qtest_add_func("virtio-balloon-rs/memory/above-16t", test_above_16t);
}
