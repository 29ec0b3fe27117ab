/*
 * dirty-page-list: pages of other memory than a small guest's
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-dirty.h"
#include "vbr-stream.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "hw/pci/pci_regs.h"

#define NO_DUPS "max-dirty=256,no-dups=on"
/* What the chipset tells the guest's firmware to talk to about DIMMs. */
#define DIMM_SELECT 0xa00
#define DIMM_FLAGS (DIMM_SELECT + 0x14)
#define DIMM_EJECT 8
#define DIMM_SIZE (32 * MiB)

/* Memory has a hole below 4 GiB: from there on an offset is no address. */
static void test_above_4g(void)
{
    VbrVm *vm = vbr_dirty_pc("-m 5G -machine memory-backend=ram0 -object "
                             "memory-backend-ram,id=ram0,size=5G,reserve=off",
                             "max-dirty=256");
    QTestState *qts = vm->qts;

    vbr_dirty_write(qts, 3 * GiB - VBR_PAGE, 1, VBR_PAGE, 1);
    vbr_dirty_write(qts, 4 * GiB, 2, VBR_PAGE, 1);
    vbr_dirty_write(qts, 6 * GiB - VBR_PAGE, 1, VBR_PAGE, 1);
    /* Three in a row for the host, but not for the guest. */
    vbr_assert_fetch(qts, "ram0 bffff000+1000 @bffff000, "
                     "ram0 c0000000+2000 @100000000, "
                     "ram0 13ffff000+1000 @17ffff000");
    vbr_dirty_write(qts, 4 * GiB, 2, VBR_PAGE, 1);
    vbr_dirty_write(qts, 3 * GiB - VBR_PAGE, 1, VBR_PAGE, 1);
    vbr_assert_text(vbr_dirty_fetch_gfns(qts, 0),
                    "gfns bffff 100000 100001");
    vbr_vm_free(vm);
}

/* Memory of a device, which the guest can have wherever it likes. */
static void test_device_memory(void)
{
    const char *vram = "0000:00:05.0/vga.vram 3000+2000";
    const uint64_t elsewhere = 0xf0000000;
    VbrVm *vm = vbr_dirty_pc("-m 64M -device VGA,addr=05.0,vgamem_mb=16",
                             "max-dirty=256");
    QTestState *qts = vm->qts;
    QPCIDevice *vga = qpci_device_find(vm->bus, QPCI_DEVFN(5, 0));
    g_autofree char *both = NULL, *moved = NULL, *hidden = NULL;
    uint64_t at;

    g_assert_nonnull(vga);
    qpci_device_enable(vga);
    at = qpci_iomap(vga, 0, NULL).addr + 3 * VBR_PAGE;
    vbr_dirty_write(qts, at, 2, VBR_PAGE, 1);
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    both = g_strdup_printf("pc.ram 100000+1000 @100000, %s @%" PRIx64, vram,
                           at);
    vbr_assert_fetch(qts, both);

    /* Mapped elsewhere since it was written to. */
    vbr_dirty_write(qts, at, 2, VBR_PAGE, 1);
    qpci_config_writel(vga, PCI_BASE_ADDRESS_0, elsewhere);
    moved = g_strdup_printf("%s @f0003000", vram);
    vbr_assert_fetch(qts, moved);

    /* Not mapped any more: there is no address, and no frame number. */
    at = elsewhere + 3 * VBR_PAGE;
    vbr_dirty_write(qts, at, 2, VBR_PAGE, 1);
    qpci_config_writew(vga, PCI_COMMAND, 0);
    vbr_assert_fetch(qts, vram);
    qpci_config_writew(vga, PCI_COMMAND, PCI_COMMAND_MEMORY);
    vbr_dirty_write(qts, at, 2, VBR_PAGE, 1);
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    qpci_config_writew(vga, PCI_COMMAND, 0);
    hidden = g_strdup_printf("%s gfns 100", vram);
    vbr_assert_text(vbr_dirty_fetch_gfns(qts, 0), hidden);
    g_free(vga);
    vbr_vm_free(vm);
}

/* Writing to ROM changes nothing; there is RAM behind it. */
static void test_rom(void)
{
    VbrVm *vm = vbr_dirty_pc("", "max-dirty=256");
    QTestState *qts = vm->qts;
    QPCIDevice *host = qpci_device_find(vm->bus, QPCI_DEVFN(0, 0));

    g_assert_nonnull(host);
    qtest_writeb(qts, 0xc0000, 1);
    qtest_writeb(qts, 0xfffff000, 1);
    vbr_assert_fetch(qts, "");
    /* What firmware does when it is about to copy itself there. */
    qpci_config_writeb(host, 0x5a, 0x33);
    qtest_writeb(qts, 0xc0000, 1);
    vbr_assert_fetch(qts, "pc.ram c0000+1000 @c0000");
    qtest_writeb(qts, 0xc0000, 1);
    qpci_config_writeb(host, 0x5a, 0);
    vbr_assert_fetch(qts, "pc.ram c0000+1000");
    g_free(host);
    vbr_vm_free(vm);
}

static void add_memory(QTestState *qts, const char *id)
{
    g_autofree char *mem = g_strdup_printf("mem-%s", id);

    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments': "
                             "{ 'qom-type': 'memory-backend-ram', 'id': %s, "
                             "'size': %" PRIu64 " } }", mem, DIMM_SIZE);
}

static void add_dimm(QTestState *qts, const char *id)
{
    g_autofree char *mem = g_strdup_printf("mem-%s", id);

    qtest_qmp_assert_success(qts, "{ 'execute': 'device_add', 'arguments': "
                             "{ 'driver': 'pc-dimm', 'id': %s, "
                             "'memdev': %s } }", id, mem);
}

static void plug(QTestState *qts, const char *id)
{
    add_memory(qts, id);
    add_dimm(qts, id);
}

/* The guest agrees that a DIMM goes; its memory is still there. */
static void unplug(QTestState *qts, const char *id, uint32_t slot)
{
    qtest_qmp_device_del_send(qts, id);
    qtest_outl(qts, DIMM_SELECT, slot);
    qtest_outl(qts, DIMM_FLAGS, DIMM_EJECT);
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
}

static size_t blocks(QTestState *qts)
{
    g_autofree char *text = qtest_hmp(qts, "info ramblock");
    g_auto(GStrv) lines = g_strsplit(text, "\n", 0);

    return g_strv_length(lines);
}

/* It is not any more. */
static void drop(QTestState *qts, const char *id)
{
    g_autofree char *mem = g_strdup_printf("mem-%s", id);
    size_t before = blocks(qts);
    VbrWait wait = { "the block to go" };

    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del', 'arguments': "
                             "{ 'id': %s } }", mem);
    while (blocks(qts) == before) {
        vbr_wait(&wait);
    }
}

static uint64_t dimm_address(QTestState *qts, const char *id)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-memory-devices' }");
    const QListEntry *e;
    uint64_t addr = 0;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        QDict *data = qdict_get_qdict(qobject_to(QDict, qlist_entry_obj(e)),
                                      "data");

        if (!strcmp(qdict_get_str(data, "id"), id)) {
            addr = qdict_get_int(data, "addr");
        }
    }
    qobject_unref(rsp);
    g_assert_cmphex(addr, !=, 0);
    return addr;
}

/* Whatever is dirty. */
static void forget(QTestState *qts)
{
    g_autofree char *text = NULL;

    do {
        g_free(text);
        text = vbr_dirty_fetch(qts, 0);
    } while (*text);
}

static char *range(const char *id, uint64_t offset, uint64_t size,
                   uint64_t addr)
{
    return g_strdup_printf("mem-%s %" PRIx64 "+%" PRIx64 " @%" PRIx64, id,
                           offset, size, addr + offset);
}

#define PLUGGABLE "-m 64M,slots=4,maxmem=1G"

/* A list that was started before the memory came. */
static void test_plug(void)
{
    VbrVm *vm = vbr_dirty_pc(PLUGGABLE, NO_DUPS);
    QTestState *qts = vm->qts;
    g_autofree char *want = NULL, *part = NULL;
    uint64_t addr;

    plug(qts, "dimm0");
    addr = dimm_address(qts, "dimm0");
    /* Memory that is new may be listed as a whole: nobody has it yet. */
    forget(qts);
    vbr_dirty_write(qts, addr + 5 * VBR_PAGE, 2, VBR_PAGE, 1);
    want = range("dimm0", 5 * VBR_PAGE, 2 * VBR_PAGE, addr);
    vbr_assert_fetch(qts, want);
    vbr_assert_fetch(qts, "");
    vbr_dirty_write(qts, addr + DIMM_SIZE - VBR_PAGE, 1, VBR_PAGE, 1);
    part = range("dimm0", DIMM_SIZE - VBR_PAGE, VBR_PAGE, addr);
    vbr_assert_fetch(qts, part);
    /* Written at once, before anybody fetched. */
    plug(qts, "dimm1");
    vbr_dirty_write(qts, dimm_address(qts, "dimm1"), 1, VBR_PAGE, 1);
    g_free(part);
    part = vbr_dirty_fetch(qts, 1);
    g_assert(g_str_has_prefix(part, "mem-dimm1 0+1000 @"));
    vbr_vm_free(vm);

    /* A list that has no room for all of it says so. */
    vm = vbr_dirty_pc(PLUGGABLE, "max-dirty=256");
    plug(vm->qts, "dimm0");
    vbr_assert_dirty_refused(vm->qts, "fetch", VBR_DL_EOVERFLOW);
    vbr_vm_free(vm);
}

/* Memory goes while pages of it are on the list, in a ring or by a mark. */
static void check_unplug(const char *props, size_t pages)
{
    VbrVm *vm = vbr_pc(PLUGGABLE " " VBR_DL ",%s", props);
    QTestState *qts = vm->qts;
    g_autofree char *want = NULL;
    uint64_t addr;

    plug(qts, "dimm0");
    plug(qts, "dimm1");
    vbr_dirty_do(qts, "start");
    addr = dimm_address(qts, "dimm0");
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    vbr_dirty_write(qts, addr, pages, 2 * VBR_PAGE, 1);
    addr = dimm_address(qts, "dimm1");
    vbr_dirty_write(qts, addr, 1, VBR_PAGE, 1);
    unplug(qts, "dimm0", 0);
    drop(qts, "dimm0");
    want = g_strdup_printf("pc.ram 100000+1000 @100000, "
                           "mem-dimm1 0+1000 @%" PRIx64, addr);
    vbr_assert_fetch(qts, want);
    vbr_assert_fetch(qts, "");

    /* Memory that comes in its place is written to, and so listed. */
    plug(qts, "dimm0");
    forget(qts);
    addr = dimm_address(qts, "dimm0");
    vbr_dirty_write(qts, addr, 2, VBR_PAGE, 1);
    g_free(want);
    want = range("dimm0", 0, 2 * VBR_PAGE, addr);
    vbr_assert_fetch(qts, want);

    /* Gone again, and the list ends while it owes such pages. */
    vbr_dirty_write(qts, addr, 2, VBR_PAGE, 1);
    unplug(qts, "dimm0", 0);
    drop(qts, "dimm0");
    vbr_dirty_do(qts, "stop");
    vbr_assert_fetch(qts, "");
    vbr_dirty_do(qts, "start");
    vbr_assert_fetch(qts, "");
    vbr_vm_free(vm);
}

static void test_unplug(void)
{
    /* New memory takes that much room. */
    check_unplug("max-dirty=16384", 10);
    check_unplug(NO_DUPS, 10);
    check_unplug(NO_DUPS, 3000);
}

/* What was written before the start, to memory that was gone at the start. */
static void test_plug_again(void)
{
    VbrVm *vm = vbr_pc(PLUGGABLE " " VBR_DL "," NO_DUPS);
    QTestState *qts = vm->qts;
    g_autofree char *want = NULL;
    uint64_t addr;

    plug(qts, "dimm0");
    vbr_dirty_write(qts, dimm_address(qts, "dimm0"), 2, VBR_PAGE, 1);
    unplug(qts, "dimm0", 0);
    drop(qts, "dimm0");
    vbr_dirty_do(qts, "start");
    plug(qts, "dimm0");
    addr = dimm_address(qts, "dimm0");
    forget(qts);
    vbr_dirty_write(qts, addr, 2, VBR_PAGE, 1);
    want = range("dimm0", 0, 2 * VBR_PAGE, addr);
    vbr_assert_fetch(qts, want);
    vbr_vm_free(vm);
}

/* Nothing of a batch is there any more: an empty answer would say "the end". */
static void test_unplug_batch(void)
{
    VbrVm *vm = vbr_pc(PLUGGABLE " " VBR_DL ",max-dirty=256");
    QTestState *qts = vm->qts;
    uint64_t addr;

    plug(qts, "dimm0");
    addr = dimm_address(qts, "dimm0");
    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, addr, 20, VBR_PAGE, 1);
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    unplug(qts, "dimm0", 0);
    drop(qts, "dimm0");
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 10, NULL), ==, 1);
    vbr_vm_free(vm);
}

/* How often all vCPUs were waited for since the file had @from bytes. */
static size_t waits(const char *log, gsize from, gsize *bytes)
{
    g_autofree char *text = NULL;
    const char *at;
    size_t count = 0;

    g_assert(g_file_get_contents(log, &text, bytes, NULL));
    at = text + from;
    while ((at = strstr(at, "dirty_page_list_clean"))) {
        count++;
        at++;
    }
    return count;
}

/*
 * However many such pages there are, the vCPUs are waited for once an answer.
 */
static void test_unplug_many(void)
{
    g_autofree char *log = vbr_stream_name();
    g_autofree char *args = g_strdup_printf(
        PLUGGABLE " -trace dirty_page_list_clean -D %s", log);
    VbrVm *vm = vbr_dirty_pc(args, NO_DUPS);
    QTestState *qts = vm->qts;
    gsize before, after;

    plug(qts, "dimm0");
    unplug(qts, "dimm0", 0);
    drop(qts, "dimm0");
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    waits(log, 0, &before);
    vbr_assert_text(vbr_dirty_fetch(qts, 1), "pc.ram 100000+1000 @100000");
    vbr_assert_text(vbr_dirty_fetch(qts, 1), "");
    g_assert_cmpuint(waits(log, before, &after), ==, 1);
    vbr_vm_free(vm);
    unlink(log);
}

/*
 * So many that one answer does not pass over all of them. It says so: an empty
 * one would mean that nothing is dirty.
 */
static void test_unplug_more(void)
{
    VbrVm *vm = vbr_dirty_pc("-m 64M", NO_DUPS);
    QTestState *qts = vm->qts;
    unsigned int refused = 0, answers = 0;
    bool over = false;

    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments': "
                             "{ 'qom-type': 'memory-backend-ram', "
                             "'id': 'mem-dimm0', 'size': %" PRIu64 ", "
                             "'reserve': false } }", 3 * GiB);
    drop(qts, "dimm0");
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    while (!over) {
        QDict *rsp = qtest_qmp(qts, "{ 'execute': 'dirty-page-list-fetch', "
                               "'arguments': { 'id': '" VBR_DL_ID "' } }");

        if (qdict_haskey(rsp, "error")) {
            vbr_assert_says(vbr_dirty_error(rsp), "fetch again");
            refused++;
        } else {
            over = qlist_empty(qdict_get_qlist(qdict_get_qdict(rsp, "return"),
                                               "ranges"));
            answers += !over;
            qobject_unref(rsp);
        }
    }
    /* 1 GiB is passed over for an answer. */
    g_assert_cmpuint(refused, ==, 2);
    g_assert_cmpuint(answers, ==, 1);
    vbr_vm_free(vm);
}

/*
 * Memory that no guest has yet, or any more, has its name all the same. Who has
 * fetched it before it was plugged in is not told of it again.
 */
static void test_unused_memory(void)
{
    VbrVm *vm = vbr_dirty_pc(PLUGGABLE, "max-dirty=20000");
    QTestState *qts = vm->qts;

    add_memory(qts, "dimm0");
    add_memory(qts, "dimm1");
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_text(vbr_dirty_fetch(qts, 65536),
                    "pc.ram 100000+1000 @100000, mem-dimm0 0+2000000, "
                    "mem-dimm1 0+2000000");
    add_dimm(qts, "dimm1");
    vbr_assert_fetch(qts, "");
    vbr_dirty_write(qts, dimm_address(qts, "dimm1"), 2, VBR_PAGE, 1);
    unplug(qts, "dimm1", 0);
    vbr_assert_fetch(qts, "mem-dimm1 0+2000");
    vbr_vm_free(vm);
}

void vbr_add_dirty_blocks_tests(void)
{
    qtest_add_func("virtio-balloon-rs/dirty/above-4g", test_above_4g);
    qtest_add_func("virtio-balloon-rs/dirty/device-memory",
                   test_device_memory);
    qtest_add_func("virtio-balloon-rs/dirty/rom", test_rom);
    qtest_add_func("virtio-balloon-rs/dirty/plug", test_plug);
    qtest_add_func("virtio-balloon-rs/dirty/unplug", test_unplug);
    qtest_add_func("virtio-balloon-rs/dirty/plug-again", test_plug_again);
    qtest_add_func("virtio-balloon-rs/dirty/unplug-batch", test_unplug_batch);
    qtest_add_func("virtio-balloon-rs/dirty/unplug-many", test_unplug_many);
    qtest_add_func("virtio-balloon-rs/dirty/unplug-more", test_unplug_more);
    qtest_add_func("virtio-balloon-rs/dirty/unused-memory",
                   test_unused_memory);
}
