/*
 * virtio-balloon-rs: guest RAM
 *
 * Keeps the library's map of guest RAM up to date and carries out what it
 * decides to do with it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/syscall.h>
#include "qemu/madvise.h"
#include "exec/cpu-common.h"
#include "system/system.h"
#include "virtio-balloon-rs.h"
#ifdef VBR_QEMU_10_0
#include "exec/ramblock.h"
#include "exec/address-spaces.h"
#else
#include "system/ramblock.h"
#include "system/address-spaces.h"
#endif
#include "trace.h"

/*
 * Only memory that the guest can read and write and that is nothing else than
 * memory: not ROM, not the BAR of an assigned device, not persistent memory.
 */
static bool is_ordinary_ram(const MemoryRegionSection *section)
{
    MemoryRegion *mr = section->mr;

    return memory_region_is_ram(mr) && mr->ram_block && !section->readonly &&
           !memory_region_is_rom(mr) && !mr->rom_device &&
           !memory_region_is_ram_device(mr) &&
           !memory_region_is_nonvolatile(mr);
}

static void open_pidfd(VirtIOBalloonRs *s)
{
    s->pidfd = -1;
#ifdef SYS_pidfd_open
    s->pidfd = syscall(SYS_pidfd_open, getpid(), 0);
#endif
}

static void close_pidfd(VirtIOBalloonRs *s)
{
    if (s->pidfd >= 0) {
        close(s->pidfd);
        s->pidfd = -1;
    }
}

static void vbr_memory_begin(MemoryListener *listener)
{
    VirtIOBalloonRs *s = container_of(listener, VirtIOBalloonRs, listener);

    g_array_set_size(s->next_sections, 0);
}

static void vbr_memory_add(MemoryListener *listener,
                           MemoryRegionSection *section)
{
    VirtIOBalloonRs *s = container_of(listener, VirtIOBalloonRs, listener);

    if (is_ordinary_ram(section)) {
        memory_region_ref(section->mr);
        g_array_append_val(s->next_sections, *section);
    }
}

/* What is locked into memory is not given back by the kernel. */
static bool is_plain_anonymous(RAMBlock *block)
{
    return qemu_ram_get_fd(block) < 0 && !qemu_ram_is_shared(block) &&
           qemu_ram_pagesize(block) == qemu_real_host_page_size() &&
           !should_mlock(mlock_state);
}

static VbrSection to_vbr_section(const MemoryRegionSection *section)
{
    MemoryRegion *mr = section->mr;
    RAMBlock *block = mr->ram_block;
    uint64_t page_size = qemu_ram_pagesize(block);

    return (VbrSection) {
        .gpa = section->offset_within_address_space,
        .bytes = int128_get64(section->size),
        .block = block,
        .offset = section->offset_within_region,
        .page_size = page_size,
        .host = (uint8_t *)memory_region_get_ram_ptr(mr) +
                section->offset_within_region,
        /* Huge pages are never read ahead; anonymous memory has no file. */
        .populate = qemu_ram_get_fd(block) >= 0 &&
                    page_size == qemu_real_host_page_size(),
        .lazy = is_plain_anonymous(block),
    };
}

static void unref_sections(GArray *sections)
{
    for (guint i = 0; i < sections->len; i++) {
        memory_region_unref(g_array_index(sections, MemoryRegionSection,
                                          i).mr);
    }
    g_array_set_size(sections, 0);
}

void vbr_memory_tell(VirtIOBalloonRs *s)
{
    g_autofree VbrSection *map = g_new(VbrSection, s->sections->len);

    for (guint i = 0; i < s->sections->len; i++) {
        map[i] = to_vbr_section(&g_array_index(s->sections,
                                               MemoryRegionSection, i));
    }
    trace_virtio_balloon_rs_memory(s->sections->len);
    /* By another map it would give back memory of others. */
    vbr_undone(s, vbr_device_set_memory(s->device, map, s->sections->len));
}

static void vbr_memory_commit(MemoryListener *listener)
{
    VirtIOBalloonRs *s = container_of(listener, VirtIOBalloonRs, listener);
    GArray *last = s->sections;

    s->sections = s->next_sections;
    s->next_sections = last;
    vbr_memory_tell(s);
    /*
     * Only now: the references keep the blocks alive that the library knew. If
     * it took the new map, or refused it, it knows them no more; if it is
     * broken it does nothing until the next reset has told it anew.
     */
    unref_sections(last);
}

void vbr_memory_init(VirtIOBalloonRs *s)
{
    open_pidfd(s);
    s->sections = g_array_new(false, false, sizeof(MemoryRegionSection));
    s->next_sections = g_array_new(false, false, sizeof(MemoryRegionSection));
    s->listener = (MemoryListener) {
        .name = "virtio-balloon-rs",
        .begin = vbr_memory_begin,
        .region_add = vbr_memory_add,
        .region_nop = vbr_memory_add,
        .commit = vbr_memory_commit,
    };
    memory_listener_register(&s->listener, &address_space_memory);
}

void vbr_memory_cleanup(VirtIOBalloonRs *s)
{
    memory_listener_unregister(&s->listener);
    close_pidfd(s);
    unref_sections(s->sections);
    unref_sections(s->next_sections);
    g_array_free(s->sections, true);
    g_array_free(s->next_sections, true);
}

/*
 * Gives @advice on all spans in one call; returns how many of them it was given
 * on. Linux allows it from 6.13 on for what is asked here, so what is left is
 * for the caller.
 */
static size_t advise_at_once(VirtIOBalloonRs *s, RAMBlock *rb,
                             const VbrBlockSpan *spans, size_t count,
                             int advice)
{
    size_t done = 0;
#ifdef SYS_process_madvise
    struct iovec iov[VBR_MAX_SPANS];
    ssize_t bytes;

    if (s->pidfd < 0 || count < 2) {
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        iov[i].iov_base = rb->host + spans[i].offset;
        iov[i].iov_len = spans[i].bytes;
    }
    bytes = syscall(SYS_process_madvise, s->pidfd, iov, count, advice, 0);
    if (bytes < 0) {
        /* An older kernel or a filter of system calls, which costs little. */
        return 0;
    }
    while (done < count && bytes >= spans[done].bytes) {
        bytes -= spans[done++].bytes;
    }
    trace_virtio_balloon_rs_advise(rb->idstr, advice, count, done);
#endif
    return done;
}

static int vbr_host_discard(void *opaque, void *block,
                            const VbrBlockSpan *spans, size_t count,
                            size_t *done)
{
    VirtIOBalloonRs *s = opaque;
    RAMBlock *rb = block;

    /* Only where this is all that ram_block_discard_range() would do. */
    if (is_plain_anonymous(rb)) {
        *done = advise_at_once(s, rb, spans, count, MADV_DONTNEED);
    }
    for (; *done < count; ++*done) {
        const VbrBlockSpan *span = &spans[*done];
        int ret = ram_block_discard_range(rb, span->offset, span->bytes);

        trace_virtio_balloon_rs_discard(rb->idstr, span->offset, span->bytes,
                                        ret);
        if (ret) {
            return ret;
        }
    }
    return 0;
}

static int vbr_host_free(void *opaque, void *block,
                         const VbrBlockSpan *spans, size_t count,
                         size_t *done)
{
    VirtIOBalloonRs *s = opaque;
    RAMBlock *rb = block;

    *done = advise_at_once(s, rb, spans, count, MADV_FREE);
    for (; *done < count; ++*done) {
        const VbrBlockSpan *span = &spans[*done];
        int ret = madvise(rb->host + span->offset, span->bytes, MADV_FREE);

        ret = ret ? -errno : 0;
        trace_virtio_balloon_rs_free(rb->idstr, span->offset, span->bytes,
                                     ret);
        if (ret) {
            return ret;
        }
    }
    return 0;
}

static void vbr_host_populate(void *opaque, void *block,
                              const VbrBlockSpan *spans, size_t count)
{
    VirtIOBalloonRs *s = opaque;
    RAMBlock *rb = block;
    size_t done = advise_at_once(s, rb, spans, count, MADV_WILLNEED);

    for (; done < count; done++) {
        const VbrBlockSpan *span = &spans[done];
        int ret = qemu_madvise(rb->host + span->offset, span->bytes,
                               QEMU_MADV_WILLNEED);

        trace_virtio_balloon_rs_populate(rb->idstr, span->offset, span->bytes,
                                         ret);
    }
}

VbrHostOps vbr_host_ops(VirtIOBalloonRs *s)
{
    return (VbrHostOps) {
        .opaque = s,
        .discard = vbr_host_discard,
        .free = vbr_host_free,
        .populate = vbr_host_populate,
    };
}
