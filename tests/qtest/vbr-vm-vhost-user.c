/*
 * virtio-balloon-rs: memory that a vhost-user backend may have pinned
 *
 * The backend here is real and does nothing: that it is there is all that QEMU
 * knows of one that pins memory, too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "vbr-backend.h"
#include "vbr-hugetlb.h"
#include "vbr-probe.h"
#include "vbr-vmem.h"

#define HUGE (2 * MiB)
#define DIMM_SIZE (8 * HUGE)
#define PARTS (HUGE / VBR_PAGE)
#define NSMALL 16
#define BYTE 0x6b

#define USER_SLOT 6
#define DEVICE "vhost-user-rng-pci"

/* RAM in small pages, and a DIMM in huge ones. */
#define MACHINE "-M pc,memory-backend=ram -m 128M,slots=2,maxmem=1G " \
    "-object memory-backend-memfd,id=ram,size=128M " \
    "-object memory-backend-memfd,id=back,size=16M,hugetlb=on,hugetlbsize=2M " \
    "-device pc-dimm,id=dimm,memdev=back " \
    "-device " VBR_PCI "," VBR_SLOT_ARG ",inflate-hold-ms=0," \
    "free-page-reporting=on,discard-beside-vhost-user=%s " \
    "-chardev socket,id=user,path=%s "

/* How a backend takes part in the machine. */
typedef struct Backend {
    const char *name;
    /* What the machine has besides. */
    const char *args;
    const char *driver;
    const char *props;
} Backend;

static const Backend device = {
    "device", "", DEVICE, "{'addr': '06.0', 'chardev': 'user'}",
};
static const Backend net = {
    "net", "-netdev vhost-user,id=net,chardev=user", "virtio-net-pci",
    "{'addr': '06.0', 'netdev': 'net', 'romfile': ''}",
};

/* What is given back at once while it is there. */
typedef struct Case {
    const char *value;
    const Backend *backend;
    const char *inhibited;
    bool small;
    bool huge;
} Case;

static const Case cases[] = {
    { "auto", &device, "a vhost-user device is there, for pages larger than "
      "the host's", .small = true },
    { "auto", &net, "a vhost-user device is there, for pages larger than the "
      "host's", .small = true },
    { "off", &device, "a vhost-user device is there" },
    { "off", &net, "a vhost-user device is there" },
    { "on", &device, "no", .small = true, .huge = true },
    { "on", &net, "no", .small = true, .huge = true },
};

typedef struct Memory {
    VbrBackend *backend;
    VbrVm *vm;
    uint64_t small;
    uint64_t huge;
} Memory;

static bool begin(Memory *m, const Case *c)
{
    if (!qtest_has_device(DEVICE)) {
        g_test_skip("this QEMU has no " DEVICE);
        return false;
    }
    if (!vbr_hugetlb_reserve(HUGE, DIMM_SIZE / HUGE)) {
        return false;
    }
    m->backend = vbr_backend();
    m->vm = vbr_pc(MACHINE "%s", c->value, vbr_backend_path(m->backend),
                   c->backend->args);
    vbr_vm_attach(m->vm, VBR_SLOT);
    vbr_start(&m->vm->d, 0);
    m->small = vbr_pages(&m->vm->d, NSMALL, VBR_PAGE);
    m->huge = vbr_memory_address(m->vm, "dimm", "addr");
    return true;
}

static void end(Memory *m)
{
    vbr_vm_free(m->vm);
    vbr_backend_free(m->backend);
    vbr_hugetlb_release();
}

static void assert_inhibited(VbrDev *d, const char *why)
{
    g_autofree char *text = vbr_string(d, "discard-inhibited");

    g_assert_cmpstr(text, ==, why);
}

static void plug(VbrVm *vm, const Backend *b)
{
    QDict *props = qobject_to(QDict, qobject_from_json(b->props, NULL));

    qdict_put_str(props, "driver", b->driver);
    qdict_put_str(props, "id", "user");
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'device_add', "
                             "'arguments': %p }", props);
}

static void assert_resident(VbrDev *d, uint64_t addr, size_t pages, bool is)
{
    g_assert_cmpuint(vbr_resident(d, addr, pages), ==, is ? pages : 0);
}

static void report(VbrDev *d, uint64_t addr, uint32_t len)
{
    VbrSeg seg = { addr, len, true };

    vbr_add(d, VBR_REPORT, &seg, 1);
    vbr_notify(d, VBR_REPORT);
    vbr_take(d, VBR_REPORT, 1);
}

/* Before it comes, while it is there, and when it has gone. */
static void check(const void *data)
{
    const Case *c = data;
    uint64_t kept = !c->small * NSMALL * VBR_PAGE + !c->huge * HUGE;
    uint64_t huge;
    Memory m;
    VbrDev *d;

    if (!begin(&m, c)) {
        return;
    }
    d = &m.vm->d;
    huge = m.huge;
    vbr_fill(d, m.small, NSMALL, BYTE);
    vbr_fill(d, huge, 4 * PARTS, BYTE);
    assert_inhibited(d, "no");
    vbr_send_range(d, VBR_INFLATE, huge, PARTS);
    vbr_assert_gone(d, huge, PARTS);

    plug(m.vm, c->backend);
    assert_inhibited(d, c->inhibited);
    vbr_send_range(d, VBR_INFLATE, m.small, NSMALL);
    vbr_send_range(d, VBR_INFLATE, huge + HUGE, PARTS);
    assert_resident(d, m.small, NSMALL, !c->small);
    assert_resident(d, huge + HUGE, PARTS, !c->huge);
    vbr_assert_counter(d, "owed-bytes", kept);
    vbr_assert_counter(d, "inhibited-bytes", kept);
    /* What is reported is free now, and need not be later. */
    report(d, huge + 2 * HUGE, HUGE);
    assert_resident(d, huge + 2 * HUGE, PARTS, !c->huge);
    vbr_assert_counter(d, "inhibited-bytes", kept + !c->huge * HUGE);

    qpci_unplug_acpi_device_test(m.vm->qts, "user", USER_SLOT);
    assert_inhibited(d, "no");
    vbr_wait_owed(d);
    vbr_assert_gone(d, m.small, NSMALL);
    vbr_assert_gone(d, huge + HUGE, PARTS);
    assert_resident(d, huge + 2 * HUGE, PARTS, !c->huge);
    vbr_assert_kept(d, huge + 3 * HUGE, PARTS, BYTE);
    vbr_send_range(d, VBR_INFLATE, huge + 3 * HUGE, PARTS);
    vbr_assert_gone(d, huge + 3 * HUGE, PARTS);
    vbr_assert_counter(d, "discard-errors", 0);
    end(&m);
}

/* A backend that no device of the guest is connected to maps nothing. */
static void test_alone(void)
{
    const Case c = { "off", &net };
    Memory m;

    if (!begin(&m, &c)) {
        return;
    }
    assert_inhibited(&m.vm->d, "no");
    end(&m);
}

/* It was there before the balloon. */
static void test_first(void)
{
    VbrBackend *b;
    VbrVm *vm;

    if (!qtest_has_device(DEVICE)) {
        g_test_skip("this QEMU has no " DEVICE);
        return;
    }
    b = vbr_backend();
    vm = vbr_pc("-M pc,memory-backend=ram -m 128M "
                "-object memory-backend-memfd,id=ram,size=128M "
                "-chardev socket,id=user,path=%s "
                "-device " DEVICE ",id=user,addr=06.0,chardev=user "
                "-device " VBR_PCI "," VBR_SLOT_ARG
                ",discard-beside-vhost-user=off", vbr_backend_path(b));
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    assert_inhibited(&vm->d, "a vhost-user device is there");
    qpci_unplug_acpi_device_test(vm->qts, "user", USER_SLOT);
    assert_inhibited(&vm->d, "no");
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
    vbr_backend_free(b);
}

void vbr_add_vhost_user_tests(void)
{
    size_t i;

    for (i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *name = g_strdup_printf(
            "virtio-balloon-rs/vhost-user/%s/%s", cases[i].backend->name,
            cases[i].value);

        qtest_add_data_func(name, &cases[i], check);
    }
    qtest_add_func("virtio-balloon-rs/vhost-user/alone", test_alone);
    qtest_add_func("virtio-balloon-rs/vhost-user/first", test_first);
}
