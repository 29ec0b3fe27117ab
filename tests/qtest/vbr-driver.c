/*
 * A small guest driver for the virtio-balloon-rs tests
 *
 * libqos offers one chain at a time and notifies for each, and it has no
 * way to write the configuration space.  The balloon's batches and its
 * "actual" need both, so this layer fills the rings itself and leaves to
 * libqos the transports and the set-up of the queues.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-driver.h"
#include "tests/qtest/libqos/virtio-mmio.h"
#include "standard-headers/linux/virtio_pci.h"

bool vbr_is_modern(VbrDev *d)
{
    return d->vdev->features & (1ull << VIRTIO_F_VERSION_1);
}

bool vbr_has(VbrDev *d, unsigned int feature)
{
    return d->vdev->features & (1ull << feature);
}

uint16_t vbr_r16(VbrDev *d, uint64_t addr)
{
    uint16_t val;

    if (!vbr_is_modern(d)) {
        return qtest_readw(d->qts, addr);
    }
    qtest_memread(d->qts, addr, &val, sizeof(val));
    return le16_to_cpu(val);
}

uint32_t vbr_r32(VbrDev *d, uint64_t addr)
{
    uint32_t val;

    if (!vbr_is_modern(d)) {
        return qtest_readl(d->qts, addr);
    }
    qtest_memread(d->qts, addr, &val, sizeof(val));
    return le32_to_cpu(val);
}

void vbr_w16(VbrDev *d, uint64_t addr, uint16_t val)
{
    if (!vbr_is_modern(d)) {
        qtest_writew(d->qts, addr, val);
        return;
    }
    val = cpu_to_le16(val);
    qtest_memwrite(d->qts, addr, &val, sizeof(val));
}

void vbr_w32(VbrDev *d, uint64_t addr, uint32_t val)
{
    if (!vbr_is_modern(d)) {
        qtest_writel(d->qts, addr, val);
        return;
    }
    val = cpu_to_le32(val);
    qtest_memwrite(d->qts, addr, &val, sizeof(val));
}

void vbr_w64(VbrDev *d, uint64_t addr, uint64_t val)
{
    if (!vbr_is_modern(d)) {
        qtest_writeq(d->qts, addr, val);
        return;
    }
    val = cpu_to_le64(val);
    qtest_memwrite(d->qts, addr, &val, sizeof(val));
}

static bool vbr_offers(VbrDev *d, unsigned int feature)
{
    return d->offered & (1ull << feature);
}

/* Historical bits: 4 stands for the queue of one series or the other. */
static bool vbr_offers_historical(VbrDev *d, VbrBits bits)
{
    return d->bits == bits && vbr_offers(d, 4);
}

static bool vbr_offers_queue(VbrDev *d, VbrQueue q)
{
    bool private = d->bits == VBR_BITS_PRIVATE;

    switch (q) {
    case VBR_HINT:
        return private && vbr_offers(d, VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    case VBR_REPORT:
        return vbr_offers(d, VIRTIO_BALLOON_F_REPORTING);
    case VBR_REQUEST:
        return private ? vbr_offers(d, VBR_F_HOST_REQUEST)
                       : vbr_offers_historical(d, VBR_BITS_RANGE);
    case VBR_MISC:
        return private ? vbr_offers(d, VBR_F_MISC_QUEUE)
                       : vbr_offers_historical(d, VBR_BITS_CHUNKS);
    default:
        return true;
    }
}

uint16_t vbr_queue_index(VbrDev *d, VbrQueue q)
{
    static const VbrQueue private[] = {
        VBR_INFLATE, VBR_DEFLATE, VBR_STATS, VBR_HINT, VBR_REPORT,
        VBR_REQUEST, VBR_MISC,
    };
    static const VbrQueue historical[] = {
        VBR_INFLATE, VBR_DEFLATE, VBR_STATS, VBR_REQUEST, VBR_MISC,
        VBR_REPORT, VBR_HINT,
    };
    const VbrQueue *order = d->bits == VBR_BITS_PRIVATE ? private : historical;
    uint16_t index = 0;

    for (; *order != q; order++) {
        index += vbr_offers_queue(d, *order);
    }
    return index;
}

/* The register of a modern PCI device that enables the selected queue. */
#define QUEUE_ENABLE offsetof(struct virtio_pci_common_cfg, queue_enable)

void vbr_ring_setup(VbrDev *d, VbrQueue q)
{
    uint16_t index = vbr_queue_index(d, q);
    QVirtQueue *vq = d->ring[q].vq;
    QVirtioPCIDevice *pci = d->pci;

    d->ring[q] = (VbrRing) { .vq = vq };
    if (!vq) {
        d->ring[q].vq = qvirtqueue_setup(d->vdev, d->alloc, index);
        return;
    }
    vq->vdev = d->vdev;
    qtest_memset(d->qts, vq->avail, 0, vq->used + 4 - vq->avail);
    d->vdev->bus->queue_select(d->vdev, index);
    d->vdev->bus->set_queue_address(d->vdev, vq);
    qpci_io_writew(pci->pdev, pci->bar, pci->common_cfg_offset + QUEUE_ENABLE,
                   1);
}

void vbr_start(VbrDev *d, uint64_t refuse)
{
    unsigned int i;

    d->offered = qvirtio_get_features(d->vdev);
    /* The event index would let the device skip notifications we wait for. */
    refuse |= QVIRTIO_F_BAD_FEATURE | (1ull << VIRTIO_RING_F_EVENT_IDX);
    qvirtio_set_features(d->vdev, d->offered & ~refuse);

    for (i = 0; i < VBR_NQUEUES; i++) {
        d->ring[i] = (VbrRing) { };
        if (vbr_offers_queue(d, i)) {
            vbr_ring_setup(d, i);
        }
    }
    qvirtio_set_driver_ok(d->vdev);
}

void vbr_restart(VbrDev *d, uint64_t refuse)
{
    unsigned int i;

    qvirtio_start_device(d->vdev);
    for (i = 0; i < VBR_NQUEUES; i++) {
        if (d->ring[i].vq) {
            qvirtqueue_cleanup(d->vdev->bus, d->ring[i].vq, d->alloc);
            d->ring[i].vq = NULL;
        }
    }
    vbr_start(d, refuse);
}

void vbr_system_reset(VbrDev *d)
{
    qtest_system_reset(d->qts);
    if (d->pci) {
        qvirtio_pci_device_enable(d->pci);
    } else {
        QVirtioMMIODevice *dev = container_of(d->vdev, QVirtioMMIODevice,
                                              vdev);

        qtest_writel(d->qts, dev->addr + QVIRTIO_MMIO_GUEST_PAGE_SIZE,
                     dev->page_size);
    }
}

static void vbr_write_desc(VbrDev *d, uint64_t desc, const VbrSeg *seg,
                           uint16_t flags, uint16_t next)
{
    vbr_w64(d, desc, seg->addr);
    vbr_w32(d, desc + 8, seg->len);
    vbr_w16(d, desc + 12, flags | (seg->write ? VRING_DESC_F_WRITE : 0));
    vbr_w16(d, desc + 14, next);
}

static void vbr_make_available(VbrDev *d, VbrRing *r, uint16_t head)
{
    vbr_w16(d, r->vq->avail + 4 + 2 * (r->avail % r->vq->size), head);
    vbr_w16(d, r->vq->avail + 2, ++r->avail);
}

uint16_t vbr_add(VbrDev *d, VbrQueue q, const VbrSeg *segs, unsigned int n)
{
    VbrRing *r = &d->ring[q];
    uint16_t head = r->next, i;

    g_assert_cmpuint(n, <=, r->vq->size);
    for (i = 0; i < n; i++) {
        uint16_t next = (r->next + 1) % r->vq->size;

        vbr_write_desc(d, r->vq->desc + 16 * r->next, &segs[i],
                       i + 1 < n ? VRING_DESC_F_NEXT : 0, next);
        r->next = next;
    }
    vbr_make_available(d, r, head);
    return head;
}

uint16_t vbr_add_indirect(VbrDev *d, VbrQueue q, const VbrSeg *segs,
                          unsigned int n)
{
    VbrRing *r = &d->ring[q];
    uint16_t head = r->next, i;
    VbrSeg table = { .len = 16 * n };

    g_assert(vbr_has(d, VIRTIO_RING_F_INDIRECT_DESC));
    table.addr = guest_alloc(d->alloc, table.len);
    for (i = 0; i < n; i++) {
        vbr_write_desc(d, table.addr + 16 * i, &segs[i],
                       i + 1 < n ? VRING_DESC_F_NEXT : 0, i + 1);
    }
    vbr_write_desc(d, r->vq->desc + 16 * head, &table,
                   VRING_DESC_F_INDIRECT, 0);
    r->next = (head + 1) % r->vq->size;
    vbr_make_available(d, r, head);
    return head;
}

void vbr_notify(VbrDev *d, VbrQueue q)
{
    d->ring[q].kicked = d->ring[q].avail;
    d->vdev->bus->virtqueue_kick(d->vdev, d->ring[q].vq);
}

uint16_t vbr_used(VbrDev *d, VbrQueue q)
{
    return vbr_r16(d, d->ring[q].vq->used + 2) - d->ring[q].seen;
}

void vbr_wait(VbrWait *wait)
{
    gint64 now = g_get_monotonic_time();

    if (!wait->began) {
        wait->began = now;
    }
    if (now - wait->began >= VBR_TIMEOUT_US) {
        g_error("waited in vain for %s", wait->what);
    }
    g_usleep(1000);
}

static void vbr_take_any(VbrDev *d, VbrQueue q, unsigned int n, uint32_t len)
{
    VbrRing *r = &d->ring[q];
    VbrWait wait = { "buffers to come back" };
    unsigned int polls = 0;

    while (vbr_used(d, q) < n) {
        if (++polls > 100) {
            vbr_wait(&wait);
        }
    }
    while (n--) {
        uint64_t elem = r->vq->used + 4 + 8 * (r->seen++ % r->vq->size);

        g_assert_cmpuint(vbr_r32(d, elem), <, r->vq->size);
        g_assert_cmpuint(vbr_r32(d, elem + 4), ==, len);
    }
}

void vbr_take(VbrDev *d, VbrQueue q, unsigned int n)
{
    vbr_take_any(d, q, n, 0);
}

void vbr_take_len(VbrDev *d, VbrQueue q, uint32_t len)
{
    vbr_take_any(d, q, 1, len);
}

void vbr_settle(VbrDev *d)
{
    int i;

    /* Every answer is a turn of the main loop, bottom halves included. */
    for (i = 0; i < 20; i++) {
        qtest_qmp_assert_success(d->qts, "{ 'execute': 'query-status' }");
    }
}

VbrSeg vbr_pfns(VbrDev *d, const uint32_t *pfns, size_t n)
{
    bool be = !vbr_is_modern(d) && qtest_big_endian(d->qts);
    g_autofree uint32_t *buf = g_new(uint32_t, n);
    VbrSeg seg = { .len = n * sizeof(uint32_t) };
    size_t i;

    for (i = 0; i < n; i++) {
        buf[i] = be ? cpu_to_be32(pfns[i]) : cpu_to_le32(pfns[i]);
    }
    seg.addr = guest_alloc(d->alloc, seg.len);
    qtest_bufwrite(d->qts, seg.addr, buf, seg.len);
    return seg;
}

void vbr_send(VbrDev *d, VbrQueue q, const uint32_t *pfns, size_t n)
{
    VbrSeg seg = vbr_pfns(d, pfns, n);

    vbr_add(d, q, &seg, 1);
    vbr_notify(d, q);
    vbr_take(d, q, 1);
    guest_free(d->alloc, seg.addr);
}

void vbr_send_range(VbrDev *d, VbrQueue q, uint64_t addr, size_t n)
{
    g_autofree uint32_t *pfns = g_new(uint32_t, n);
    size_t i;

    for (i = 0; i < n; i++) {
        pfns[i] = (addr >> VBR_PAGE_SHIFT) + i;
    }
    vbr_send(d, q, pfns, n);
}

uint64_t vbr_pages(VbrDev *d, size_t n, uint64_t align)
{
    return ROUND_UP(guest_alloc(d->alloc, n * VBR_PAGE + align), align);
}

/* Offset of the device's part in BAR 0 of a legacy PCI device. */
static uint64_t vbr_legacy_config(VbrDev *d)
{
    return VIRTIO_PCI_CONFIG_OFF(d->pci->pdev->msix_enabled);
}

static uint64_t vbr_config_offset(VbrDev *d, unsigned int offset)
{
    bool modern = d->pci->common_cfg_offset || d->pci->device_cfg_offset;

    return offset + (modern ? d->pci->device_cfg_offset :
                              vbr_legacy_config(d));
}

static uint64_t vbr_mmio_addr(VbrDev *d, unsigned int offset)
{
    QVirtioMMIODevice *dev = container_of(d->vdev, QVirtioMMIODevice, vdev);

    return dev->addr + QVIRTIO_MMIO_DEVICE_SPECIFIC + offset;
}

uint32_t vbr_config_read(VbrDev *d, unsigned int offset)
{
    uint8_t b[4];
    int i;

    if (d->pci) {
        return qpci_io_readl(d->pci->pdev, d->pci->bar,
                             vbr_config_offset(d, offset));
    }
    for (i = 0; i < 4; i++) {
        b[i] = qtest_readb(d->qts, vbr_mmio_addr(d, offset + i));
    }
    return ldl_le_p(b);
}

static void vbr_config_write_pci(VbrDev *d, unsigned int offset,
                                 unsigned int size, uint32_t val)
{
    QPCIDevice *pdev = d->pci->pdev;
    uint64_t off = vbr_config_offset(d, offset);

    switch (size) {
    case 1:
        qpci_io_writeb(pdev, d->pci->bar, off, val);
        break;
    case 2:
        qpci_io_writew(pdev, d->pci->bar, off, val);
        break;
    case 4:
        qpci_io_writel(pdev, d->pci->bar, off, val);
        break;
    default:
        g_assert_not_reached();
    }
}

void vbr_config_write(VbrDev *d, unsigned int offset, unsigned int size,
                      uint32_t val)
{
    bool be = qtest_big_endian(d->qts);

    if (d->pci) {
        vbr_config_write_pci(d, offset, size, val);
        return;
    }
    switch (size) {
    case 1:
        qtest_writeb(d->qts, vbr_mmio_addr(d, offset), val);
        break;
    case 2:
        qtest_writew(d->qts, vbr_mmio_addr(d, offset),
                     be ? bswap16(val) : val);
        break;
    case 4:
        qtest_writel(d->qts, vbr_mmio_addr(d, offset),
                     be ? bswap32(val) : val);
        break;
    default:
        g_assert_not_reached();
    }
}

void vbr_set_actual(VbrDev *d, uint32_t pages)
{
    vbr_config_write(d, offsetof(struct virtio_balloon_config, actual), 4,
                     pages);
}
