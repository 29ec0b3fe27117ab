/*
 * virtio-balloon-rs: the features of the founding series, their bits and queues
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "vbr-cases.h"
#include "vbr-hint.h"
#include "vbr-message.h"
#include "vbr-probe.h"
#include "vbr-vm.h"

#define AREA (96 * MiB)
#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

/* All that is the balloon's own, at either place. */
#define OWN_FEATURES 0xf0000000000000ffull

typedef struct Refused {
    const char *props;          /* of device_add, in JSON */
    const char *says[2];        /* what the user has to read */
} Refused;

#define HISTORICAL "'founding-feature-bits': 'historical', "

static const Refused refusals[] = {
    { HISTORICAL "'page-range': true", { "page-poison" } },
    { HISTORICAL "'host-request': true", { "page-poison" } },
    { HISTORICAL "'balloon-chunks': true", { "page-poison" } },
    { HISTORICAL "'misc-queue': true", { "page-poison" } },
    { HISTORICAL "'page-poison': false, 'page-range': true, "
      "'free-page-hint': true", { "free-page-hint" } },
    { HISTORICAL "'page-poison': false, 'misc-queue': true, "
      "'free-page-hint': true", { "free-page-hint" } },
    { HISTORICAL "'page-poison': false, 'page-range': true, "
      "'balloon-chunks': true", { "page-range", "balloon-chunks" } },
    { HISTORICAL "'page-poison': false, 'page-range': true, "
      "'misc-queue': true", { "page-range", "misc-queue" } },
    { HISTORICAL "'page-poison': false, 'host-request': true, "
      "'balloon-chunks': true", { "host-request", "balloon-chunks" } },
    { HISTORICAL "'page-poison': false, 'host-request': true, "
      "'misc-queue': true", { "host-request", "misc-queue" } },
    { "'founding-feature-bits': 'modern'", { "founding-feature-bits" } },
    { "'free-page-reporting-advice': 'keep'",
      { "free-page-reporting-advice" } },
};

static QDict *device_add(QTestState *qts, const char *props)
{
    g_autofree char *text = g_strdup_printf(
        "{ 'driver': '" VBR_PCI "', 'id': '" VBR_ID "', 'addr': '04.0', %s }",
        props);

    return qtest_qmp(qts, "{ 'execute': 'device_add', 'arguments': %p }",
                     qobject_from_json(text, &error_abort));
}

static void test_refused(void)
{
    VbrVm *vm = vbr_pc(" ");
    QDict *rsp;
    int i, j;

    for (i = 0; i < ARRAY_SIZE(refusals); i++) {
        const Refused *r = &refusals[i];
        g_autofree char *text = NULL;

        g_test_message("%s", r->props);
        text = vbr_qmp_error(device_add(vm->qts, r->props));
        g_test_message("%s", text);
        for (j = 0; j < ARRAY_SIZE(r->says) && r->says[j]; j++) {
            g_assert_nonnull(strstr(text, r->says[j]));
        }
    }
    /* None of them left anything behind. */
    rsp = device_add(vm->qts, HISTORICAL "'page-poison': false, "
                     "'page-range': true, 'host-request': true");
    g_assert(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
    vbr_vm_attach(vm, VBR_SLOT);
    vm->d.arg = VBR_BITS_RANGE;
    vbr_founding_start(&vm->d);
    vbr_assert_counter(&vm->d, "requests", 0);
    vbr_vm_free(vm);
}

/* What a driver finds: @own features, and queues of these sizes. */
static void check_found(const char *props, uint64_t own,
                        const uint16_t *sizes)
{
    VbrVm *vm = vbr_pc_balloon(props);
    uint16_t i;

    g_test_message("%s", props);
    g_assert_cmphex(qvirtio_get_features(vm->d.vdev) & OWN_FEATURES, ==, own);
    for (i = 0; i < 3; i++) {
        vbr_assert_queue_size(&vm->d, i, 128);
    }
    for (; *sizes; i++) {
        vbr_assert_queue_size(&vm->d, i, *sizes++);
    }
    vbr_assert_queue_size(&vm->d, i, 0);
    vbr_vm_free(vm);
}

/* MUST_TELL_HOST and STATS_VQ. */
#define BASE 3ull
#define POISON (1ull << VIRTIO_BALLOON_F_PAGE_POISON)

/* Each queue that is offered comes behind those of the standard. */
static void test_private(void)
{
    static const struct {
        const char *prop;
        unsigned int feature;
        uint16_t size;
    } parts[] = {
        { "free-page-hint", VIRTIO_BALLOON_F_FREE_PAGE_HINT, 1024 },
        { "free-page-reporting", VIRTIO_BALLOON_F_REPORTING, 32 },
        { "host-request", VBR_F_HOST_REQUEST, 128 },
        { "misc-queue", VBR_F_MISC_QUEUE, 128 },
        { "page-range", VBR_F_PAGE_RANGE },
        { "balloon-chunks", VBR_F_BALLOON_CHUNKS },
    };
    unsigned int combo, i;

    for (combo = 0; combo < 1u << ARRAY_SIZE(parts); combo++) {
        g_autoptr(GString) props = g_string_new("deflate-on-oom=off");
        uint16_t sizes[ARRAY_SIZE(parts) + 1] = { }, *size = sizes;
        uint64_t own = BASE | POISON;

        for (i = 0; i < ARRAY_SIZE(parts); i++) {
            if (!(combo & (1u << i))) {
                continue;
            }
            g_string_append_printf(props, ",%s=on", parts[i].prop);
            own |= 1ull << parts[i].feature;
            if (parts[i].size) {
                *size++ = parts[i].size;
            }
        }
        check_found(props->str, own, sizes);
    }
}

/* The request queue is the one behind the statistics, as in its series. */
static void test_historical(void)
{
    static const uint16_t none[] = { 0 }, request[] = { 128, 0 };
    static const uint16_t reporting[] = { 32, 0 }, both[] = { 128, 32, 0 };
    const uint64_t report = 1ull << VIRTIO_BALLOON_F_REPORTING;

    check_found(VBR_HISTORICAL ",page-range=on", BASE | 8, none);
    check_found(VBR_HISTORICAL ",balloon-chunks=on", BASE | 8, none);
    check_found(VBR_HISTORICAL ",host-request=on", BASE | 16, request);
    check_found(VBR_HISTORICAL ",misc-queue=on", BASE | 16, request);
    check_found(VBR_HISTORICAL "," VBR_RANGE_OPTS, BASE | 24, request);
    check_found(VBR_HISTORICAL "," VBR_CHUNKS_OPTS, BASE | 24, request);
    check_found(VBR_HISTORICAL ",free-page-reporting=on,page-range=on",
                BASE | 8 | report, reporting);
    check_found(VBR_HISTORICAL ",free-page-reporting=on," VBR_RANGE_OPTS,
                BASE | 24 | report, both);
    check_found(VBR_HISTORICAL ",free-page-reporting=on," VBR_CHUNKS_OPTS,
                BASE | 24 | report, both);
}

static bool accepts(VbrDev *d, uint64_t features)
{
    uint8_t status;

    d->vdev->bus->set_features(d->vdev, features);
    d->vdev->features = features;
    status = d->vdev->bus->get_status(d->vdev);
    d->vdev->bus->set_status(d->vdev, status | VIRTIO_CONFIG_S_FEATURES_OK);
    return d->vdev->bus->get_status(d->vdev) & VIRTIO_CONFIG_S_FEATURES_OK;
}

/* A buffer cannot be in two formats. */
static void test_both(void)
{
    VbrVm *vm = vbr_pc_balloon(VBR_RANGE_OPTS "," VBR_CHUNKS_OPTS);
    VbrDev *d = &vm->d;
    uint64_t all = qvirtio_get_features(d->vdev) & ~QVIRTIO_F_BAD_FEATURE;
    uint64_t page;

    g_assert(!accepts(d, all));
    /* It may try again, with less. */
    g_assert(accepts(d, all & ~(1ull << VBR_F_PAGE_RANGE)));
    qvirtio_start_device(d->vdev);
    g_assert(!accepts(d, all));
    qvirtio_start_device(d->vdev);
    vbr_start(d, 1ull << VBR_F_BALLOON_CHUNKS);
    page = vbr_pages(d, NPAGES, VBR_PAGE);
    vbr_fill(d, page, NPAGES, 0x12);
    vbr_send_one(d, VBR_INFLATE, page, NPAGES);
    vbr_assert_gone(d, page, NPAGES);

    vbr_restart(d, 1ull << VBR_F_PAGE_RANGE);
    vbr_fill(d, page, NPAGES, 0x12);
    vbr_send_one(d, VBR_INFLATE, page, NPAGES);
    vbr_assert_gone(d, page, NPAGES);

    vbr_restart(d, 1ull << VBR_F_PAGE_RANGE | 1ull << VBR_F_BALLOON_CHUNKS);
    vbr_assert_works(d);
    vbr_assert_counter(d, "malformed-messages", 0);
    vbr_vm_free(vm);
}

static void assert_source(VbrDev *d, const char *source)
{
    g_autofree char *text = vbr_string(d, "free-page-source");

    g_assert_cmpstr(text, ==, source);
}

/* One of them is asked: hints, else host requests, else the misc queue. */
static void check_source(uint64_t refuse, const char *source)
{
    VbrVm *vm = vbr_pc_balloon("page-range=on,host-request=on,misc-queue=on,"
                               VBR_HINT_OPTS);
    static const VbrQueue queues[] = { VBR_REQUEST, VBR_MISC };
    VbrDev *d = &vm->d;
    uint64_t buffer[2];
    bool hints;
    int i, asked = -1;

    vbr_start(d, refuse);
    assert_source(d, source);
    hints = vbr_has(d, VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    for (i = 0; i < 2; i++) {
        if (vbr_has(d, i ? VBR_F_MISC_QUEUE : VBR_F_HOST_REQUEST)) {
            buffer[i] = vbr_request_post(d, queues[i]);
            asked = asked < 0 && !hints ? i : asked;
        }
    }
    vbr_hint_ballast(d);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_migrate(d->qts, VBR_NOWHERE);
    if (hints) {
        vbr_hint_id(d, vbr_hint_wait_round(d, 0));
        vbr_hint_pages(d, AREA, NPAGES);
    } else if (asked >= 0) {
        uint64_t id = vbr_request_take(d, queues[asked], buffer[asked]);

        vbr_request_answer(d, queues[asked], id, true, AREA, NPAGES);
    }
    if (hints || asked >= 0) {
        vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    }
    assert_source(d, source);
    vbr_hint_complete(d);
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(d->ring[queues[i]].vq ? vbr_used(d, queues[i]) : 0,
                         ==, 0);
    }
    vbr_assert_counter(d, "hint-rounds", hints || asked >= 0);
    vbr_vm_free(vm);
}

static void test_source(void)
{
    const uint64_t hint = 1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT;
    const uint64_t request = 1ull << VBR_F_HOST_REQUEST;
    const uint64_t misc = 1ull << VBR_F_MISC_QUEUE;

    check_source(0, "free-page-hint");
    check_source(misc, "free-page-hint");
    check_source(hint, "host-request");
    check_source(hint | misc, "host-request");
    check_source(hint | request, "misc-queue");
    check_source(hint | request | misc, "none");
}

/* A driver of 2008 has no bits above 31, and gets the balloon of 2008. */
static void test_legacy(void)
{
    VbrVm *vm = vbr_pc_balloon(VBR_RANGE_OPTS "," VBR_CHUNKS_OPTS
                               ",disable-modern=on,disable-legacy=off");
    VbrDev *d = &vm->d;

    vbr_start(d, 0);
    g_assert_cmphex(d->offered >> 32, ==, 0);
    assert_source(d, "none");
    vbr_assert_works(d);
    vbr_vm_free(vm);
}

/* The cases of all transports again, with private bits. */
static void run_private(const void *data)
{
    const VbrCase *c = data;
    VbrVm *vm = vbr_pc_balloon(c->arg == VBR_BITS_RANGE ? VBR_RANGE_OPTS
                                                        : VBR_CHUNKS_OPTS);

    vm->d.arg = VBR_BITS_PRIVATE;
    c->run(&vm->d);
    vbr_vm_free(vm);
}

static void add_private(const char *theme, const VbrCase *c)
{
    for (; c->name; c++) {
        g_autofree char *name = g_strdup_printf(
            "virtio-balloon-rs/private/%s/%s", theme, c->name);

        qtest_add_data_func(name, c, run_private);
    }
}

void vbr_add_founding_tests(void)
{
    qtest_add_func("virtio-balloon-rs/founding/refused", test_refused);
    qtest_add_func("virtio-balloon-rs/founding/private", test_private);
    qtest_add_func("virtio-balloon-rs/founding/historical", test_historical);
    qtest_add_func("virtio-balloon-rs/founding/both", test_both);
    qtest_add_func("virtio-balloon-rs/founding/source", test_source);
    qtest_add_func("virtio-balloon-rs/founding/legacy", test_legacy);
    add_private("range", vbr_range_cases);
    add_private("bad-range", vbr_bad_range_cases);
    add_private("chunks", vbr_chunk_cases);
    add_private("bad-chunks", vbr_bad_chunk_cases);
}
