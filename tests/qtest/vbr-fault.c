/*
 * Machines with a device whose library is made to fail
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-fault.h"
#include "vbr-hint.h"
#include "vbr-message.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#ifdef VBR_INJECT

#define HINT_PROPS \
    "free-page-hint=on,free-page-reporting=on,free-page-hint-window=50"
#define REQUEST_PROPS VBR_RANGE_OPTS ",free-page-hint-window=50"
#define LIST "/objects/" VBR_DL_ID

/* What is sent before that; a slow migration takes seconds for it. */
#define BALLAST (8 * MiB)
/* What a driver allocates from, from its start on. Below are rings. */
#define DRIVERS_AREA (24 * MiB)

bool vbr_try(QTestState *qts, const char *fmt, ...)
{
    va_list ap;
    QDict *rsp;
    bool done;

    va_start(ap, fmt);
    rsp = qtest_vqmp(qts, fmt, ap);
    va_end(ap);
    done = qdict_haskey(rsp, "return");
    if (!done) {
        QDict *error = qdict_get_qdict(rsp, "error");

        /* Whatever is refused is refused with a reason. */
        g_assert_cmpstr(qdict_get_str(error, "desc"), !=, "");
    }
    qobject_unref(rsp);
    return done;
}

void vbr_fault_set(VbrVm *vm, const char *function, const char *how)
{
    vbr_fault_set_use(vm, function, 1, how);
}

static void set(VbrVm *vm, const char *faults)
{
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'qom-set', 'arguments': "
                             "{ 'path': %s, 'property': 'x-inject', "
                             "'value': %s } }", LIST, faults);
}

void vbr_fault_set_use(VbrVm *vm, const char *function, unsigned int use,
                       const char *how)
{
    g_autofree char *fault = function
        ? g_strdup_printf("%s:%u:%s", function, use, how) : g_strdup("");

    set(vm, fault);
}

void vbr_fault_set_both(VbrVm *vm, const char *function, const char *how,
                        const char *other, const char *other_how)
{
    g_autofree char *faults = g_strdup_printf("%s:1:%s %s:1:%s", function, how,
                                              other, other_how);

    set(vm, faults);
}

bool vbr_fault_pending(VbrVm *vm)
{
    g_autofree char *pending = NULL;
    QDict *rsp = qtest_qmp(vm->qts, "{ 'execute': 'qom-get', 'arguments': "
                           "{ 'path': %s, 'property': 'x-inject' } }", LIST);

    pending = g_strdup(qdict_get_str(rsp, "return"));
    qobject_unref(rsp);
    return *pending;
}

void vbr_fault_add_used(VbrVm *vm, GHashTable *uses)
{
    QDict *rsp = qtest_qmp(vm->qts, "{ 'execute': 'qom-get', 'arguments': "
                           "{ 'path': %s, 'property': 'x-inject-used' } }",
                           LIST);
    g_auto(GStrv) used = g_strsplit(qdict_get_str(rsp, "return"), " ", 0);
    size_t i;

    for (i = 0; used[i]; i++) {
        g_auto(GStrv) parts = g_strsplit(used[i], ":", 2);

        if (parts[0] && parts[1] && !g_hash_table_contains(uses, parts[0])) {
            unsigned int n = g_ascii_strtoull(parts[1], NULL, 10);

            g_hash_table_insert(uses, g_strdup(parts[0]), GUINT_TO_POINTER(n));
        }
    }
    qobject_unref(rsp);
}

static VbrVm *machine(bool hints, const char *more)
{
    return vbr_pc(VBR_FAULT_RAM_ARG " " VBR_FAULT_LIST " -device " VBR_PCI ","
                  VBR_SLOT_ARG ",%s%s", hints ? HINT_PROPS : REQUEST_PROPS,
                  more);
}

/* What an earlier driver has allocated is free: the device knows it no more. */
static void free_all(VbrVm *vm)
{
    alloc_destroy(&vm->alloc);
    alloc_init(&vm->alloc, ALLOC_NO_FLAGS, DRIVERS_AREA, VBR_USED_AREA,
               VBR_PAGE);
}

VbrVm *vbr_fault_machine(bool hints)
{
    g_autofree char *image = vbr_stream_name();
    VbrVm *vm = machine(hints, "");

    vbr_snapshot_disk(vm->qts, image);
    /* QEMU has it open. */
    unlink(image);
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    vbr_fill(&vm->d, guest_alloc(&vm->alloc, BALLAST), BALLAST / VBR_PAGE,
             0x5a);
    free_all(vm);
    return vm;
}

void vbr_fault_new_list(VbrVm *vm)
{
    vbr_try(vm->qts, "{ 'execute': 'dirty-page-list-stop', "
            "'arguments': { 'id': '" VBR_DL_ID "' } }");
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'object-del', "
                             "'arguments': { 'id': '" VBR_DL_ID "' } }");
    while (!vbr_try(vm->qts, "{ 'execute': 'object-add', 'arguments': { "
                    "'qom-type': 'dirty-page-list', 'id': '" VBR_DL_ID
                    "', 'max-dirty': 4096 } }")) {
        continue;
    }
}

bool vbr_fault_has_hints(VbrVm *vm)
{
    return vm->d.offered & (1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT);
}

static bool has_queue(bool hints, VbrQueue q)
{
    return q <= VBR_STATS || (hints ? q == VBR_HINT || q == VBR_REPORT
                                    : q == VBR_REQUEST);
}

/* As vbr_start(), but the device may be broken before it is done. */
static void start(VbrVm *vm, bool hints)
{
    const uint64_t refuse = QVIRTIO_F_BAD_FEATURE |
                            (1ull << VIRTIO_RING_F_EVENT_IDX);
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    VbrDev *d = &vm->d;
    QVirtioDevice *vdev = d->vdev;
    unsigned int i;

    vdev->bus->set_status(vdev, 0);
    free_all(vm);
    vdev->bus->set_status(vdev, status);
    d->offered = qvirtio_get_features(vdev);
    vdev->features = d->offered & ~refuse;
    vdev->features_negotiated = true;
    vdev->bus->set_features(vdev, vdev->features);
    status |= VIRTIO_CONFIG_S_FEATURES_OK;
    vdev->bus->set_status(vdev, status);
    for (i = 0; i < VBR_NQUEUES; i++) {
        if (has_queue(hints, i)) {
            vbr_ring_setup(d, i);
        }
    }
    vdev->bus->set_status(vdev, status | VIRTIO_CONFIG_S_DRIVER_OK);
    vbr_settle(d);
}

void vbr_fault_restart(VbrVm *vm)
{
    start(vm, vbr_fault_has_hints(vm));
}

void vbr_fault_system_reset(VbrVm *vm)
{
    vbr_system_reset(&vm->d);
    vbr_fault_restart(vm);
}

bool vbr_fault_plug(VbrVm *vm, bool hints)
{
    return hints
        ? vbr_try(vm->qts, "{ 'execute': 'device_add', 'arguments': { "
                  "'driver': '" VBR_PCI "', 'id': '" VBR_ID "', "
                  "'addr': '04.0', 'free-page-hint': true, "
                  "'free-page-reporting': true, "
                  "'free-page-hint-window': 50 } }")
        : vbr_try(vm->qts, "{ 'execute': 'device_add', 'arguments': { "
                  "'driver': '" VBR_PCI "', 'id': '" VBR_ID "', "
                  "'addr': '04.0', 'host-request': true, "
                  "'page-range': true, 'free-page-hint-window': 50 } }");
}

void vbr_fault_replug(VbrVm *vm)
{
    bool hints = vbr_fault_has_hints(vm);
    VbrRing rings[VBR_NQUEUES];

    qtest_qmp_device_del_send(vm->qts, VBR_ID);
    qtest_system_reset_nowait(vm->qts);
    qtest_qmp_eventwait(vm->qts, "DEVICE_DELETED");
    while (!vbr_fault_plug(vm, hints)) {
        continue;
    }
    memcpy(rings, vm->d.ring, sizeof(rings));
    vbr_vm_find(vm, VBR_SLOT);
    memcpy(vm->d.ring, rings, sizeof(rings));
    qvirtio_pci_device_enable(vm->pci);
    start(vm, hints);
}

VbrVm *vbr_fault_destination(VbrVm *vm, const char *uri)
{
    VbrVm *to = machine(vbr_fault_has_hints(vm), " -S -incoming defer");

    qtest_qmp_assert_success(to->qts, "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s, "
                             "'exit-on-error': false } }", uri);
    return to;
}

#endif
