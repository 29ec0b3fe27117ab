/*
 * virtio-balloon-rs: what a stream says of free page hints
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-hint.h"
#include "vbr-probe.h"
#include "vbr-stream.h"

#define STOCK "virtio-balloon-pci"
#define RECORD "virtio-balloon-device/free-page-report"
#define IO_OBJECT "-object iothread,id=io"
#define PROPS VBR_HINT_OPTS ",iothread=io"

#define AREA (16 * MiB)
#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

/* How QEMU's C device numbers the states. */
enum { STOP, REQUESTED, STARTED, DONE };

static VbrVm *machine(const char *type, const char *more)
{
    /* QEMU's C device offers no MUST_TELL_HOST, nor hints without a thread. */
    return vbr_pc(IO_OBJECT " -m 32M -device %s," VBR_SLOT_ARG "," PROPS "%s%s",
                  type, strcmp(type, STOCK) ? ",must-tell-host=off" : "",
                  more);
}

static GByteArray *stream_of(VbrVm *vm)
{
    g_autofree char *file = vbr_stream_name();
    char *data;
    size_t size;

    vbr_stream_save(vm->qts, file);
    g_assert(g_file_get_contents(file, &data, &size, NULL));
    unlink(file);
    return g_byte_array_new_take((uint8_t *)data, size);
}

/* The id, and behind it the state, after the name and the version. */
static uint8_t *record_of(GByteArray *stream)
{
    return stream->data + vbr_stream_find(stream->data, stream->len, RECORD) +
           strlen(RECORD) + 4;
}

static uint32_t id_of(GByteArray *stream)
{
    return ldl_be_p(record_of(stream));
}

static uint32_t state_of(GByteArray *stream)
{
    return ldl_be_p(record_of(stream) + 4);
}

static VbrVm *load(const GByteArray *stream, const char *type)
{
    g_autofree char *file = vbr_stream_name();
    VbrVm *to = machine(type, " -incoming defer");
    bool ok;

    g_assert(g_file_set_contents(file, (const char *)stream->data,
                                 stream->len, NULL));
    ok = vbr_stream_load(to->qts, file, NULL);
    unlink(file);
    /* Loaded or not, it is there and answers. */
    qtest_qmp_assert_success(to->qts, "{ 'execute': 'query-status' }");
    if (!ok) {
        vbr_vm_free(to);
        return NULL;
    }
    return to;
}

static VbrVm *source(void)
{
    VbrVm *vm = machine(VBR_PCI, "");

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    return vm;
}

/*
 * DONE is part of what is saved, and so is the interrupt that tells of it: the
 * guest that arrives in the middle of a round need not wait for anything.
 */
static void test_done(void)
{
    VbrVm *from = source(), *to;
    g_autofree char *file = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("file:%s", file);
    g_autoptr(GByteArray) stream = NULL;
    uint32_t id;
    char *data;
    size_t size;

    vbr_fill(&from->d, 4 * MiB, 24 * MiB / VBR_PAGE, 0x44);
    vbr_migrate_speed(from->qts, VBR_SLOW);
    vbr_migrate(from->qts, uri);
    id = vbr_hint_wait_round(&from->d, 0);
    qvirtio_wait_config_isr(from->d.vdev, VBR_TIMEOUT_US);
    vbr_hint_id(&from->d, id);
    vbr_hint_complete(&from->d);
    g_assert(g_file_get_contents(file, &data, &size, NULL));
    unlink(file);
    stream = g_byte_array_new_take((uint8_t *)data, size);
    g_assert_cmphex(id_of(stream), ==, id);
    g_assert_cmphex(state_of(stream), ==, DONE);

    to = load(stream, VBR_PCI);
    g_assert_nonnull(to);
    vbr_stream_adopt(to, from);
    g_assert_cmphex(vbr_hint_shown(&to->d), ==, VBR_HINT_DONE);
    qvirtio_wait_config_isr(to->d.vdev, VBR_TIMEOUT_US);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

/* Another machine with the state that this one saves, changed. */
static VbrVm *changed(uint32_t id, uint32_t state)
{
    VbrVm *from = source(), *to;
    g_autoptr(GByteArray) stream = stream_of(from);

    stl_be_p(record_of(stream), id);
    stl_be_p(record_of(stream) + 4, state);
    to = load(stream, VBR_PCI);
    if (to) {
        vbr_stream_adopt(to, from);
    }
    vbr_vm_free(from);
    return to;
}

/* A guest whose round was saved as open has its pages back all the same. */
static void test_open(void)
{
    const uint32_t states[] = { REQUESTED, STARTED, DONE };
    int i;

    for (i = 0; i < ARRAY_SIZE(states); i++) {
        const uint32_t id = VBR_HINT_FIRST_ID + 77;
        VbrVm *vm = changed(id, states[i]);

        g_assert_nonnull(vm);
        g_assert_cmphex(vbr_hint_shown(&vm->d), ==, VBR_HINT_DONE);
        vbr_fill(&vm->d, 4 * MiB, 8 * MiB / VBR_PAGE, 0x45);
        vbr_migrate_speed(vm->qts, VBR_SLOW);
        vbr_migrate(vm->qts, VBR_NOWHERE);
        g_assert_cmphex(vbr_hint_wait_round(&vm->d, 0), ==, id + 1);
        vbr_hint_complete(&vm->d);
        vbr_vm_free(vm);
    }
}

/*
 * The last id there is. The first one is next, but not while the guest may
 * still answer to the one that it had before.
 */
static void check_last_id(uint32_t state)
{
    VbrVm *vm = changed(UINT32_MAX, state);
    VbrDev *d = &vm->d;

    g_assert_nonnull(vm);
    vbr_fill(d, 4 * MiB, 8 * MiB / VBR_PAGE, 0x46);
    vbr_fill(d, AREA, NPAGES, 0x46);
    if (state != STOP) {
        vbr_migrate_speed(vm->qts, VBR_FAST);
        vbr_migrate(vm->qts, VBR_NOWHERE);
        vbr_migrate_until(vm->qts, "completed");
        vbr_assert_counter(d, "hint-rounds", 0);
        qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
        vbr_hint_id(d, VBR_HINT_STOP);
    }
    vbr_migrate_speed(vm->qts, VBR_SLOW);
    vbr_migrate(vm->qts, VBR_NOWHERE);
    g_assert_cmphex(vbr_hint_wait_round(d, 0), ==, VBR_HINT_FIRST_ID);
    vbr_hint_id(d, VBR_HINT_FIRST_ID);
    vbr_hint_pages(d, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    vbr_vm_free(vm);
}

static void test_last_id(void)
{
    check_last_id(STOP);
    check_last_id(STARTED);
    check_last_id(DONE);
}

/* What no device can have saved is refused. */
static void test_refused(void)
{
    g_assert_null(changed(VBR_HINT_FIRST_ID - 1, STOP));
    g_assert_null(changed(0, STOP));
    g_assert_null(changed(VBR_HINT_FIRST_ID, DONE + 1));
    g_assert_null(changed(VBR_HINT_FIRST_ID, UINT32_MAX));
}

/* QEMU's C device and this one take over from each other. */
static void check_stock(const char *first, const char *second)
{
    VbrVm *from = machine(first, ""), *to;
    g_autoptr(GByteArray) stream = NULL;

    vbr_vm_attach(from, VBR_SLOT);
    vbr_start(&from->d, 0);
    g_assert(vbr_has(&from->d, VIRTIO_BALLOON_F_FREE_PAGE_HINT));
    stream = stream_of(from);
    to = load(stream, second);
    g_assert_nonnull(to);
    vbr_stream_adopt(to, from);
    g_assert_cmphex(vbr_hint_shown(&to->d), <=, VBR_HINT_DONE);
    /* A guest that starts over, and a migration with hints. */
    vbr_restart(&to->d, 0);
    vbr_fill(&to->d, 4 * MiB, 8 * MiB / VBR_PAGE, 0x47);
    vbr_migrate_speed(to->qts, VBR_SLOW);
    vbr_migrate(to->qts, VBR_NOWHERE);
    vbr_hint_id(&to->d, vbr_hint_wait_round(&to->d, 0));
    vbr_hint_pages(&to->d, AREA, NPAGES);
    vbr_hint_complete(&to->d);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

static void test_stock(void)
{
    check_stock(STOCK, VBR_PCI);
    check_stock(VBR_PCI, STOCK);
}

/*
 * A destination that offers no hints cannot take over a guest that uses them.
 */
static void test_missing(void)
{
    VbrVm *from = source(), *to;
    g_autofree char *file = vbr_stream_name();

    vbr_stream_save(from->qts, file);
    to = vbr_pc("-m 32M -device " VBR_PCI "," VBR_SLOT_ARG
                ",must-tell-host=off -incoming defer");
    g_assert(!vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

/* A snapshot in the middle of no migration, and going back to it. */
static void test_snapshot(void)
{
    g_autofree char *image = vbr_stream_name();
    VbrVm *vm = vbr_pc("-m 8M -device " VBR_PCI "," VBR_SLOT_ARG ","
                       VBR_HINT_OPTS);
    VbrDev *d = &vm->d;
    uint64_t page;
    int i;

    vbr_snapshot_disk(vm->qts, image);
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    page = vbr_pages(d, 1, VBR_PAGE);
    for (i = 0; i < 20; i++) {
        vbr_fill(d, page, 1, i);
        vbr_snapshot(vm->qts, "savevm");
        /* The guest goes on: whatever it was told, it is DONE. */
        g_assert_cmphex(vbr_hint_shown(d), <=, VBR_HINT_DONE);
        vbr_fill(d, page, 1, 0xff);
        vbr_snapshot(vm->qts, "loadvm");
        vbr_assert_filled(d, page, 1, i);
        g_assert_cmphex(vbr_hint_shown(d), <=, VBR_HINT_DONE);
        vbr_hint_pages(d, page, 1);
    }
    vbr_assert_counter(d, "late-hint-bytes", 20 * VBR_PAGE);
    vbr_vm_free(vm);
    unlink(image);
}

void vbr_add_hint_state_tests(void)
{
    qtest_add_func("virtio-balloon-rs/hint-state/done", test_done);
    qtest_add_func("virtio-balloon-rs/hint-state/open", test_open);
    qtest_add_func("virtio-balloon-rs/hint-state/last-id", test_last_id);
    qtest_add_func("virtio-balloon-rs/hint-state/refused", test_refused);
    qtest_add_func("virtio-balloon-rs/hint-state/missing", test_missing);
    qtest_add_func("virtio-balloon-rs/hint-state/snapshot", test_snapshot);
    if (qtest_has_device(STOCK)) {
        qtest_add_func("virtio-balloon-rs/hint-state/stock", test_stock);
    }
}
