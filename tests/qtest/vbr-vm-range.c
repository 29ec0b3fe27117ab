/*
 * virtio-balloon-rs: ranges and chunks on a PC: vectors, holes, and size
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-message.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vm.h"

/* Memory of this size takes none from the host until it is used. */
#define SPARSE(size) "-M pc,memory-backend=ram -m " size \
    " -object memory-backend-ram,id=ram,reserve=off,size=" size
#define BALLOON(opts) " -device " VBR_PCI "," VBR_SLOT_ARG "," opts

/* Behind the last page of low memory is the window of a display. */
#define DISPLAY " -device VGA,addr=05.0"
#define HOLE (640 * KiB)
#define HOLE_END (1 * MiB)

static VbrVm *machine(const char *args)
{
    VbrVm *vm = vbr_pc("%s", args);

    vbr_vm_attach(vm, VBR_SLOT);
    if (strstr(args, "historical")) {
        vm->d.bits = strstr(args, "page-range") || strstr(args, "host-request")
                     ? VBR_BITS_RANGE : VBR_BITS_CHUNKS;
    }
    vbr_start(&vm->d, 0);
    return vm;
}

static VbrVm *words_machine(void)
{
    return machine("-m 512M" BALLOON("page-range=on"));
}

/* The pages of an area that is filled before, with one on either side. */
static void check_bytes(VbrVm *vm, const uint8_t *bytes, size_t len,
                        size_t header, uint64_t addr, size_t pages)
{
    VbrDev *d = &vm->d;
    g_autoptr(GByteArray) msg = vbr_bytes(bytes, len);
    int parts;

    for (parts = 1; parts <= 2; parts++) {
        uint64_t inflated = vbr_counter(d, "inflated-bytes");

        vbr_fill(d, addr - VBR_PAGE, pages + 2, 0x1f);
        vbr_send_cut(d, VBR_INFLATE, msg, &header, parts - 1);
        vbr_assert_kept(d, addr - VBR_PAGE, 1, 0x1f);
        vbr_assert_kept(d, addr + pages * VBR_PAGE, 1, 0x1f);
        g_assert_cmpuint(vbr_resident(d, addr, pages), ==, 0);
        vbr_assert_filled(d, addr, 1, 0);
        vbr_assert_filled(d, addr + (pages - 1) * VBR_PAGE, 1, 0);
        vbr_assert_counter(d, "inflated-bytes", inflated + pages * VBR_PAGE);
        vbr_send_cut(d, VBR_DEFLATE, msg, &header, parts - 1);
        vbr_assert_counter(d, "ballooned-bytes", 0);
    }
    vbr_assert_malformed(d, 0, 0, "");
}

#define CHECK_BYTES(vm, header, addr, pages, ...) do { \
    const uint8_t bytes_[] = { __VA_ARGS__ }; \
    check_bytes(vm, bytes_, sizeof(bytes_), header, addr, pages); \
} while (0)

/* As the drivers of those series send them, byte by byte. */
static void test_vectors(void)
{
    VbrVm *vm = words_machine();

    CHECK_BYTES(vm, 8, 0x12345000, 1,
                0, 0, 0, 0, 8, 0, 0, 0,
                0x01, 0x50, 0x34, 0x12, 0, 0, 0, 0);
    CHECK_BYTES(vm, 8, 0x12344000, 4095,
                0, 0, 0, 0, 8, 0, 0, 0,
                0xff, 0x4f, 0x34, 0x12, 0, 0, 0, 0);
    CHECK_BYTES(vm, 8, 0x12344000, 8192,
                0, 0, 0, 0, 16, 0, 0, 0,
                0x00, 0x40, 0x34, 0x12, 0, 0, 0, 0,
                0x00, 0x20, 0, 0, 0, 0, 0, 0);
    /* The one that the short form cannot say. */
    CHECK_BYTES(vm, 8, 0x12344000, 4096,
                0, 0, 0, 0, 16, 0, 0, 0,
                0x00, 0x40, 0x34, 0x12, 0, 0, 0, 0,
                0x00, 0x10, 0, 0, 0, 0, 0, 0);
    vbr_vm_free(vm);

    vm = machine("-m 512M" BALLOON("balloon-chunks=on"));
    CHECK_BYTES(vm, 4, 0x12345000, 1,
                1, 0, 0, 0,
                0x00, 0x50, 0x34, 0x12, 0, 0, 0, 0,
                0x00, 0x10, 0, 0, 0, 0, 0, 0);
    CHECK_BYTES(vm, 4, 0x12344000, 8192,
                1, 0, 0, 0,
                0x00, 0x40, 0x34, 0x12, 0, 0, 0, 0,
                0x00, 0x00, 0x00, 0x02, 0, 0, 0, 0);
    vbr_vm_free(vm);
}

/* What is RAM only in part is nothing, on both queues. */
static void check_not_ram(VbrVm *vm, uint64_t from, uint64_t to,
                          uint64_t page)
{
    VbrDev *d = &vm->d;
    const VbrRange range = { from, to - from };
    uint64_t messages = vbr_counter(d, "malformed-messages");
    g_autofree char *reason = NULL;

    vbr_fill(d, page, 2, 0x2e);
    vbr_send_message(d, VBR_INFLATE, vbr_ranges(d, &range, 1));
    vbr_send_message(d, VBR_DEFLATE, vbr_ranges(d, &range, 1));
    vbr_assert_kept(d, page, 2, 0x2e);
    vbr_assert_counter(d, "malformed-messages", messages + 2);
    reason = vbr_string(d, "malformed-message-reason");
    g_assert_cmpstr(reason, ==, "a range is not RAM");
}

/* And what ends just there is as good as any. */
static void check_ram(VbrVm *vm, uint64_t from)
{
    VbrDev *d = &vm->d;
    uint64_t messages = vbr_counter(d, "malformed-messages");

    vbr_fill(d, from, 2, 0x2e);
    vbr_send_one(d, VBR_INFLATE, from, 2);
    vbr_assert_gone(d, from, 2);
    vbr_send_one(d, VBR_DEFLATE, from, 2);
    vbr_assert_counter(d, "malformed-messages", messages);
}

static void check_holes(const char *opts)
{
    g_autofree char *args = g_strdup_printf(SPARSE("5G") DISPLAY BALLOON("%s"),
                                             opts);
    const uint64_t two = 2 * VBR_PAGE, low = 3 * GiB, high = 4 * GiB;
    VbrVm *vm = machine(args);
    uint64_t bar = vm->pci->bar.addr & ~(VBR_PAGE - 1);

    check_not_ram(vm, HOLE - two, HOLE + two, HOLE - two);
    check_not_ram(vm, HOLE - two, HOLE_END + two, HOLE - two);
    check_not_ram(vm, HOLE, HOLE + VBR_PAGE, HOLE - two);
    check_ram(vm, HOLE - two);
    /* The PCI hole is a GiB here, with RAM on both sides. */
    check_not_ram(vm, low - two, low + VBR_PAGE, low - two);
    check_not_ram(vm, low - two, high + two, low - two);
    check_not_ram(vm, high - VBR_PAGE, high + two, high);
    check_not_ram(vm, low, high, low - two);
    check_not_ram(vm, bar, bar + VBR_PAGE, low - two);
    check_ram(vm, low - two);
    check_ram(vm, high);
    /* The end of it all. */
    check_not_ram(vm, 6 * GiB - two, 6 * GiB + VBR_PAGE, 6 * GiB - two);
    check_not_ram(vm, 1 * MiB, 6 * GiB, 6 * GiB - two);
    check_not_ram(vm, 6 * GiB, 6 * GiB + VBR_PAGE, 6 * GiB - two);
    check_ram(vm, 6 * GiB - two);
    vbr_assert_counter(&vm->d, "discard-errors", 0);
    vbr_vm_free(vm);
}

static void test_holes(void)
{
    check_holes("page-range=on");
    check_holes("balloon-chunks=on");
}

/*
 * All of a guest's memory in one range: done slice by slice, with turns of the
 * main loop in between.
 */
static void check_big(const char *opts)
{
    g_autofree char *args = g_strdup_printf(SPARSE("12G") BALLOON("%s"), opts);
    const VbrRange range = { 4 * GiB, 8 * GiB };
    VbrVm *vm = machine(args);
    VbrDev *d = &vm->d;
    int i;

    for (i = 0; i < 8; i++) {
        vbr_fill(d, 4 * GiB + i * (1 * GiB + 77 * VBR_PAGE), 2, 0x3c);
    }
    vbr_fill(d, 12 * GiB, 1, 0x3c);
    vbr_send_message(d, VBR_INFLATE, vbr_ranges(d, &range, 1));
    for (i = 0; i < 8; i++) {
        vbr_assert_gone(d, 4 * GiB + i * (1 * GiB + 77 * VBR_PAGE), 2);
    }
    vbr_assert_kept(d, 12 * GiB, 1, 0x3c);
    vbr_assert_counter(d, "ballooned-bytes", 8 * GiB);
    vbr_assert_counter(d, "inflated-bytes", 8 * GiB);
    vbr_assert_counter(d, "ranges", 1);
    /* A page may take the third of a microsecond, a slice a millisecond. */
    g_assert_cmpuint(vbr_counter(d, "discards"), >=, 100);
    vbr_send_message(d, VBR_DEFLATE, vbr_ranges(d, &range, 1));
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_vm_free(vm);
}

static void test_big(void)
{
    check_big("page-range=on");
    check_big("balloon-chunks=on");
}

/* Messages of up to nearly 1 GiB, all in the same 8 MiB of guest memory. */
#define PART (8 * MiB)
#define NPARTS 127
#define STORE (64 * MiB)
#define AREA (256 * MiB)
#define NPAGES 128

static void offer_long(VbrDev *d, VbrQueue q, unsigned int parts)
{
    uint64_t words[8192];
    VbrSeg segs[NPARTS + 1];
    size_t i;

    for (i = 0; i < ARRAY_SIZE(words); i++) {
        words[i] = cpu_to_le64((AREA + 2 * (i % NPAGES) * VBR_PAGE) | 1);
    }
    for (i = 0; i < PART; i += sizeof(words)) {
        qtest_bufwrite(d->qts, STORE + i, words, sizeof(words));
    }
    segs[0] = (VbrSeg) { .addr = STORE - VBR_PAGE, .len = 8 };
    vbr_w32(d, segs[0].addr, 0);
    vbr_w32(d, segs[0].addr + 4, parts * PART);
    for (i = 1; i <= parts; i++) {
        segs[i] = (VbrSeg) { .addr = STORE, .len = PART };
    }
    vbr_add(d, q, segs, parts + 1);
    vbr_notify(d, q);
}

/* No clock is asked: QMP answers, and answers again, while it is not done. */
static void check_answers(VbrQueue q)
{
    VbrVm *vm = words_machine();
    VbrDev *d = &vm->d;
    VbrWait wait = { "another batch" };
    uint64_t batches;
    int i;

    vbr_fill(d, AREA, 2 * NPAGES, 0x4d);
    offer_long(d, q, NPARTS);
    for (i = 0; i < 20; i++) {
        g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 512 * MiB);
        g_assert_cmpuint(vbr_used(d, q), ==, 0);
    }
    batches = vbr_counter(d, "batches");
    do {
        vbr_wait(&wait);
    } while (vbr_counter(d, "batches") == batches);
    if (q == VBR_INFLATE) {
        vbr_assert_gone(d, AREA, 1);
    }
    vbr_assert_kept(d, AREA + VBR_PAGE, 1, 0x4d);

    /* A reset in the middle of it is the end of it. */
    vbr_restart(d, 0);
    vbr_settle(d);
    vbr_fill(d, AREA, 2 * NPAGES, 0x4e);
    vbr_settle(d);
    vbr_assert_kept(d, AREA, 2 * NPAGES, 0x4e);
    vbr_send_one(d, VBR_INFLATE, AREA, 16);
    vbr_assert_gone(d, AREA, 16);
    vbr_assert_malformed(d, 0, 0, "");
    vbr_vm_free(vm);
}

static void test_answers(void)
{
    check_answers(VBR_INFLATE);
    check_answers(VBR_DEFLATE);
}

/* The queue alone is reset in the middle of a message. */
static void test_queue_reset(void)
{
    VbrVm *vm = words_machine();
    VbrDev *d = &vm->d;

    if (!vbr_has(d, VIRTIO_F_RING_RESET)) {
        g_test_skip("this QEMU resets no single queues");
        vbr_vm_free(vm);
        return;
    }
    offer_long(d, VBR_INFLATE, NPARTS);
    vbr_vm_reset_queue(vm, VBR_INFLATE);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_INFLATE), ==, 0);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_fill(d, AREA, 2 * NPAGES, 0x4f);
    vbr_settle(d);
    vbr_assert_kept(d, AREA, 2 * NPAGES, 0x4f);
    vbr_send_one(d, VBR_INFLATE, AREA, 16);
    vbr_assert_gone(d, AREA, 16);
    vbr_assert_malformed(d, 0, 0, "");
    vbr_vm_free(vm);
}

/* Saved in the middle of a message, which is read again where it is loaded. */
static void test_saved(void)
{
    g_autofree char *file = vbr_stream_name();
    VbrVm *from = words_machine();
    VbrVm *to = vbr_pc("-m 512M -incoming defer" BALLOON("page-range=on"));
    VbrDev *d = &from->d;
    unsigned int i;

    vbr_fill(d, AREA, 2 * NPAGES, 0x5e);
    offer_long(d, VBR_INFLATE, 16);
    vbr_stream_stop(from->qts);
    g_assert_cmpuint(vbr_used(d, VBR_INFLATE), ==, 0);
    vbr_stream_save(from->qts, file);
    g_assert(vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    vbr_stream_adopt(to, from);
    d = &to->d;
    qtest_qmp_assert_success(to->qts, "{ 'execute': 'cont' }");
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, 1);
    for (i = 0; i < NPAGES; i++) {
        vbr_assert_gone(d, AREA + 2 * i * VBR_PAGE, 1);
        vbr_assert_filled(d, AREA + (2 * i + 1) * VBR_PAGE, 1, 0x5e);
    }
    vbr_assert_counter(d, "ballooned-bytes", NPAGES * VBR_PAGE);
    vbr_assert_malformed(d, 0, 0, "");
    vbr_vm_free(from);
    vbr_vm_free(to);
}

/*
 * A destination that cannot read the messages must not take the guest. It says
 * why on its standard error.
 */
static void check_missing(const char *with, const char *without,
                          const char *says)
{
    g_autofree char *args = g_strdup_printf("-m 32M" BALLOON("%s"), with);
    g_autofree char *other = g_strdup_printf("-m 32M" BALLOON("%s"), without);
    g_autofree char *file = vbr_stream_name(), *log = vbr_stream_name();
    g_autofree char *text = NULL;
    VbrVm *from = machine(args), *to;

    g_test_message("from %s to %s", with, without);
    vbr_stream_save(from->qts, file);
    to = vbr_pc("%s -incoming defer 2>%s", other, log);
    g_assert(!vbr_stream_load(to->qts, file, NULL));
    vbr_vm_free(from);
    vbr_vm_free(to);
    g_assert(g_file_get_contents(log, &text, NULL, NULL));
    g_test_message("%s", text);
    g_assert_nonnull(strstr(text, says));
    unlink(file);
    unlink(log);
}

static void test_missing(void)
{
    check_missing("page-range=on", "page-range=off", "page-range");
    check_missing("host-request=on", "host-request=off", "host-request");
    check_missing("balloon-chunks=on", "balloon-chunks=off",
                  "balloon-chunks");
    check_missing("misc-queue=on", "misc-queue=off", "misc-queue");
    check_missing("page-range=on", "balloon-chunks=on", "page-range");
    check_missing("page-range=on", "page-range=on," VBR_HISTORICAL,
                  "unsupported");
    check_missing("page-range=on," VBR_HISTORICAL, "page-range=on",
                  "unsupported");
}

/* The same bits, for something else. */
static void test_mistaken(void)
{
    check_missing("page-range=on," VBR_HISTORICAL,
                  "balloon-chunks=on," VBR_HISTORICAL, "page-range");
    check_missing("balloon-chunks=on," VBR_HISTORICAL,
                  "page-range=on," VBR_HISTORICAL, "balloon-chunks");
    check_missing("host-request=on," VBR_HISTORICAL,
                  "misc-queue=on," VBR_HISTORICAL, "host-request");
    check_missing("page-range=on," VBR_HISTORICAL,
                  "page-poison=off,free-page-hint=on", "page-range");
    check_missing("page-poison=off,free-page-hint=on",
                  "page-range=on," VBR_HISTORICAL, "founding protocols");
}

void vbr_add_range_tests(void)
{
    qtest_add_func("virtio-balloon-rs/range/vectors", test_vectors);
    qtest_add_func("virtio-balloon-rs/range/holes", test_holes);
    qtest_add_func("virtio-balloon-rs/range/big", test_big);
    qtest_add_func("virtio-balloon-rs/range/answers", test_answers);
    qtest_add_func("virtio-balloon-rs/range/queue-reset", test_queue_reset);
    qtest_add_func("virtio-balloon-rs/range/saved", test_saved);
    qtest_add_func("virtio-balloon-rs/range/missing", test_missing);
    qtest_add_func("virtio-balloon-rs/range/mistaken", test_mistaken);
}
