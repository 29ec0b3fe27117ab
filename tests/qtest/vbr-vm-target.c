/*
 * virtio-balloon-rs: the target, while memory comes and goes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vm.h"
#include "vbr-vmem.h"

#define NUM_PAGES offsetof(struct virtio_balloon_config, num_pages)
#define ALL UINT64_MAX
#define MACHINE "-m 128M,slots=2,maxmem=1G -device " VBR_PCI "," VBR_SLOT_ARG
#define DIMM " -object memory-backend-ram,id=mem1,size=128M " \
             "-device pc-dimm,id=dimm1,memdev=mem1"
#define VMEM_SLOT 6
#define VMEM " -object memory-backend-ram,id=vmem,size=512M,reserve=off " \
             "-device virtio-mem-pci,id=vmem0,memdev=vmem,addr=06.0," \
             "requested-size=256M,block-size=2M"

static void assert_asked(VbrDev *d, uint64_t target, uint64_t inflate)
{
    vbr_assert_counter(d, "target-bytes", target);
    g_assert_cmpuint(vbr_config_read(d, NUM_PAGES), ==, inflate / VBR_PAGE);
}

/* The guest is told that it is asked for another number of pages. */
static void wait_asked(VbrDev *d, uint64_t target, uint64_t inflate)
{
    qvirtio_wait_config_isr(d->vdev, VBR_TIMEOUT_US);
    assert_asked(d, target, inflate);
}

static void set_target(VbrDev *d, uint64_t target, uint64_t inflate)
{
    vbr_set_balloon(d->qts, target);
    qvirtio_wait_config_isr(d->vdev, VBR_TIMEOUT_US);
    assert_asked(d, inflate ? target : ALL, inflate);
}

static VbrVm *started(const char *args)
{
    VbrVm *vm = vbr_pc("%s", args);

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    return vm;
}

static void plug_dimm(VbrVm *vm)
{
    qtest_qmp_assert_success(vm->qts,
                             "{ 'execute': 'object-add', 'arguments': "
                             "{ 'qom-type': 'memory-backend-ram', "
                             "'id': 'mem1', 'size': 134217728 } }");
    qtest_qmp_device_add(vm->qts, "pc-dimm", "dimm1", "{'memdev': 'mem1'}");
}

/* The guest's side of it, by ACPI: select the slot, eject what is in it. */
static void unplug_dimm(VbrVm *vm)
{
    qtest_qmp_device_del_send(vm->qts, "dimm1");
    qtest_outl(vm->qts, 0xa00, 0);
    qtest_outb(vm->qts, 0xa14, 1 << 3);
    qtest_qmp_eventwait(vm->qts, "DEVICE_DELETED");
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'object-del', "
                             "'arguments': { 'id': 'mem1' } }");
}

/* A target that is set stays, and the guest is told what it leaves. */
static void test_dimm(void)
{
    VbrVm *vm = started(MACHINE DIMM);
    VbrDev *d = &vm->d;

    assert_asked(d, ALL, 0);
    set_target(d, 192 * MiB, 64 * MiB);
    unplug_dimm(vm);
    /* Less than the target is left. */
    wait_asked(d, 192 * MiB, 0);
    plug_dimm(vm);
    wait_asked(d, 192 * MiB, 64 * MiB);
    vbr_system_reset(d);
    vbr_restart(d, 0);
    assert_asked(d, 192 * MiB, 64 * MiB);
    vbr_vm_free(vm);
}

/*
 * Management software sets a target of all memory when it starts a machine.
 * What is plugged later is meant to be used: QEMU's C device asks for none of
 * it either, as it keeps the number of pages to inflate.
 */
static void check_all(const char *device)
{
    VbrVm *vm = started(device);
    VbrDev *d = &vm->d;

    vbr_set_balloon(d->qts, 128 * MiB);
    plug_dimm(vm);
    vbr_settle(d);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 256 * MiB);
    g_assert_cmpuint(vbr_config_read(d, NUM_PAGES), ==, 0);
    vbr_vm_free(vm);
}

static void test_all(void)
{
    VbrVm *vm = started(MACHINE);
    VbrDev *d = &vm->d;

    set_target(d, 64 * MiB, 64 * MiB);
    set_target(d, 128 * MiB, 0);
    plug_dimm(vm);
    vbr_settle(d);
    assert_asked(d, ALL, 0);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 256 * MiB);
    set_target(d, 300 * MiB, 0);
    vbr_vm_free(vm);

    check_all(MACHINE);
    check_all("-m 128M,slots=2,maxmem=1G -device virtio-balloon-pci,"
              VBR_SLOT_ARG);
}

static void request(VbrVm *vm, uint16_t type, uint64_t offset, uint64_t size)
{
    uint64_t base = vbr_memory_address(vm, "vmem0", "memaddr");

    vbr_vmem_request(vm, VMEM_SLOT, type, base + offset,
                     size / VBR_VMEM_BLOCK);
}

/* What virtio-mem has plugged counts, and what it could plug does not. */
static void test_virtio_mem(void)
{
    VbrVm *vm = started(MACHINE VMEM);
    VbrDev *d = &vm->d;

    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 128 * MiB);
    set_target(d, 64 * MiB, 64 * MiB);
    request(vm, VIRTIO_MEM_REQ_PLUG, 0, 256 * MiB);
    wait_asked(d, 64 * MiB, 320 * MiB);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 384 * MiB);
    vbr_set_actual(d, 320 * MiB / VBR_PAGE);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 64 * MiB);
    vbr_set_actual(d, 0);
    request(vm, VIRTIO_MEM_REQ_UNPLUG, 128 * MiB, 128 * MiB);
    wait_asked(d, 64 * MiB, 192 * MiB);
    request(vm, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0);
    wait_asked(d, 64 * MiB, 64 * MiB);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 128 * MiB);
    vbr_vm_free(vm);
}

/* The same, saved with a part plugged and loaded. */
static void test_virtio_mem_move(void)
{
    g_autofree char *file = vbr_stream_name();
    VbrVm *from = started(MACHINE VMEM);
    VbrVm *to = vbr_pc(MACHINE VMEM " -incoming defer");

    request(from, VIRTIO_MEM_REQ_PLUG, 0, 256 * MiB);
    set_target(&from->d, 64 * MiB, 320 * MiB);
    vbr_stream_save(from->qts, file);
    g_assert(vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    vbr_stream_adopt(to, from);
    assert_asked(&to->d, 64 * MiB, 320 * MiB);
    g_assert_cmpint(vbr_query_balloon(to->qts), ==, 384 * MiB);
    plug_dimm(to);
    vbr_settle(&to->d);
    assert_asked(&to->d, 64 * MiB, 448 * MiB);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

/* A target above what is left travels, and so does one that pages say. */
static void check_move(uint64_t refuse, uint64_t back)
{
    g_autofree char *file = vbr_stream_name();
    VbrVm *from = vbr_pc(MACHINE DIMM);
    VbrVm *to = vbr_pc(MACHINE " -incoming defer");

    vbr_vm_attach(from, VBR_SLOT);
    vbr_start(&from->d, refuse);
    set_target(&from->d, 192 * MiB, 64 * MiB);
    unplug_dimm(from);
    wait_asked(&from->d, 192 * MiB, 0);
    vbr_stream_save(from->qts, file);
    g_assert(vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    vbr_stream_adopt(to, from);
    assert_asked(&to->d, back ? 192 * MiB : ALL, 0);
    plug_dimm(to);
    vbr_settle(&to->d);
    assert_asked(&to->d, back ? 192 * MiB : ALL, back);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

static void test_move(void)
{
    check_move(0, 64 * MiB);
    /* Another device could not load more than the pages. */
    check_move(1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST, 0);
}

/* From QEMU's C device, which keeps pages: fewer are asked for than it had. */
static void test_move_from_stock(void)
{
    g_autofree char *file = vbr_stream_name();
    VbrVm *from = vbr_pc("-m 128M,slots=2,maxmem=1G -device virtio-balloon-pci,"
                         VBR_SLOT_ARG DIMM);
    VbrVm *to = vbr_pc("-m 128M,slots=2,maxmem=1G -device " VBR_PCI ","
                       VBR_SLOT_ARG ",must-tell-host=off -incoming defer");

    vbr_vm_attach(from, VBR_SLOT);
    vbr_start(&from->d, 0);
    vbr_set_balloon(from->qts, 64 * MiB);
    unplug_dimm(from);
    g_assert_cmpuint(vbr_config_read(&from->d, NUM_PAGES), ==,
                     192 * MiB / VBR_PAGE);
    vbr_stream_save(from->qts, file);
    g_assert(vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    vbr_stream_adopt(to, from);
    wait_asked(&to->d, 0, 128 * MiB);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

void vbr_add_target_tests(void)
{
    qtest_add_func("virtio-balloon-rs/target/dimm", test_dimm);
    qtest_add_func("virtio-balloon-rs/target/all", test_all);
    qtest_add_func("virtio-balloon-rs/target/virtio-mem", test_virtio_mem);
    qtest_add_func("virtio-balloon-rs/target/virtio-mem-move",
                   test_virtio_mem_move);
    qtest_add_func("virtio-balloon-rs/target/move", test_move);
    qtest_add_func("virtio-balloon-rs/target/move-from-stock",
                   test_move_from_stock);
}
