/*
 * virtio-balloon-rs: the configuration space beside QEMU's C device's, and
 * what is announced of it when a machine is loaded
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vm.h"
#include "qobject/qdict.h"

#define STOCK "virtio-balloon-pci"
#define POISON offsetof(struct virtio_balloon_config, poison_val)
/* Twice what there is at most: what lies behind it is compared, too. */
#define WORDS (2 * sizeof(struct virtio_balloon_config) / 4)
#define ACTUAL 64

typedef struct Space {
    const char *name;
    const char *props;
    unsigned int size;
} Space;

/* Reads all, before a driver starts and after it wrote the poison. */
static void read_space(const char *type, const char *props,
                       uint32_t before[WORDS], uint32_t after[WORDS])
{
    bool ours = strcmp(type, STOCK);
    VbrVm *vm = vbr_pc("-object iothread,id=io -device %s," VBR_SLOT_ARG
                       ",%s%s", type, props,
                       ours ? ",must-tell-host=off" : "");
    unsigned int i;

    vbr_vm_attach(vm, VBR_SLOT);
    for (i = 0; i < WORDS; i++) {
        before[i] = vbr_config_read(&vm->d, 4 * i);
    }
    vbr_start(&vm->d, 0);
    vbr_config_write(&vm->d, POISON, 4, 0x12345678);
    for (i = 0; i < WORDS; i++) {
        after[i] = vbr_config_read(&vm->d, 4 * i);
    }
    vbr_vm_free(vm);
}

static void check_space(const void *data)
{
    const Space *s = data;
    uint32_t ours[2][WORDS], stock[2][WORDS];
    unsigned int i;

    read_space(VBR_PCI, s->props, ours[0], ours[1]);
    read_space(STOCK, s->props, stock[0], stock[1]);
    for (i = 0; i < WORDS; i++) {
        g_test_message("offset %u", 4 * i);
        g_assert_cmphex(ours[0][i], ==, stock[0][i]);
        g_assert_cmphex(ours[1][i], ==, stock[1][i]);
        /* What is not there reads as all ones. */
        g_assert_cmpint(ours[1][i] == UINT32_MAX, ==, 4 * i >= s->size);
    }
}

static const Space spaces[] = {
    { "poison", "page-poison=on", 16 },
    { "no-poison", "page-poison=off", 8 },
    { "hint", "free-page-hint=on,iothread=io", 16 },
    { "hint-no-poison", "free-page-hint=on,iothread=io,page-poison=off", 12 },
    { "4.0", "qemu-4-0-config-size=on", 16 },
    { "4.0-no-poison", "qemu-4-0-config-size=on,page-poison=off", 16 },
};

/*
 * What the last BALLOON_CHANGE said, -1 if there was none since the last
 * time.  QEMU holds one back for up to a second of the guest's time.
 */
static int64_t last_change(QTestState *qts)
{
    int64_t actual = -1;
    QDict *event;
    int i;

    for (i = 0; i < 3; i++) {
        qtest_clock_step(qts, 2 * NANOSECONDS_PER_SECOND);
        qtest_qmp_assert_success(qts, "{ 'execute': 'query-status' }");
    }
    while ((event = qtest_qmp_event_ref(qts, "BALLOON_CHANGE"))) {
        actual = qdict_get_int(qdict_get_qdict(event, "data"), "actual");
        qobject_unref(event);
    }
    return actual;
}

/* The snapshot has @then pages in the balloon, the machine before it @now. */
static void check_loadvm(uint32_t then, uint32_t now)
{
    g_autofree char *image = vbr_stream_name();
    VbrVm *vm = vbr_pc("-m 32M -device " VBR_PCI "," VBR_SLOT_ARG);
    int64_t actual = 32 * MiB - then * VBR_PAGE;

    vbr_snapshot_disk(vm->qts, image);
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    vbr_set_actual(&vm->d, then);
    vbr_snapshot(vm->qts, "savevm");
    vbr_set_actual(&vm->d, now);
    g_assert_cmpint(last_change(vm->qts), ==, 32 * MiB - now * VBR_PAGE);
    vbr_snapshot(vm->qts, "loadvm");
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, actual);
    g_assert_cmpint(last_change(vm->qts), ==, actual);
    vbr_vm_free(vm);
    unlink(image);
}

static void test_loadvm(void)
{
    check_loadvm(ACTUAL, ACTUAL);
    check_loadvm(ACTUAL, 2 * ACTUAL);
    check_loadvm(0, ACTUAL);
}

/* Who watches the destination hears of the balloon that came along. */
static void test_migrated(void)
{
    g_autofree char *file = vbr_stream_name();
    VbrVm *from, *to;

    from = vbr_pc("-m 32M -device " VBR_PCI "," VBR_SLOT_ARG);
    to = vbr_pc("-m 32M -device " VBR_PCI "," VBR_SLOT_ARG
                " -incoming defer");
    vbr_vm_attach(from, VBR_SLOT);
    vbr_start(&from->d, 0);
    vbr_set_actual(&from->d, ACTUAL);
    vbr_stream_save(from->qts, file);
    g_assert(vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    g_assert_cmpint(vbr_query_balloon(to->qts), ==,
                    32 * MiB - ACTUAL * VBR_PAGE);
    g_assert_cmpint(last_change(to->qts), ==,
                    32 * MiB - ACTUAL * VBR_PAGE);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

void vbr_add_config_tests(void)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(spaces) && qtest_has_device(STOCK); i++) {
        g_autofree char *name = g_strdup_printf("virtio-balloon-rs/config/%s",
                                                spaces[i].name);

        qtest_add_data_func(name, &spaces[i], check_space);
    }
    qtest_add_func("virtio-balloon-rs/event/loadvm", test_loadvm);
    qtest_add_func("virtio-balloon-rs/event/migrated", test_migrated);
}
