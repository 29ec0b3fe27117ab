/*
 * virtio-balloon-rs: saved and loaded machines
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vm.h"

#define NUM_PAGES offsetof(struct virtio_balloon_config, num_pages)
#define POISON offsetof(struct virtio_balloon_config, poison_val)
#define STOCK "virtio-balloon-pci"
#define OURS VBR_PCI

typedef struct Pair {
    const char *name;
    const char *from;
    const char *to;
    const char *machine;
    const char *props;      /* of both */
    bool no_poison;
} Pair;

static VbrVm *machine(const char *type, const char *name, const char *props,
                      bool incoming)
{
    bool ours = !strcmp(type, OURS);

    /* Stock offers no MUST_TELL_HOST, and does not know the property. */
    return vbr_pc("-M %s -m 32M -device %s," VBR_SLOT_ARG "%s%s%s%s",
                  name, type, ours ? ",must-tell-host=off" : "",
                  props ? "," : "", props ?: "",
                  incoming ? " -incoming defer" : "");
}

static void offer_stats(VbrDev *d)
{
    VbrSeg seg = { .addr = guest_alloc(d->alloc, 10), .len = 10 };

    vbr_add(d, VBR_STATS, &seg, 1);
    vbr_notify(d, VBR_STATS);
    vbr_settle(d);
}

/* A balloon with all that a stream carries: pages, target, poison, stats. */
static void use_balloon(VbrDev *d, bool poison)
{
    uint64_t base = vbr_pages(d, 64, VBR_PAGE);

    vbr_start(d, 0);
    vbr_poll_stats(d, 1);
    if (poison) {
        vbr_config_write(d, POISON, 4, 0xcafef00d);
    }
    vbr_set_balloon(d->qts, 16 * MiB);
    vbr_send_range(d, VBR_INFLATE, base, 64);
    vbr_set_actual(d, 64);
    offer_stats(d);
}

static void assert_same_balloon(VbrDev *d, bool poison)
{
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, 16 * MiB / VBR_PAGE);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES + 4), ==, 64);
    g_assert_cmphex(vbr_config_read(d, POISON), ==,
                    poison ? 0xcafef00d : UINT32_MAX);
    g_assert_cmpint(vbr_query_balloon(d->qts), ==, 32 * MiB - 64 * VBR_PAGE);
}

static void check_pair(const void *data)
{
    const Pair *p = data;
    bool poison = !p->no_poison;
    g_autofree char *file = vbr_stream_name();
    VbrVm *from, *to;

    if (!qtest_has_machine(p->machine)) {
        g_test_skip("no such machine in this QEMU");
        return;
    }
    from = machine(p->from, p->machine, p->props, false);
    to = machine(p->to, p->machine, p->props, true);
    vbr_vm_attach(from, VBR_SLOT);
    use_balloon(&from->d, poison);

    vbr_stream_save(from->qts, file);
    g_assert(vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    vbr_stream_adopt(to, from);
    assert_same_balloon(&to->d, poison);

    /* The driver goes on: a held buffer comes back, requests are served. */
    vbr_poll_stats(&to->d, 1);
    qtest_clock_step(to->qts, 5 * NANOSECONDS_PER_SECOND);
    vbr_take(&to->d, VBR_STATS, 1);
    vbr_send_range(&to->d, VBR_INFLATE, 8 * MiB, 64);
    vbr_assert_gone(&to->d, 8 * MiB, 64);
    vbr_send_range(&to->d, VBR_DEFLATE, 8 * MiB, 64);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

static const Pair pairs[] = {
    { "rs-to-rs", OURS, OURS, "pc" },
    { "stock-to-rs", STOCK, OURS, "pc" },
    { "rs-to-stock", OURS, STOCK, "pc" },
    { "stock-to-rs-reporting", STOCK, OURS, "pc", "free-page-reporting=on" },
    { "rs-to-stock-reporting", OURS, STOCK, "pc", "free-page-reporting=on" },
    { "stock-to-rs-no-poison", STOCK, OURS, "pc", "page-poison=off", true },
    { "rs-to-stock-no-poison", OURS, STOCK, "pc", "page-poison=off", true },
    { "stock-to-rs-9.2", STOCK, OURS, "pc-i440fx-9.2" },
    { "rs-to-stock-9.2", OURS, STOCK, "pc-i440fx-9.2" },
    { "stock-to-rs-5.1", STOCK, OURS, "pc-i440fx-5.1" },
    { "rs-to-stock-5.1", OURS, STOCK, "pc-i440fx-5.1" },
    /* Without the poison by what these machine types say. */
    { "stock-to-rs-5.0", STOCK, OURS, "pc-i440fx-5.0", NULL, true },
    { "rs-to-stock-5.0", OURS, STOCK, "pc-i440fx-5.0", NULL, true },
};

/* A long request that is not done when the machine is saved. */
static void test_in_request(void)
{
    g_autofree char *file = vbr_stream_name();
    VbrSeg seg = { .addr = 32 * MiB, .len = 64 * MiB };
    VbrVm *from, *to;

    from = vbr_pc("-device " VBR_PCI "," VBR_SLOT_ARG);
    to = vbr_pc("-device " VBR_PCI "," VBR_SLOT_ARG " -incoming defer");
    vbr_vm_attach(from, VBR_SLOT);
    vbr_start(&from->d, 0);
    vbr_add(&from->d, VBR_INFLATE, &seg, 1);
    vbr_notify(&from->d, VBR_INFLATE);
    vbr_stream_stop(from->qts);
    g_assert_cmpuint(vbr_used(&from->d, VBR_INFLATE), ==, 0);
    vbr_stream_save(from->qts, file);
    g_assert(vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    vbr_stream_adopt(to, from);
    qtest_qmp_assert_success(to->qts, "{ 'execute': 'cont' }");
    vbr_notify(&to->d, VBR_INFLATE);
    vbr_take(&to->d, VBR_INFLATE, 1);
    vbr_assert_works(&to->d);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

/* A guest that tells: more is in the stream then. */
static void test_told(void)
{
    g_autofree char *file = vbr_stream_name();
    VbrVm *from, *to;

    from = vbr_pc("-m 32M -device " VBR_PCI "," VBR_SLOT_ARG);
    to = vbr_pc("-m 32M -device " VBR_PCI "," VBR_SLOT_ARG
                " -incoming defer");
    vbr_vm_attach(from, VBR_SLOT);
    use_balloon(&from->d, true);
    g_assert(vbr_has(&from->d, VIRTIO_BALLOON_F_MUST_TELL_HOST));
    vbr_assert_counter(&from->d, "ballooned-bytes", 64 * VBR_PAGE);
    vbr_stream_save(from->qts, file);
    g_assert(vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    vbr_stream_adopt(to, from);
    assert_same_balloon(&to->d, true);
    vbr_assert_counter(&to->d, "ballooned-bytes", 64 * VBR_PAGE);
    vbr_assert_works(&to->d);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

/* 200 snapshots, with polling on and a buffer held at each. */
static void test_snapshots(void)
{
    g_autofree char *image = vbr_stream_name();
    VbrVm *vm;
    int i;

    vm = vbr_pc("-m 8M -device " VBR_PCI "," VBR_SLOT_ARG);
    vbr_snapshot_disk(vm->qts, image);
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    vbr_poll_stats(&vm->d, 1);
    vbr_set_balloon(vm->qts, 4 * MiB);
    vbr_set_actual(&vm->d, 0);
    for (i = 0; i < 200; i++) {
        offer_stats(&vm->d);
        vbr_set_actual(&vm->d, i);
        vbr_snapshot(vm->qts, "savevm");
        vbr_set_actual(&vm->d, 1000);
        if (i % 2) {
            /* For the guest this will never have happened. */
            qvirtio_reset(vm->d.vdev);
            vm->d.vdev->features_negotiated = true;
        }
        vbr_snapshot(vm->qts, "loadvm");
        g_assert_cmphex(vbr_config_read(&vm->d, NUM_PAGES + 4), ==, i);
        g_assert_cmphex(vbr_config_read(&vm->d, NUM_PAGES), ==,
                        4 * MiB / VBR_PAGE);
        qtest_clock_step(vm->qts, 3 * NANOSECONDS_PER_SECOND);
        vbr_take(&vm->d, VBR_STATS, 1);
    }
    vbr_vm_free(vm);
    unlink(image);
}

/* Loads a stream that was tampered with. */
static void check_refused(const uint8_t *data, size_t size, bool must_fail)
{
    g_autofree char *file = vbr_stream_name();
    g_autofree char *why = NULL;
    VbrVm *to;
    bool ok;

    g_assert(g_file_set_contents(file, (const char *)data, size, NULL));
    to = vbr_pc("-m 32M -device " VBR_PCI "," VBR_SLOT_ARG
                " -incoming defer");
    ok = vbr_stream_load(to->qts, file, &why);
    unlink(file);
    if (must_fail) {
        g_assert(!ok);
        g_assert_nonnull(why);
        g_test_message("%s", why);
    }
    /* Whatever came of it, QEMU is there and answers. */
    qtest_qmp_assert_success(to->qts, "{ 'execute': 'query-status' }");
    vbr_vm_free(to);
}

static uint8_t *saved_stream(size_t *size)
{
    g_autofree char *file = vbr_stream_name();
    VbrVm *from = vbr_pc("-m 32M -device " VBR_PCI "," VBR_SLOT_ARG);
    char *data;

    vbr_vm_attach(from, VBR_SLOT);
    use_balloon(&from->d, true);
    vbr_stream_save(from->qts, file);
    vbr_vm_free(from);
    g_assert(g_file_get_contents(file, &data, size, NULL));
    unlink(file);
    return (uint8_t *)data;
}

/* What must be refused, and is refused with a message. */
static void test_corrupted(void)
{
    size_t size, section, device, poison;
    g_autofree uint8_t *data = saved_stream(&size);

    section = vbr_stream_find(data, size, "/virtio-balloon");
    poison = vbr_stream_find(data, size, "virtio-balloon-device/page-poison");

    /* The section's version, behind its name and its instance. */
    device = section + strlen("/virtio-balloon") + 4;
    data[device + 3] ^= 0x40;
    check_refused(data, size, true);
    data[device + 3] ^= 0x40;

    /* A part of the section that nobody knows. */
    data[poison + strlen("virtio-balloon-device/")] ^= 0x20;
    check_refused(data, size, true);
    data[poison + strlen("virtio-balloon-device/")] ^= 0x20;

    /* A known part in a version that nobody knows. */
    data[poison + strlen("virtio-balloon-device/page-poison") + 3] = 0x7f;
    check_refused(data, size, true);
    data[poison + strlen("virtio-balloon-device/page-poison") + 3] = 1;

    /* The end is missing, from the middle of the section on. */
    check_refused(data, poison + 4, true);
    check_refused(data, section + 40, true);
}

/* What may be loaded or refused, but must not bring QEMU down. */
static void test_flipped(void)
{
    size_t size, start, end, at;
    g_autofree uint8_t *data = saved_stream(&size);

    start = vbr_stream_find(data, size, "/virtio-balloon") +
            strlen("/virtio-balloon");
    end = vbr_stream_find(data, size, "virtio-balloon-device/page-poison") +
          strlen("virtio-balloon-device/page-poison") + 8;
    g_assert_cmpuint(end, >, start);
    /* The balloon's own end of the section, byte by byte. */
    for (at = end - 60; at < end; at += 3) {
        data[at] ^= 0xff;
        check_refused(data, size, false);
        data[at] ^= 0xff;
    }
    for (at = start; at < end - 60; at += (end - start) / 20 + 1) {
        data[at] ^= 0xff;
        check_refused(data, size, false);
        data[at] ^= 0xff;
    }
}

/* MUST_TELL_HOST was promised; a destination without it must refuse. */
static void test_feature_missing(void)
{
    g_autofree char *file = vbr_stream_name(), *why = NULL;
    VbrVm *from, *to;

    from = vbr_pc("-m 32M -device " VBR_PCI "," VBR_SLOT_ARG);
    to = vbr_pc("-m 32M -device " VBR_PCI "," VBR_SLOT_ARG
                ",must-tell-host=off -incoming defer");
    vbr_vm_attach(from, VBR_SLOT);
    use_balloon(&from->d, true);
    vbr_stream_save(from->qts, file);
    g_assert(!vbr_stream_load(to->qts, file, &why));
    unlink(file);
    g_assert_nonnull(why);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

void vbr_add_migrate_tests(void)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(pairs); i++) {
        g_autofree char *name = g_strdup_printf("virtio-balloon-rs/migrate/%s",
                                                pairs[i].name);

        qtest_add_data_func(name, &pairs[i], check_pair);
    }
    qtest_add_func("virtio-balloon-rs/migrate/in-request", test_in_request);
    qtest_add_func("virtio-balloon-rs/migrate/told", test_told);
    qtest_add_func("virtio-balloon-rs/migrate/snapshots", test_snapshots);
    qtest_add_func("virtio-balloon-rs/migrate/corrupted", test_corrupted);
    qtest_add_func("virtio-balloon-rs/migrate/flipped", test_flipped);
    qtest_add_func("virtio-balloon-rs/migrate/feature-missing",
                   test_feature_missing);
}
