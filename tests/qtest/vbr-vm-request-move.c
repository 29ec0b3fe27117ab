/*
 * virtio-balloon-rs: what arrives of memory that the guest said is unused
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-request.h"
#include "vbr-stream.h"

#define AREA VBR_AREA
#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

/*
 * Whole huge pages: if a neighbour in one is looked at on the destination, all
 * of it is there.
 */
#define WHOLE (4 * MiB)
#define WHOLE_PAGES (WHOLE / VBR_PAGE)

#define OLD 0x71
#define NEW 0x72

/* What happens to parts of memory, of NPAGES but for the first. */
enum {
    UNTOUCHED,          /* named, and left alone */
    NOT_NAMED,
    WRITTEN_INSIDE,     /* before DONE */
    WRITTEN_BEHIND,     /* after it */
    LATE,               /* named after it */
    STALE,              /* named under another id */
    BEFORE_BAD,         /* named before a range that makes no sense */
    BEHIND_BAD,         /* and behind one */
    PARTS,
};

#define PART(i) (AREA + (i) * 4 * MiB)
#define BEYOND (1ull << 46)

static const char *const capabilities[] = {
    NULL, "multifd", "xbzrle", "postcopy-ram",
};

static void say(VbrDev *d, VbrQueue q, uint64_t id, int part)
{
    vbr_request_answer(d, q, id, false, PART(part), NPAGES);
}

static void check_content(const VbrAsk *a, const char *capability)
{
    const VbrRange bad[] = {
        { PART(BEFORE_BAD), BYTES }, { BEYOND, VBR_PAGE },
        { PART(BEHIND_BAD), BYTES },
    };
    VbrPair p = vbr_ask_pair(a);
    VbrDev *d = &p.from->d;
    uint64_t buffer = vbr_request_post(d, a->q), id;
    int i;

    if (capability) {
        vbr_pair_capability(&p, capability);
    }
    vbr_fill(d, PART(UNTOUCHED), WHOLE_PAGES, OLD);
    for (i = 1; i < PARTS; i++) {
        vbr_fill(d, PART(i), NPAGES, OLD);
    }
    vbr_pair_move(&p);
    id = vbr_request_take(d, a->q, buffer);
    vbr_request_answer(d, a->q, id, false, PART(UNTOUCHED), WHOLE_PAGES);
    say(d, a->q, id, WRITTEN_INSIDE);
    say(d, a->q, id, WRITTEN_BEHIND);
    if (a->q == VBR_REQUEST) {
        say(d, a->q, id - 1, STALE);
        say(d, a->q, id + 1, STALE);
    }
    vbr_send_message(d, a->q, vbr_answer(a->q, id, false, bad, 3));
    vbr_fill(d, PART(WRITTEN_INSIDE), NPAGES, NEW);
    vbr_request_answer(d, a->q, id, true, 0, 0);
    say(d, a->q, id, LATE);
    /* The bits are cleared now; what is written from here on is noticed. */
    vbr_hint_wait(d, "hint-left-out-bytes", WHOLE + 3 * BYTES);
    vbr_fill(d, PART(WRITTEN_BEHIND), NPAGES, NEW);
    vbr_pair_arrive(&p);

    vbr_assert_counter(d, "hint-left-out-bytes", WHOLE + BYTES);
    vbr_hint_assert_state(d, "done");
    d = &p.to->d;
    g_assert_cmpuint(vbr_resident(d, PART(UNTOUCHED), WHOLE_PAGES), ==, 0);
    vbr_assert_filled(d, PART(UNTOUCHED), 1, 0);
    vbr_assert_kept(d, PART(NOT_NAMED), NPAGES, OLD);
    vbr_assert_kept(d, PART(WRITTEN_INSIDE), NPAGES, NEW);
    vbr_assert_kept(d, PART(WRITTEN_BEHIND), NPAGES, NEW);
    vbr_assert_kept(d, PART(LATE), NPAGES, OLD);
    vbr_assert_kept(d, PART(STALE), NPAGES, OLD);
    vbr_assert_filled(d, PART(BEFORE_BAD), NPAGES, 0);
    vbr_assert_kept(d, PART(BEHIND_BAD), NPAGES, OLD);
    vbr_assert_works(d);
    vbr_pair_free(&p);
}

static void test_content(const void *ask)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(capabilities); i++) {
        g_test_message("%s", capabilities[i] ?: "plain");
        check_content(ask, capabilities[i]);
    }
}

/* Frees where it came from, and goes on to yet another machine. */
static void onward(VbrPair *p, const VbrAsk *a)
{
    vbr_vm_free(p->from);
    unlink(p->uri + strlen("unix:"));
    p->from = p->to;
    p->to = vbr_pc("-device " VBR_PCI "," VBR_SLOT_ARG ",%s -incoming defer",
                   a->props);
}

/*
 * In the middle of an answer: where the guest arrives the rest of it counts for
 * nothing, and it is asked anew when it moves on.
 */
static void check_in_flight(const VbrAsk *a, bool answering)
{
    VbrPair p = vbr_ask_pair(a);
    VbrDev *d = &p.from->d;
    uint64_t buffer = vbr_request_post(d, a->q), first, second;

    vbr_fill(d, AREA, 4 * NPAGES, OLD);
    vbr_pair_move(&p);
    first = vbr_request_take(d, a->q, buffer);
    if (answering) {
        vbr_request_answer(d, a->q, first, false, AREA, NPAGES);
        vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    }
    vbr_pair_arrive(&p);
    d = &p.to->d;
    vbr_request_answer(d, a->q, first, false, AREA + BYTES, NPAGES);
    vbr_request_answer(d, a->q, first, true, AREA + 2 * BYTES, NPAGES);
    vbr_assert_counter(d, "hinted-bytes", 0);
    vbr_assert_malformed(d, 0, 0, "");
    vbr_assert_filled(d, AREA, NPAGES, answering ? 0 : OLD);
    vbr_assert_kept(d, AREA + BYTES, 3 * NPAGES, OLD);
    buffer = vbr_request_post(d, a->q);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, a->q), ==, 0);

    onward(&p, a);
    d = &p.from->d;
    vbr_pair_move(&p);
    second = vbr_request_take(d, a->q, buffer);
    if (a->q == VBR_REQUEST) {
        g_assert_cmphex(second & 0xffff, !=, first & 0xffff);
        /* Late by a whole machine. */
        vbr_request_answer(d, a->q, first, false, AREA + BYTES, NPAGES);
        vbr_assert_counter(d, "hinted-bytes", 0);
    }
    vbr_request_answer(d, a->q, second, true, AREA + 2 * BYTES, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_pair_arrive(&p);
    d = &p.to->d;
    vbr_assert_filled(d, AREA + BYTES, NPAGES, OLD);
    vbr_assert_filled(d, AREA + 2 * BYTES, NPAGES, 0);
    vbr_assert_filled(d, AREA + 3 * BYTES, NPAGES, OLD);
    vbr_assert_works(d);
    vbr_pair_free(&p);
}

static void test_in_flight(const void *ask)
{
    check_in_flight(ask, false);
    check_in_flight(ask, true);
}

/* A buffer that was not needed is held where the machine arrives. */
static void test_held(const void *ask)
{
    const VbrAsk *a = ask;
    VbrPair p = vbr_ask_pair(a);
    VbrDev *d = &p.from->d;
    uint64_t buffer = vbr_request_post(d, a->q), id;

    vbr_fill(d, AREA, NPAGES, OLD);
    vbr_settle(d);
    /* A guest that is stopped is not asked. */
    qtest_qmp_assert_success(p.from->qts, "{ 'execute': 'stop' }");
    vbr_pair_move(&p);
    vbr_pair_arrive(&p);
    vbr_assert_counter(d, "hint-rounds", 0);
    d = &p.to->d;
    qtest_qmp_assert_success(p.to->qts, "{ 'execute': 'cont' }");
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, a->q), ==, 0);

    onward(&p, a);
    d = &p.from->d;
    vbr_pair_move(&p);
    id = vbr_request_take(d, a->q, buffer);
    vbr_request_answer(d, a->q, id, true, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_pair_arrive(&p);
    vbr_assert_filled(&p.to->d, AREA, NPAGES, 0);
    vbr_assert_counter(&p.to->d, "ignored-request-buffers", 0);
    vbr_pair_free(&p);
}

/* What the guest said while it was moved is read where it arrives. */
static void test_in_ring(const void *ask)
{
    const VbrAsk *a = ask;
    VbrPair p = vbr_ask_pair(a);
    VbrDev *d = &p.from->d;
    uint64_t buffer = vbr_request_post(d, a->q), id;
    const VbrRange range = { AREA, BYTES };
    g_autoptr(GByteArray) msg = NULL;
    VbrSeg seg;
    int i;

    vbr_fill(d, AREA, NPAGES, OLD);
    vbr_pair_move(&p);
    id = vbr_request_take(d, a->q, buffer);
    qtest_qmp_assert_success(p.from->qts, "{ 'execute': 'stop' }");
    msg = vbr_answer(a->q, id, false, &range, 1);
    seg = vbr_message(d, msg);
    for (i = 0; i < 50; i++) {
        vbr_add(d, a->q, &seg, 1);
    }
    vbr_notify(d, a->q);
    vbr_pair_arrive(&p);
    d = &p.to->d;
    qtest_qmp_assert_success(p.to->qts, "{ 'execute': 'cont' }");
    vbr_take(d, a->q, 50);
    vbr_assert_counter(d, "hinted-bytes", 0);
    vbr_assert_malformed(d, 0, 0, "");
    vbr_assert_kept(d, AREA, NPAGES, OLD);
    vbr_pair_free(&p);
}

/* The destination goes away: the guest, which stays, can be moved again. */
static void test_failed(const void *ask)
{
    const VbrAsk *a = ask;
    VbrPair p = vbr_ask_pair(a);
    VbrDev *d = &p.from->d;
    uint64_t buffer = vbr_request_post(d, a->q), id;

    vbr_fill(d, AREA, 2 * NPAGES, OLD);
    vbr_pair_move(&p);
    id = vbr_request_take(d, a->q, buffer);
    vbr_request_answer(d, a->q, id, false, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_vm_free(p.to);
    vbr_migrate_until(p.from->qts, "failed");
    vbr_hint_assert_state(d, "done");
    vbr_request_answer(d, a->q, id, true, AREA + BYTES, NPAGES);
    vbr_assert_counter(d, "hinted-bytes", BYTES);
    unlink(p.uri + strlen("unix:"));

    /* The next one takes all that is not named again. */
    p.to = vbr_pc("-device " VBR_PCI "," VBR_SLOT_ARG ",%s -incoming defer",
                  a->props);
    buffer = vbr_request_post(d, a->q);
    vbr_pair_move(&p);
    id = vbr_request_take(d, a->q, buffer);
    vbr_request_answer(d, a->q, id, true, AREA + BYTES, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_pair_arrive(&p);
    vbr_assert_filled(&p.to->d, AREA, NPAGES, OLD);
    vbr_assert_filled(&p.to->d, AREA + BYTES, NPAGES, 0);
    vbr_pair_free(&p);
}

void vbr_add_request_move_tests(void)
{
    vbr_add_asking("content", test_content);
    vbr_add_asking("moved-in-flight", test_in_flight);
    vbr_add_asking("moved-held", test_held);
    vbr_add_asking("in-ring", test_in_ring);
    vbr_add_asking("failed", test_failed);
}
