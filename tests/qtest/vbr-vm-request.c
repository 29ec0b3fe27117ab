/*
 * virtio-balloon-rs: the guest is asked for unused pages, and answers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-request.h"

#define AREA VBR_AREA
#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

/* Beyond all memory; and where interrupts are sent to. */
#define BEYOND (1ull << 46)
#define APIC_MSI 0xfee00000

static void assert_source(VbrDev *d, const VbrAsk *a)
{
    g_autofree char *text = vbr_string(d, "free-page-source");

    g_assert_cmpstr(text, ==, a->q == VBR_MISC ? "misc-queue"
                                               : "host-request");
}

/* From the request to DONE, in three messages. */
static void test_round(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t id;

    assert_source(d, a);
    vbr_hint_assert_state(d, "stop");
    vbr_fill(d, AREA, 4 * NPAGES, 0x51);
    id = vbr_request_begin(d, a->q);
    vbr_hint_assert_state(d, "requested");
    vbr_assert_counter(d, "hint-rounds", 1);
    vbr_request_answer(d, a->q, id, false, AREA, NPAGES);
    vbr_hint_assert_state(d, "started");
    vbr_assert_counter(d, "hinted-bytes", BYTES);
    vbr_request_answer(d, a->q, id, false, AREA + 2 * BYTES, NPAGES);
    vbr_request_answer(d, a->q, id, true, AREA + BYTES, NPAGES);
    vbr_assert_counter(d, "hinted-bytes", 3 * BYTES);
    vbr_hint_wait(d, "hint-left-out-bytes", 3 * BYTES);
    vbr_hint_assert_state(d, "stop");
    vbr_hint_complete(d);
    vbr_hint_assert_state(d, "done");
    vbr_assert_counter(d, "hint-left-out-bytes", 3 * BYTES);
    vbr_assert_counter(d, "late-hint-bytes", 0);
    vbr_assert_counter(d, "ignored-hint-ids", 0);
    vbr_assert_malformed(d, 0, 0, "");
    /* It is no reason to take the memory away. */
    vbr_assert_kept(d, AREA, 4 * NPAGES, 0x51);
    g_assert(!vbr_is_broken(d));
    vbr_vm_free(vm);
}

static void send_bytes(VbrDev *d, VbrQueue q, const void *bytes, size_t len,
                       size_t header)
{
    g_autoptr(GByteArray) msg = vbr_bytes(bytes, len);

    vbr_send_cut(d, q, msg, &header, header ? 1 : 0);
}

/* The answers of those series, byte by byte. */
static void test_vector(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "-m 512M");
    VbrDev *d = &vm->d;
    uint64_t id = vbr_request_begin(d, a->q);

    if (a->q == VBR_MISC) {
        const uint8_t more[] = {
            0, 0, 0, 0, 1, 0, 0, 0,
            0x00, 0x40, 0x34, 0x12, 0, 0, 0, 0,
            0x00, 0x10, 0, 0, 0, 0, 0, 0,
        };
        const uint8_t complete[] = {
            0, 0, 1, 0, 1, 0, 0, 0,
            0x00, 0x50, 0x34, 0x12, 0, 0, 0, 0,
            0x00, 0x10, 0, 0, 0, 0, 0, 0,
        };

        send_bytes(d, a->q, more, sizeof(more), 0);
        vbr_hint_wait(d, "hint-left-out-bytes", VBR_PAGE);
        send_bytes(d, a->q, complete, sizeof(complete), 0);
    } else {
        const uint8_t more[] = {
            0, 0, id, id >> 8, 8, 0, 0, 0,
            0x01, 0x40, 0x34, 0x12, 0, 0, 0, 0,
        };
        const uint8_t done[] = {
            0, 1, id, id >> 8, 0x10, 0, 0, 0,
            0x00, 0x50, 0x34, 0x12, 0, 0, 0, 0,
            0x01, 0, 0, 0, 0, 0, 0, 0,
        };

        send_bytes(d, a->q, more, sizeof(more), 8);
        vbr_hint_wait(d, "hint-left-out-bytes", VBR_PAGE);
        send_bytes(d, a->q, done, sizeof(done), 8);
    }
    vbr_hint_wait(d, "hint-left-out-bytes", 2 * VBR_PAGE);
    vbr_hint_assert_state(d, "stop");
    vbr_assert_malformed(d, 0, 0, "");
    vbr_hint_cancel(d);
    vbr_vm_free(vm);
}

/* A guest with nothing unused says so, with a header alone. */
static void test_nothing(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t id = vbr_request_begin(d, a->q);

    vbr_request_answer(d, a->q, id, true, 0, 0);
    vbr_hint_assert_state(d, "stop");
    vbr_assert_counter(d, "hinted-bytes", 0);
    vbr_assert_malformed(d, 0, 0, "");
    vbr_hint_complete(d);
    vbr_assert_counter(d, "hint-left-out-bytes", 0);
    vbr_vm_free(vm);
}

/* What came and did not count, in whatever way. */
static uint64_t ignored(VbrDev *d)
{
    return vbr_counter(d, "ignored-hint-ids") +
           vbr_counter(d, "late-hint-bytes");
}

/* Nobody asked, or it is DONE: nothing of an answer counts. */
static void test_unasked(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t id, before = ignored(d);

    vbr_request_answer(d, a->q, 0, false, AREA, NPAGES);
    vbr_request_answer(d, a->q, 1, true, AREA, NPAGES);
    g_assert_cmpuint(ignored(d), >, before);
    vbr_hint_assert_state(d, "stop");

    id = vbr_request_begin(d, a->q);
    vbr_request_answer(d, a->q, id, false, AREA, NPAGES);
    vbr_request_answer(d, a->q, id, true, 0, 0);
    before = ignored(d);
    vbr_request_answer(d, a->q, id, false, AREA + BYTES, NPAGES);
    vbr_request_answer(d, a->q, id, true, AREA + 2 * BYTES, NPAGES);
    g_assert_cmpuint(ignored(d), >, before);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    vbr_assert_counter(d, "hinted-bytes", BYTES);
    vbr_assert_counter(d, "hint-left-out-bytes", BYTES);
    vbr_vm_free(vm);
}

/* Under another id nothing counts; and the right one is as good as it was. */
static void test_stale(void)
{
    const VbrAsk *a = &vbr_asks[0];
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t id = vbr_request_begin(d, a->q);
    const uint16_t wrong[] = {
        id - 1, id + 1, id ^ 0x8000, ~id, bswap16(id ^ 0x55),
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(wrong); i++) {
        g_assert_cmphex(wrong[i], !=, id & 0xffff);
        vbr_request_answer(d, a->q, wrong[i], i & 1, AREA, NPAGES);
        vbr_assert_counter(d, "ignored-hint-ids", i + 1);
        vbr_hint_assert_state(d, "requested");
    }
    vbr_assert_counter(d, "hinted-bytes", 0);
    vbr_request_answer(d, a->q, id, false, AREA + BYTES, NPAGES);
    vbr_request_answer(d, a->q, id + 1, false, AREA, NPAGES);
    vbr_request_answer(d, a->q, id, true, AREA + 2 * BYTES, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", 2 * BYTES);
    vbr_hint_complete(d);
    vbr_assert_counter(d, "hinted-bytes", 2 * BYTES);
    vbr_vm_free(vm);
}

/* A guest that never answers delays nothing. */
static void test_silent(const void *ask)
{
    const VbrAsk *a = ask;
    VbrPair p = vbr_ask_pair(a);
    VbrDev *d = &p.from->d;
    uint64_t buffer = vbr_request_post(d, a->q);

    vbr_fill(d, AREA, NPAGES, 0x52);
    vbr_pair_move(&p);
    vbr_request_take(d, a->q, buffer);
    vbr_pair_arrive(&p);
    vbr_hint_assert_state(d, "done");
    vbr_assert_counter(d, "hint-left-out-bytes", 0);
    vbr_assert_kept(&p.to->d, AREA, NPAGES, 0x52);
    vbr_pair_free(&p);
}

/* Nor does one that gives the device nothing to ask with. */
static void test_no_buffer(const void *ask)
{
    const VbrAsk *a = ask;
    VbrPair p = vbr_ask_pair(a);
    VbrDev *d = &p.from->d;

    vbr_fill(d, AREA, NPAGES, 0x53);
    vbr_pair_move(&p);
    vbr_pair_arrive(&p);
    vbr_assert_counter(d, "hint-rounds", 0);
    vbr_assert_kept(&p.to->d, AREA, NPAGES, 0x53);
    vbr_pair_free(&p);
}

static void give(VbrDev *d, VbrQueue q, const VbrSeg *segs, unsigned int n)
{
    vbr_add(d, q, segs, n);
    vbr_notify(d, q);
}

/* Too short to be asked with, or one more than is needed: given back. */
static void test_buffers(const void *ask)
{
    const VbrAsk *a = ask;
    const uint32_t size = vbr_request_size(a->q);
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t addr = guest_alloc(d->alloc, 128), buffer, id;
    VbrSeg segs[2] = { { addr, size - 1, true }, { addr + 64, size, true } };

    qtest_memset(d->qts, addr, 0xee, 128);
    give(d, a->q, segs, 1);
    vbr_take(d, a->q, 1);
    segs[0].len = 1;
    give(d, a->q, segs, 1);
    vbr_take(d, a->q, 1);
    vbr_assert_counter(d, "ignored-request-buffers", 2);
    g_assert_cmphex(qtest_readb(d->qts, addr), ==, 0xee);

    buffer = vbr_request_post(d, a->q);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, a->q), ==, 0);
    give(d, a->q, segs + 1, 1);
    vbr_take(d, a->q, 1);
    vbr_assert_counter(d, "ignored-request-buffers", 3);
    g_assert_cmphex(qtest_readb(d->qts, addr + 64), ==, 0xee);

    /* The one that was held is as good as it was. */
    vbr_fill(d, AREA, NPAGES, 0x54);
    vbr_hint_ballast(d);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_migrate(d->qts, VBR_NOWHERE);
    id = vbr_request_take(d, a->q, buffer);
    vbr_request_answer(d, a->q, id, true, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    g_assert(!vbr_is_broken(d));
    vbr_vm_free(vm);
}

/* Longer than it has to be, or in two parts: as much is written as it takes. */
static void test_long_buffer(const void *ask)
{
    const VbrAsk *a = ask;
    const uint32_t size = vbr_request_size(a->q);
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t addr = guest_alloc(d->alloc, 128);
    const VbrSeg segs[] = {
        { addr, size - 2, true }, { addr + 64, 64, true },
    };

    qtest_memset(d->qts, addr, 0xee, 128);
    give(d, a->q, segs, 2);
    vbr_hint_ballast(d);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_migrate(d->qts, VBR_NOWHERE);
    vbr_take_len(d, a->q, size);
    g_assert_cmphex(qtest_readb(d->qts, addr), ==, 0);
    g_assert_cmphex(qtest_readb(d->qts, addr + size - 2), ==, 0xee);
    g_assert_cmphex(qtest_readb(d->qts, addr + 65), ==, 0);
    g_assert_cmphex(qtest_readb(d->qts, addr + 66), ==, 0xee);
    vbr_hint_cancel(d);
    vbr_vm_free(vm);
}

/* Flag, command and lengths of an answer, with two ranges in it. */
static void check_bad(VbrDev *d, const VbrAsk *a, uint64_t id, size_t at,
                      uint8_t value, uint64_t dropped, const char *reason)
{
    const VbrRange ranges[] = {
        { AREA, BYTES }, { AREA + 2 * BYTES, BYTES },
    };
    uint64_t messages = vbr_counter(d, "malformed-messages");
    uint64_t bytes = vbr_counter(d, "ignored-message-bytes");
    GByteArray *msg = vbr_answer(a->q, id, false, ranges, 2);

    msg->data[at] = value;
    vbr_send_message(d, a->q, msg);
    vbr_assert_malformed(d, messages + 1, bytes + dropped, reason);
}

static void test_bad_header(const void *ask)
{
    static const char length[] = "data length is not that of the message";
    const VbrAsk *a = ask;
    bool misc = a->q == VBR_MISC;
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t id = vbr_request_begin(d, a->q);
    const uint64_t all = misc ? 40 : 24;
    const uint8_t zeroes[8] = { };
    int len;

    check_bad(d, a, id, 0, 1, all, "unknown command");
    check_bad(d, a, id, misc ? 2 : 1, 2, all, "unknown flag");
    check_bad(d, a, id, misc ? 2 : 1, 0x81, all, "unknown flag");
    check_bad(d, a, id, 4, misc ? 1 : 8, all, length);
    check_bad(d, a, id, 4, misc ? 3 : 24, all, length);
    check_bad(d, a, id, 7, 0x40, all, misc ? "too many chunks" : length);
    for (len = 1; len < 8; len++) {
        uint64_t messages = vbr_counter(d, "malformed-messages");
        uint64_t bytes = vbr_counter(d, "ignored-message-bytes");

        send_bytes(d, a->q, zeroes, len, 0);
        vbr_assert_malformed(d, messages + 1, bytes + len,
                             "header too short");
    }
    /* None of them was an answer. */
    vbr_hint_assert_state(d, "requested");
    vbr_assert_counter(d, "hinted-bytes", 0);
    vbr_request_answer(d, a->q, id, true, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    g_assert(!vbr_is_broken(d));
    vbr_vm_free(vm);
}

/* A good range, a bad one, and a good one that is dropped with it. */
static void check_range(VbrDev *d, const VbrAsk *a, uint64_t id,
                        uint64_t addr, uint64_t bytes, const char *reason)
{
    const VbrRange ranges[] = {
        { AREA, BYTES }, { addr, bytes }, { AREA + 2 * BYTES, BYTES },
    };
    uint64_t messages = vbr_counter(d, "malformed-messages");
    uint64_t hinted = vbr_counter(d, "hinted-bytes");
    g_autofree char *text = NULL;

    vbr_send_message(d, a->q, vbr_answer(a->q, id, false, ranges, 3));
    vbr_assert_counter(d, "malformed-messages", messages + 1);
    vbr_assert_counter(d, "hinted-bytes", hinted + BYTES);
    text = vbr_string(d, "malformed-message-reason");
    g_assert_cmpstr(text, ==, reason);
}

static void test_bad_range(const void *ask)
{
    const VbrAsk *a = ask;
    /* With the window of a display in low memory. */
    VbrVm *vm = vbr_ask_machine(a, "-device VGA,addr=05.0");
    VbrDev *d = &vm->d;
    uint64_t bar = vm->pci->bar.addr & ~(VBR_PAGE - 1);
    uint64_t id;

    vbr_fill(d, AREA, 4 * NPAGES, 0x55);
    id = vbr_request_begin(d, a->q);
    check_range(d, a, id, APIC_MSI, VBR_PAGE, "a range is not RAM");
    check_range(d, a, id, bar, VBR_PAGE, "a range is not RAM");
    check_range(d, a, id, BEYOND, VBR_PAGE, "a range is not RAM");
    check_range(d, a, id, 640 * KiB - VBR_PAGE, 2 * VBR_PAGE,
                "a range is not RAM");
    check_range(d, a, id, 128 * MiB - VBR_PAGE, 2 * VBR_PAGE,
                "a range is not RAM");
    check_range(d, a, id, AREA, BEYOND, "a range is not RAM");
    check_range(d, a, id, -VBR_PAGE, 8192 * VBR_PAGE, "a range overflows");
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_request_answer(d, a->q, id, true, AREA + BYTES, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", 2 * BYTES);
    vbr_hint_complete(d);
    vbr_assert_counter(d, "hint-left-out-bytes", 2 * BYTES);
    g_assert(!vbr_is_broken(d));
    vbr_vm_free(vm);
}

void vbr_add_request_tests(void)
{
    vbr_add_asking("round", test_round);
    vbr_add_asking("vector", test_vector);
    vbr_add_asking("nothing", test_nothing);
    vbr_add_asking("unasked", test_unasked);
    vbr_add_asking("silent", test_silent);
    vbr_add_asking("no-buffer", test_no_buffer);
    vbr_add_asking("buffers", test_buffers);
    vbr_add_asking("long-buffer", test_long_buffer);
    vbr_add_asking("bad-header", test_bad_header);
    vbr_add_asking("bad-range", test_bad_range);
    qtest_add_func("virtio-balloon-rs/request/stale", test_stale);
}
