/*
 * virtio-balloon-rs in qgraph: the nodes, and the cases on each of them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "tests/qtest/libqos/qgraph.h"
#include "tests/qtest/libqos/virtio-mmio.h"
#include "vbr-cases.h"
#include "vbr-probe.h"

#define NODE "virtio-balloon-rs"
#define SLOT 4

typedef struct QVbr {
    QVirtioDevice *vdev;
    QVirtioPCIDevice *pci;      /* NULL: virtio-mmio */
    QTestState *qts;
} QVbr;

typedef struct QVbrPCI {
    QVirtioPCIDevice pci;
    QVbr vbr;
} QVbrPCI;

typedef struct QVbrDevice {
    QOSGraphObject obj;
    QVbr vbr;
} QVbrDevice;

static void *vbr_get_driver(QVbr *vbr, const char *interface)
{
    if (!g_strcmp0(interface, "virtio")) {
        return vbr->vdev;
    }
    if (g_str_has_prefix(interface, NODE)) {
        return vbr;
    }
    fprintf(stderr, "%s not present in %s\n", interface, NODE);
    g_assert_not_reached();
}

static void *vbr_device_get_driver(void *object, const char *interface)
{
    QVbrDevice *dev = object;

    return vbr_get_driver(&dev->vbr, interface);
}

static void *vbr_device_create(void *virtio_dev, QGuestAllocator *alloc,
                               void *addr)
{
    QVbrDevice *dev = g_new0(QVbrDevice, 1);
    QVirtioMMIODevice *mmio = container_of(virtio_dev, QVirtioMMIODevice,
                                           vdev);

    dev->vbr.vdev = virtio_dev;
    dev->vbr.qts = mmio->qts;
    dev->obj.get_driver = vbr_device_get_driver;
    return &dev->obj;
}

static void *vbr_pci_get_driver(void *object, const char *interface)
{
    QVbrPCI *dev = object;

    if (!g_strcmp0(interface, "pci-device")) {
        return dev->pci.pdev;
    }
    return vbr_get_driver(&dev->vbr, interface);
}

static void *vbr_pci_create(void *pci_bus, QGuestAllocator *alloc, void *addr)
{
    QVbrPCI *dev = g_new0(QVbrPCI, 1);
    QOSGraphObject *obj = &dev->pci.obj;

    virtio_pci_init(&dev->pci, pci_bus, addr);
    dev->vbr.vdev = &dev->pci.vdev;
    dev->vbr.pci = &dev->pci;
    dev->vbr.qts = dev->pci.pdev->bus->qts;
    obj->get_driver = vbr_pci_get_driver;
    return obj;
}

static void run_case(QVbr *vbr, const VbrCase *c, QGuestAllocator *alloc)
{
    VbrDev d = {
        .qts = vbr->qts,
        .vdev = vbr->vdev,
        .pci = vbr->pci,
        .alloc = alloc,
        .arg = c->arg,
    };

    /* The counters start with the device: a new QEMU for each case. */
    qos_invalidate_command_line();
    c->run(&d);
}

static void run_any(void *obj, void *data, QGuestAllocator *alloc)
{
    run_case(obj, data, alloc);
}

static void add_case(const char *interface, const VbrCase *c,
                     const char *opts)
{
    QOSGraphTestOptions test_opts = {
        .arg = (void *)c,
        .edge.extra_device_opts = opts,
    };

    qos_add_test(c->name, interface, run_any, &test_opts);
}

/*
 * A device without the modern interface: a guest of 2008, and on a
 * big-endian machine PFNs and statistics in big endian.
 */
static void add_legacy_case(const char *interface, const VbrCase *c)
{
    g_autofree char *opts = g_strdup_printf("disable-modern=on,"
                                            "disable-legacy=off%s%s",
                                            c->opts ? "," : "",
                                            c->opts ?: "");

    add_case(interface, c, opts);
}

/*
 * qgraph can hold a good hundred nodes that it has not yet visited, so
 * each theme has an interface of its own instead of all tests on one.
 */
static void for_each_interface(void (*fn)(const char *name, bool legacy,
                                          const VbrCase *cases))
{
    const VbrTheme *t;

    for (t = vbr_themes; t->name; t++) {
        g_autofree char *name = g_strdup_printf(NODE "-%s", t->name);
        g_autofree char *legacy = g_strdup_printf(NODE "-legacy-%s", t->name);

        fn(name, false, t->cases);
        fn(legacy, true, t->cases);
    }
}

static void add_cases(const char *interface, bool legacy, const VbrCase *c)
{
    for (; c->name; c++) {
        if (legacy) {
            add_legacy_case(interface, c);
        } else {
            add_case(interface, c, c->opts);
        }
    }
}

static void vbr_add_tests(void)
{
    const VbrCase *c;

    for (c = vbr_feature_cases(); c->name; c++) {
        add_case(NODE, c, c->opts);
    }
    for_each_interface(add_cases);
}

static void produce(const char *interface, bool legacy, const VbrCase *c)
{
    qos_node_produces(NODE "-pci", interface);
    if (!legacy) {
        qos_node_produces(NODE "-device", interface);
    }
}

static void vbr_register_nodes(void)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(SLOT, 0) };
    QOSGraphEdgeOptions pci_opts = {
        /* No default network card, which needs a ROM file of its own. */
        .before_cmd_line = "-nodefaults",
        .extra_device_opts = "addr=04.0,id=" VBR_ID,
    };
    QOSGraphEdgeOptions mmio_opts = {
        .before_cmd_line = "-nodefaults",
        .extra_device_opts = "id=" VBR_ID,
    };

    vbr_keep_small_pages();
    qos_node_create_driver_named(NODE "-device", VBR_MMIO, vbr_device_create);
    qos_node_consumes(NODE "-device", "virtio-bus", &mmio_opts);
    qos_node_produces(NODE "-device", "virtio");
    qos_node_produces(NODE "-device", NODE);

    add_qpci_address(&pci_opts, &addr);
    qos_node_create_driver_named(NODE "-pci", VBR_PCI, vbr_pci_create);
    qos_node_consumes(NODE "-pci", "pci-bus", &pci_opts);
    qos_node_produces(NODE "-pci", "pci-device");
    qos_node_produces(NODE "-pci", "virtio");
    qos_node_produces(NODE "-pci", NODE);

    for_each_interface(produce);
}

libqos_init(vbr_register_nodes);
libqos_init(vbr_add_tests);
