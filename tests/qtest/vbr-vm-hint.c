/*
 * virtio-balloon-rs: what arrives of memory that was hinted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "vbr-hint.h"
#include "vbr-pair.h"
#include "vbr-probe.h"
#include "vbr-stream.h"

/* High up, where a slow migration does not come soon. */
#define AREA (96 * MiB)
#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

/*
 * Whole huge pages: if a neighbour in one is looked at on the destination, all
 * of it is there.
 */
#define WHOLE (4 * MiB)
#define WHOLE_PAGES (WHOLE / VBR_PAGE)

#define PLAIN VBR_HINT_OPTS
#define THREADED VBR_HINT_OPTS ",iothread=io"
#define IO_OBJECT "-object iothread,id=io"

#define OLD 0x61
#define NEW 0x62

typedef struct Way {
    const char *name;
    const char *props;
    const char *capability;
    const char *args;
} Way;

/* What happens to parts of memory, of NPAGES but for the first. */
enum {
    UNTOUCHED,          /* hinted, and left alone */
    NOT_HINTED,
    WRITTEN_INSIDE,     /* before the guest said STOP */
    WRITTEN_BEHIND,     /* after that */
    LATE,               /* hinted after that */
    TOUCHED,            /* in one of its pages */
    UNALIGNED,          /* one page is hinted in part */
    PARTS,
};

static uint64_t part(int i)
{
    return AREA + i * WHOLE;
}

/* Nobody wrote there, or read: more than this is too much to read here, too. */
static void assert_absent(VbrDev *d, uint64_t addr, size_t pages)
{
    g_assert_cmpuint(vbr_resident(d, addr, pages), ==, 0);
    vbr_assert_filled(d, addr + (pages - 1) * VBR_PAGE, 1, 0);
}

static void check_content(const void *data)
{
    const Way *w = data;
    g_autofree char *args = g_strdup_printf(IO_OBJECT "%s",
                                            w->args ? w->args : "");
    VbrPair p = vbr_pair(args, w->props, 0);
    VbrDev *d = &p.from->d;
    int i;

    if (w->capability) {
        vbr_pair_capability(&p, w->capability);
    }
    vbr_fill(d, part(UNTOUCHED), WHOLE_PAGES, OLD);
    for (i = 1; i < PARTS; i++) {
        vbr_fill(d, part(i), NPAGES, OLD);
    }
    vbr_pair_move(&p);
    vbr_hint_id(d, vbr_hint_wait_round(d, 0));
    vbr_hint_pages(d, part(UNTOUCHED), WHOLE_PAGES);
    vbr_hint_pages(d, part(WRITTEN_INSIDE), NPAGES);
    vbr_hint_pages(d, part(WRITTEN_BEHIND), NPAGES);
    vbr_hint_pages(d, part(TOUCHED), NPAGES);
    vbr_hint_block(d, part(UNALIGNED) + 8, BYTES - 8);
    vbr_fill(d, part(WRITTEN_INSIDE), NPAGES, NEW);
    vbr_hint_id(d, VBR_HINT_STOP);
    vbr_hint_pages(d, part(LATE), NPAGES);
    /* The bits are cleared now; what is written from here on is noticed. */
    vbr_hint_wait(d, "hint-left-out-bytes",
                  WHOLE + 4 * BYTES - VBR_PAGE);
    vbr_fill(d, part(WRITTEN_BEHIND), NPAGES, NEW);
    qtest_memset(d->qts, part(TOUCHED) + 3 * VBR_PAGE + 77, NEW, 1);
    vbr_pair_arrive(&p);

    vbr_assert_counter(d, "hint-left-out-bytes",
                       WHOLE + 2 * (BYTES - VBR_PAGE));
    d = &p.to->d;
    assert_absent(d, part(UNTOUCHED), WHOLE_PAGES);
    vbr_assert_kept(d, part(NOT_HINTED), NPAGES, OLD);
    vbr_assert_kept(d, part(WRITTEN_INSIDE), NPAGES, NEW);
    vbr_assert_kept(d, part(WRITTEN_BEHIND), NPAGES, NEW);
    vbr_assert_kept(d, part(LATE), NPAGES, OLD);
    vbr_assert_filled(d, part(TOUCHED), 3, 0);
    vbr_assert_filled(d, part(TOUCHED) + 4 * VBR_PAGE, NPAGES - 4, 0);
    g_assert_cmphex(qtest_readb(d->qts, part(TOUCHED) + 3 * VBR_PAGE), ==,
                    OLD);
    g_assert_cmphex(qtest_readb(d->qts, part(TOUCHED) + 3 * VBR_PAGE + 77),
                    ==, NEW);
    vbr_assert_kept(d, part(UNALIGNED), 1, OLD);
    vbr_assert_filled(d, part(UNALIGNED) + VBR_PAGE, NPAGES - 1, 0);

    /* The guest has its pages back, and the balloon goes on. */
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
    vbr_hint_assert_state(d, "done");
    vbr_assert_works(d);
    vbr_pair_free(&p);
}

static const Way ways[] = {
    { "main-loop", PLAIN },
    { "iothread", THREADED },
    { "multifd", PLAIN, "multifd" },
    { "xbzrle", PLAIN, "xbzrle" },
    { "auto-converge", PLAIN, "auto-converge" },
    { "postcopy-ram", PLAIN, "postcopy-ram" },
    { "legacy", PLAIN ",disable-modern=on" },
    { "no-window", PLAIN ",free-page-hint-window=0" },
    /*
     * A hint counts where the log was armed before. A synchronization from the
     * list is as good for that as a scan, also where nothing was written to:
     * not all of RAM is in one part of the log here.
     */
    { "dirty-page-list", PLAIN, NULL,
      " -object dirty-page-list,id=dl0,max-dirty=4096"
      " -global migration.x-clear-bitmap-shift=6" },
};

static int64_t ram_info(QTestState *qts, const char *name)
{
    QDict *ret = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-migrate' }");
    int64_t value = qdict_get_int(qdict_get_qdict(ret, "ram"), name);

    qobject_unref(ret);
    return value;
}

/* Neither sent, nor looked at: they are not even known to be zero. */
static void test_not_sent(void)
{
    const int64_t hinted = 4096, sent = 64, all = 128 * MiB / VBR_PAGE;
    const uint64_t end = AREA + hinted / 2 * VBR_PAGE;
    VbrPair p = vbr_pair("", PLAIN, 0);
    VbrDev *d = &p.from->d;
    int64_t normal;

    vbr_fill(d, AREA, hinted / 2 + sent, OLD);
    vbr_pair_move(&p);
    vbr_hint_id(d, vbr_hint_wait_round(d, 0));
    /* As many that are filled as are not. */
    vbr_hint_pages(d, AREA - hinted / 2 * VBR_PAGE, hinted);
    vbr_hint_wait(d, "hint-left-out-bytes", hinted * VBR_PAGE);
    vbr_pair_arrive(&p);
    normal = ram_info(d->qts, "normal");
    g_assert_cmpint(normal, >=, sent);
    /* There is the firmware of 256 KiB, and a few pages are sent twice. */
    g_assert_cmpint(normal + ram_info(d->qts, "duplicate"), <,
                    all - hinted + 512);
    g_assert_cmpint(ram_info(d->qts, "remaining"), ==, 0);
    vbr_assert_kept(&p.to->d, end, sent, OLD);
    assert_absent(&p.to->d, end - hinted * VBR_PAGE, hinted);
    vbr_pair_free(&p);
}

/* All of memory, as a guest that has none in use would. */
static void test_everything(void)
{
    VbrPair p = vbr_pair("", PLAIN, 0);
    VbrDev *d = &p.from->d;

    vbr_pair_move(&p);
    vbr_hint_id(d, vbr_hint_wait_round(d, 0));
    vbr_hint_block(d, 1 * MiB, 127 * MiB);
    vbr_hint_id(d, VBR_HINT_STOP);
    /* Even so its rings, which it wrote since, arrive. */
    vbr_pair_arrive(&p);
    assert_absent(&p.to->d, AREA, 16 * MiB / VBR_PAGE);
    vbr_pair_free(&p);
}

/*
 * A second round in one migration.  It is not confused by what comes late of
 * the first: its STOP, its id, its hints.
 */
static void test_next_round(void)
{
    VbrPair p = vbr_pair("", PLAIN, 0);
    VbrDev *d = &p.from->d;
    uint32_t first, second;

    vbr_fill(d, AREA, 4 * NPAGES, OLD);
    vbr_pair_move(&p);
    first = vbr_hint_wait_round(d, 0);
    vbr_hint_id(d, first);
    vbr_hint_pages(d, AREA, 2 * NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", 2 * BYTES);
    vbr_fill(d, AREA, NPAGES, NEW);
    second = vbr_hint_next_round(d, first);
    vbr_hint_assert_state(d, "requested");
    vbr_assert_counter(d, "hint-rounds", 2);
    vbr_assert_counter(d, "hint-left-out-bytes", BYTES);

    vbr_hint_pages(d, AREA, NPAGES);
    vbr_assert_counter(d, "late-hint-bytes", BYTES);
    vbr_hint_id(d, VBR_HINT_STOP);
    vbr_hint_assert_state(d, "requested");
    vbr_hint_id(d, first);
    vbr_assert_counter(d, "ignored-hint-ids", 1);
    vbr_hint_pages(d, AREA, NPAGES);
    vbr_assert_counter(d, "late-hint-bytes", 2 * BYTES);
    vbr_hint_assert_state(d, "requested");

    /* Those that were written are dirty again, and may be hinted again. */
    vbr_hint_id(d, second);
    vbr_hint_pages(d, AREA + BYTES, 2 * NPAGES);
    vbr_hint_pages(d, AREA, NPAGES / 2);
    vbr_hint_id(d, VBR_HINT_STOP);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES + BYTES / 2);
    vbr_pair_arrive(&p);
    d = &p.to->d;
    vbr_assert_filled(d, AREA, NPAGES / 2, 0);
    vbr_assert_filled(d, AREA + BYTES / 2, NPAGES / 2, NEW);
    vbr_assert_filled(d, AREA + BYTES, NPAGES, 0);
    /* They had been sent already when the second round began. */
    vbr_assert_filled(d, AREA + 2 * BYTES, 2 * NPAGES, OLD);
    vbr_pair_free(&p);
}

void vbr_add_hint_tests(void)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(ways); i++) {
        g_autofree char *name = g_strdup_printf(
            "virtio-balloon-rs/hint/content/%s", ways[i].name);

        qtest_add_data_func(name, &ways[i], check_content);
    }
    qtest_add_func("virtio-balloon-rs/hint/not-sent", test_not_sent);
    qtest_add_func("virtio-balloon-rs/hint/everything", test_everything);
    qtest_add_func("virtio-balloon-rs/hint/next-round", test_next_round);
}
