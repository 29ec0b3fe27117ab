/*
 * virtio-balloon-rs: guest RAM
 *
 * Tells the library what memory the guest sees and what is known of it, and
 * carries out what the library decides to do with it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/syscall.h>
#ifdef CONFIG_FALLOCATE_PUNCH_HOLE
#include <linux/falloc.h>
#endif
#include "qemu/error-report.h"
#include "qemu/madvise.h"
#include "exec/cpu-common.h"
#include "hw/boards.h"
#include "hw/mem/nvdimm.h"
#include "hw/mem/pc-dimm.h"
#include "hw/virtio/virtio-mem.h"
#include "system/hostmem.h"
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

static void keep_section(VirtIOBalloonRs *s, MemoryRegionSection *section)
{
    if (memory_region_is_ram(section->mr) && section->mr->ram_block) {
        memory_region_ref(section->mr);
        g_array_append_val(s->next_sections, *section);
    }
}

static void vbr_memory_nop(MemoryListener *listener,
                           MemoryRegionSection *section)
{
    keep_section(container_of(listener, VirtIOBalloonRs, listener), section);
}

static void vbr_memory_add(MemoryListener *listener,
                           MemoryRegionSection *section)
{
    VirtIOBalloonRs *s = container_of(listener, VirtIOBalloonRs, listener);

    keep_section(s, section);
    vbr_parts_add(s, section);
}

static void vbr_memory_del(MemoryListener *listener,
                           MemoryRegionSection *section)
{
    VirtIOBalloonRs *s = container_of(listener, VirtIOBalloonRs, listener);

    s->memory_went |= memory_region_is_ram(section->mr);
    vbr_parts_del(s, section);
}

/* The machine's RAM is a region, or a container with one for each NUMA node. */
static bool is_machine_ram(MemoryRegion *mr)
{
    MemoryRegion *ram = MACHINE(qdev_get_machine())->ram;

    return ram && (mr == ram || mr->container == ram);
}

static int note_dimm(Object *child, void *opaque)
{
    GHashTable *dimms = opaque;

    if (object_dynamic_cast(child, TYPE_PC_DIMM) &&
        !object_dynamic_cast(child, TYPE_NVDIMM) && PC_DIMM(child)->hostmem) {
        g_hash_table_add(dimms, &PC_DIMM(child)->hostmem->mr);
    }
    return 0;
}

/* The memory of all DIMMs with RAM, which are always the user's devices. */
static GHashTable *find_dimms(void)
{
    static const char *const containers[] = { "peripheral", "peripheral-anon" };
    GHashTable *dimms = g_hash_table_new(NULL, NULL);

    for (size_t i = 0; i < ARRAY_SIZE(containers); i++) {
        Object *container = object_resolve_path_component(qdev_get_machine(),
                                                          containers[i]);

        if (container) {
            object_child_foreach(container, note_dimm, dimms);
        }
    }
    return dimms;
}

bool vbr_is_virtio_mem(MemoryRegion *mr)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(mr);

    return rdm && object_dynamic_cast(OBJECT(rdm), TYPE_VIRTIO_MEM);
}

static VbrOwner owner_of(MemoryRegion *mr, GHashTable *dimms)
{
    if (is_machine_ram(mr)) {
        return VBR_OWNER_MACHINE;
    } else if (vbr_is_virtio_mem(mr)) {
        return VBR_OWNER_VIRTIO_MEM;
    } else if (g_hash_table_contains(dimms, mr)) {
        return VBR_OWNER_DIMM;
    }
    return VBR_OWNER_OTHER;
}

/* A file that has no name any more is not opened by others. */
static VbrBackingFile file_of(RAMBlock *block)
{
    int fd = qemu_ram_get_fd(block);
    struct stat st;

    if (fd < 0) {
        return VBR_BACKING_FILE_NONE;
    }
    return !fstat(fd, &st) && !st.st_nlink && !st.st_blocks
           ? VBR_BACKING_FILE_EMPTY : VBR_BACKING_FILE_SOME;
}

/*
 * What @block's file was when it came into the map, which goes into @files.
 * Later it tells nothing: the guest's own use of a private mapping fills it.
 */
static VbrBackingFile first_file_of(VirtIOBalloonRs *s, GHashTable *files,
                                    RAMBlock *block)
{
    gpointer known;
    VbrBackingFile file;

    if (s->files && g_hash_table_lookup_extended(s->files, block, NULL,
                                                 &known)) {
        file = GPOINTER_TO_UINT(known);
    } else if (g_hash_table_lookup_extended(files, block, NULL, &known)) {
        file = GPOINTER_TO_UINT(known);
    } else {
        file = file_of(block);
    }
    g_hash_table_insert(files, block, GUINT_TO_POINTER(file));
    return file;
}

static VbrSection to_vbr_section(VirtIOBalloonRs *s,
                                 const MemoryRegionSection *section,
                                 GHashTable *dimms, GHashTable *files)
{
    MemoryRegion *mr = section->mr;
    RAMBlock *block = mr->ram_block;

    return (VbrSection) {
        .gpa = section->offset_within_address_space,
        .bytes = int128_get64(section->size),
        .block = block,
        .offset = section->offset_within_region,
        .host = block->host + section->offset_within_region,
        .page_size = qemu_ram_pagesize(block),
        .host_page_size = qemu_real_host_page_size(),
        .owner = owner_of(mr, dimms),
        .file = first_file_of(s, files, block),
        .read_only = section->readonly || memory_region_is_rom(mr),
        .nonvolatile = section->nonvolatile,
        .shared = qemu_ram_is_shared(block),
        .guest_memfd = block->guest_memfd >= 0,
        .locked = should_mlock(mlock_state),
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

/*
 * By another map than the true one it would give back memory of others. One
 * that it does not understand is none to it.
 */
static void tell_map(VirtIOBalloonRs *s, const VbrSection *map, size_t count)
{
    VbrStatus status = vbr_device_set_memory(s->device, map, count);

    if (status == VBR_STATUS_INVALID_ARGUMENT) {
        warn_report("virtio-balloon-rs: no memory is given back, as the map of "
                    "it is not understood");
        status = vbr_device_set_memory(s->device, NULL, 0);
    }
    vbr_must(s, status, VBR_MISSED_MEMORY);
}

void vbr_memory_tell(VirtIOBalloonRs *s)
{
    g_autofree VbrSection *map = g_new(VbrSection, s->sections->len);
    g_autoptr(GHashTable) dimms = find_dimms();
    GHashTable *files = g_hash_table_new(NULL, NULL);

    s->large_pages = false;
    for (guint i = 0; i < s->sections->len; i++) {
        map[i] = to_vbr_section(s, &g_array_index(s->sections,
                                                  MemoryRegionSection, i),
                                dimms, files);
        s->large_pages |= map[i].page_size > map[i].host_page_size;
    }
    /* A block that is gone may have another's address later. */
    g_clear_pointer(&s->files, g_hash_table_unref);
    s->files = files;
    trace_virtio_balloon_rs_memory(s->sections->len);
    tell_map(s, map, s->sections->len);
    /* Who plugs memory counts it only after it is mapped. */
    qemu_bh_schedule(s->ram_bh);
}

void vbr_memory_tell_anew(VirtIOBalloonRs *s)
{
    tell_map(s, NULL, 0);
    vbr_memory_tell(s);
    vbr_parts_tell(s);
}

static void vbr_memory_commit(MemoryListener *listener)
{
    VirtIOBalloonRs *s = container_of(listener, VirtIOBalloonRs, listener);
    GArray *last = s->sections;
    VbrStatus status;

    s->sections = s->next_sections;
    s->next_sections = last;
    vbr_memory_tell(s);
    vbr_parts_watch(s);
    if (s->memory_went) {
        s->memory_went = false;
        vbr_migration_lock();
        status = vbr_hints_memory_changed(s->hints);
        s->hints_lost |= status != VBR_STATUS_OK;
        vbr_migration_unlock();
    }
    /*
     * Only now: the references keep the blocks alive that the library knew. If
     * it took the new map, or refused it, it knows them no more; if it
     * missed it, or is broken, it does nothing until it was told anew.
     */
    unref_sections(last);
}

void vbr_memory_init(VirtIOBalloonRs *s)
{
    open_pidfd(s);
    vbr_vhost_user_init();
    s->sections = g_array_new(false, false, sizeof(MemoryRegionSection));
    s->next_sections = g_array_new(false, false, sizeof(MemoryRegionSection));
    s->listener = (MemoryListener) {
        .name = "virtio-balloon-rs",
        .begin = vbr_memory_begin,
        .region_add = vbr_memory_add,
        .region_del = vbr_memory_del,
        .region_nop = vbr_memory_nop,
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
    g_clear_pointer(&s->files, g_hash_table_unref);
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

/*
 * Linux lets nobody drop locked pages, which QEMU's function asks for when the
 * file has its hole. They went with the file's then.
 */
static int punch_hole_locked(RAMBlock *rb, const VbrBlockSpan *span)
{
#ifdef CONFIG_FALLOCATE_PUNCH_HOLE
    return fallocate(qemu_ram_get_fd(rb),
                     FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     rb->fd_offset + span->offset, span->bytes) ? -errno : 0;
#else
    return -ENOSYS;
#endif
}

/*
 * The only place that may reach a file. QEMU's function punches a hole into it
 * whether the mapping is shared or not, and what lies behind a private one is
 * not ours: a template, or the image that other machines run on as well.
 */
static int punch_hole(RAMBlock *rb, const VbrBlockSpan *span)
{
    if (!qemu_ram_is_shared(rb)) {
        return -EINVAL;
    }
    if (should_mlock(mlock_state) && qemu_ram_get_fd(rb) >= 0) {
        return punch_hole_locked(rb, span);
    }
    return ram_block_discard_range(rb, span->offset, span->bytes);
}

static int vbr_host_discard(void *opaque, void *block,
                            const VbrBlockSpan *spans, size_t count,
                            size_t *done)
{
    RAMBlock *rb = block;

    for (; *done < count; ++*done) {
        const VbrBlockSpan *span = &spans[*done];
        int ret = punch_hole(rb, span);

        trace_virtio_balloon_rs_discard(rb->idstr, span->offset, span->bytes,
                                        ret);
        if (ret) {
            return ret;
        }
    }
    return 0;
}

/* Gives @advice on what is left after a call for all spans at once. */
static int advise_each(VirtIOBalloonRs *s, RAMBlock *rb,
                       const VbrBlockSpan *spans, size_t count, int advice,
                       size_t *done)
{
    *done = advise_at_once(s, rb, spans, count, advice);
    for (; *done < count; ++*done) {
        const VbrBlockSpan *span = &spans[*done];
        int ret = madvise(rb->host + span->offset, span->bytes, advice);

        ret = ret ? -errno : 0;
        trace_virtio_balloon_rs_discard(rb->idstr, span->offset, span->bytes,
                                        ret);
        if (ret) {
            return ret;
        }
    }
    return 0;
}

static int vbr_host_drop_private(void *opaque, void *block,
                                 const VbrBlockSpan *spans, size_t count,
                                 size_t *done)
{
    return advise_each(opaque, block, spans, count, MADV_DONTNEED, done);
}

static int vbr_host_free(void *opaque, void *block,
                         const VbrBlockSpan *spans, size_t count,
                         size_t *done)
{
    return advise_each(opaque, block, spans, count, MADV_FREE, done);
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
        .drop_private = vbr_host_drop_private,
        .free = vbr_host_free,
        .populate = vbr_host_populate,
    };
}
