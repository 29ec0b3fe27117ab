/*
 * Machines with memory of each kind that a guest could name to its balloon
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include "vbr-hugetlb.h"
#include "vbr-kinds.h"
#include "vbr-probe.h"
#include "vbr-vmem.h"

#define SIZE (128 * MiB)
#define SHM "/dev/shm"
/* Above what the driver allocates. */
#define RAM_OFFSET (96 * MiB)
/* In a piece of memory that is not the machine's RAM, and behind a BAR. */
#define DEV_OFFSET (32 * MiB)
#define BAR_OFFSET (8 * MiB)
#define HUGE_UNIT (2 * MiB)
/* More than a QEMU of these tests has. */
#define LOCKED_BY_QEMU (4 * GiB)
/* The slots of the device with the memory. */
#define DEV_SLOT 7
#define DEV_ARG "addr=07.0,id=mem"

/* How much of virtio-mem is plugged, from its start on. */
#define PLUGGED (48 * MiB)

#define RAM_ARGS "-M pc,memory-backend=ram -m 128M "
#define DIMM_ARGS "-m 128M,slots=2,maxmem=1G "
#define FILE_ARGS "memory-backend-file,size=128M,mem-path=%s"

struct VbrKind {
    const char *name;
    /* With a %s for the path of the file, if there is one. */
    const char *args;
    enum { NO_FILE, EMPTY_FILE, TEMPLATE_FILE, MEMFD } file;
    bool huge;
    /* With memory that is locked. */
    bool locked;
    /* QEMU leaves it to the user to bring the file along. */
    bool not_migrated;
    /* The guest physical address; NULL for the machine's RAM. */
    uint64_t (*find)(VbrVm *vm);
};

static uint64_t dimm(VbrVm *vm)
{
    return vbr_memory_address(vm, "mem", "addr") + DEV_OFFSET;
}

static uint64_t pmem(VbrVm *vm)
{
    return vbr_memory_address(vm, "mem", "memaddr") + DEV_OFFSET;
}

static uint64_t bar(VbrVm *vm, int number)
{
    QPCIDevice *dev = qpci_device_find(vm->bus, QPCI_DEVFN(DEV_SLOT, 0));
    QPCIBar bar;

    g_assert_nonnull(dev);
    qpci_device_enable(dev);
    bar = qpci_iomap(dev, number, NULL);
    g_free(dev);
    return bar.addr + BAR_OFFSET;
}

static uint64_t ivshmem(VbrVm *vm)
{
    return bar(vm, 2);
}

static uint64_t vga(VbrVm *vm)
{
    return bar(vm, 0);
}

static void virtio_mem(VbrVm *vm, uint16_t type)
{
    vbr_vmem_request(vm, DEV_SLOT, type,
                     vbr_memory_address(vm, "mem", "memaddr"),
                     PLUGGED / VBR_VMEM_BLOCK);
}

void vbr_kind_replug(VbrPlace *p, bool plug)
{
    virtio_mem(p->vm, plug ? VIRTIO_MEM_REQ_PLUG : VIRTIO_MEM_REQ_UNPLUG);
}

static uint64_t plugged(VbrVm *vm)
{
    virtio_mem(vm, VIRTIO_MEM_REQ_PLUG);
    return pmem(vm);
}

static uint64_t unplugged(VbrVm *vm)
{
    virtio_mem(vm, VIRTIO_MEM_REQ_PLUG);
    return pmem(vm) + PLUGGED;
}

static const VbrKind kinds[] = {
    { "anonymous", "-m 128M" },
    { "numa", "-m 128M -object memory-backend-ram,id=m0,size=64M "
      "-object memory-backend-ram,id=m1,size=64M "
      "-numa node,memdev=m0 -numa node,memdev=m1" },
    { "dimm", DIMM_ARGS "-object memory-backend-ram,id=back,size=128M "
      "-device pc-dimm,id=mem,memdev=back", .find = dimm },
    { "virtio-mem", DIMM_ARGS
      "-object memory-backend-ram,id=back,size=128M,reserve=off "
      "-device virtio-mem-pci,memdev=back,requested-size=64M,block-size=2M,"
      DEV_ARG, .find = plugged },
    { "virtio-mem-unplugged", DIMM_ARGS
      "-object memory-backend-ram,id=back,size=128M,reserve=off "
      "-device virtio-mem-pci,memdev=back,requested-size=64M,block-size=2M,"
      DEV_ARG, .find = unplugged },
    { "ram-shared", RAM_ARGS
      "-object memory-backend-ram,id=ram,size=128M,share=on" },
    { "memfd", RAM_ARGS "-object memory-backend-memfd,id=ram,size=128M",
      MEMFD },
    { "memfd-private", RAM_ARGS
      "-object memory-backend-memfd,id=ram,size=128M,share=off" },
    { "file-shared", RAM_ARGS "-object " FILE_ARGS ",id=ram,share=on",
      EMPTY_FILE },
    { "template", RAM_ARGS "-object " FILE_ARGS ",id=ram,share=off",
      TEMPLATE_FILE },
    { "template-readonly", RAM_ARGS "-object " FILE_ARGS
      ",id=ram,share=off,readonly=on,rom=off", TEMPLATE_FILE },
    { "hugetlb", RAM_ARGS "-object memory-backend-memfd,id=ram,size=128M,"
      "hugetlb=on,hugetlbsize=2M", MEMFD, .huge = true },
    { "hugetlb-private", RAM_ARGS
      "-object memory-backend-memfd,id=ram,size=128M,"
      "hugetlb=on,hugetlbsize=2M,share=off", .huge = true },
    { "locked", "-m 128M -overcommit mem-lock=on", .locked = true },
    { "locked-memfd", RAM_ARGS "-overcommit mem-lock=on "
      "-object memory-backend-memfd,id=ram,size=128M", MEMFD, .locked = true },
    { "nvdimm", "-M pc,nvdimm=on " DIMM_ARGS "-object " FILE_ARGS
      ",id=back,share=on -device nvdimm,id=mem,memdev=back",
      EMPTY_FILE, .find = dimm },
    { "virtio-pmem", DIMM_ARGS "-object " FILE_ARGS ",id=back,share=on "
      "-device virtio-pmem-pci,memdev=back," DEV_ARG,
      EMPTY_FILE, .find = pmem, .not_migrated = true },
    { "ivshmem", "-m 128M -object " FILE_ARGS ",id=back,share=on "
      "-device ivshmem-plain,memdev=back,master=on," DEV_ARG,
      EMPTY_FILE, .find = ivshmem },
    { "vga", "-m 128M -device VGA," DEV_ARG, .find = vga },
};

const VbrKind *vbr_kind_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        if (!strcmp(kinds[i].name, name)) {
            return &kinds[i];
        }
    }
    return NULL;
}

const char *vbr_kind_name(unsigned int i)
{
    return i < ARRAY_SIZE(kinds) ? kinds[i].name : NULL;
}

/*
 * A file in memory, as templates and memory that is shared mostly are. It has
 * no name, so that nothing is left of it however the test ends. -1, and the
 * test is skipped, if there is no room for it.
 */
static int make_file(bool is_template)
{
    g_autofree uint8_t *bytes = g_malloc(MiB);
    struct statvfs fs;
    int fd, i;

    g_assert_cmpint(statvfs(SHM, &fs), ==, 0);
    if ((uint64_t)fs.f_bavail * fs.f_frsize < SIZE) {
        g_test_skip(SHM " has no room for a file of 128 MiB");
        return -1;
    }
    fd = open(SHM, O_TMPFILE | O_RDWR, 0600);
    g_assert_cmpint(fd, >=, 0);
    memset(bytes, VBR_FILE_BYTE, MiB);
    for (i = 0; is_template && i < SIZE / MiB; i++) {
        g_assert_cmpint(write(fd, bytes, MiB), ==, MiB);
    }
    g_assert_cmpint(ftruncate(fd, SIZE), ==, 0);
    return fd;
}

/* The memfd that is QEMU's memory, as a file of our own. */
static int open_memfd(pid_t pid)
{
    g_autofree char *name = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(name, 0, NULL);
    const char *number;

    while ((number = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(name, number, NULL);
        g_autofree char *link = g_file_read_link(path, NULL);

        if (link && g_str_has_prefix(link, "/memfd:memory-backend-memfd")) {
            return open(path, O_RDWR);
        }
    }
    g_assert_not_reached();
}

static void map_other(VbrPlace *p)
{
    if (p->fd < 0) {
        p->fd = open_memfd(qtest_pid(p->vm->qts));
    }
    g_assert_cmpint(p->fd, >=, 0);
    p->other = mmap(NULL, 4 * p->unit, PROT_READ, MAP_SHARED, p->fd,
                    p->offset);
    g_assert(p->other != MAP_FAILED);
}

bool vbr_can_lock(void)
{
    struct rlimit limit;
    size_t bytes;
    bool can;
    void *at;

    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    if (limit.rlim_cur >= LOCKED_BY_QEMU) {
        return true;
    }
    /* A program that may do so locks more than that. */
    bytes = limit.rlim_cur + MiB;
    at = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert(at != MAP_FAILED);
    can = !mlock(at, bytes);
    munmap(at, bytes);
    if (!can) {
        g_test_skip("RLIMIT_MEMLOCK is too small to lock QEMU's memory");
    }
    return can;
}

bool vbr_has_locked(VbrVm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status",
                                            (int)qtest_pid(vm->qts));
    g_autofree char *text = NULL;
    const char *locked;

    g_assert(g_file_get_contents(path, &text, NULL, NULL));
    locked = strstr(text, "VmLck:");
    g_assert_nonnull(locked);
    if (!g_ascii_strtoull(locked + strlen("VmLck:"), NULL, 10)) {
        g_test_skip("a QEMU with sanitizers does not lock its memory");
        return false;
    }
    return true;
}

VbrPlace *vbr_place(const VbrKind *kind, const char *props)
{
    VbrPlace *p;
    g_autofree char *args = NULL;

    if (kind->huge && !vbr_hugetlb_reserve(2 * MiB, SIZE / (2 * MiB))) {
        return NULL;
    }
    if (kind->locked && !vbr_can_lock()) {
        return NULL;
    }
    p = g_new0(VbrPlace, 1);
    p->kind = kind;
    p->unit = kind->huge ? HUGE_UNIT : VBR_SMALL_UNIT;
    p->fd = -1;
    if (kind->file == EMPTY_FILE || kind->file == TEMPLATE_FILE) {
        g_auto(GStrv) around = g_strsplit(kind->args, "%s", 2);
        g_autofree char *path = NULL;

        p->fd = make_file(kind->file == TEMPLATE_FILE);
        if (p->fd < 0) {
            g_free(p);
            return NULL;
        }
        path = g_strdup_printf("/proc/%d/fd/%d", getpid(), p->fd);
        args = g_strjoin(path, around[0], around[1], NULL);
    } else {
        args = g_strdup(kind->args);
    }
    /* Nothing waits: it is to be seen at once what becomes of it. */
    p->vm = vbr_pc("%s -device " VBR_PCI "," VBR_SLOT_ARG
                   ",inflate-hold-ms=0,%s", args, props);
    if (kind->locked && !vbr_has_locked(p->vm)) {
        vbr_vm_free(p->vm);
        g_free(p);
        return NULL;
    }
    vbr_vm_attach(p->vm, VBR_SLOT);
    vbr_start(&p->vm->d, 0);
    p->addr = kind->find ? kind->find(p->vm) : RAM_OFFSET;
    p->offset = !kind->find ? RAM_OFFSET :
                kind->find == ivshmem || kind->find == vga ? BAR_OFFSET
                                                           : DEV_OFFSET;
    if (kind->file) {
        map_other(p);
    }
    vbr_fill(&p->vm->d, p->addr, 4 * p->unit / VBR_PAGE, VBR_GUEST_BYTE);
    return p;
}

/* What no other page holds. */
static char *mark_of(uint64_t addr)
{
    return g_strdup_printf("marked by a test: %016" PRIx64 ".", addr);
}

void vbr_place_mark(VbrPlace *p)
{
    for (uint64_t i = 0; i < 2 * p->unit; i += VBR_PAGE) {
        g_autofree char *mark = mark_of(p->addr + p->unit + i);

        qtest_memwrite(p->vm->qts, p->addr + p->unit + i, mark, strlen(mark));
    }
}

bool vbr_place_migrates(VbrPlace *p)
{
    return !p->kind->not_migrated;
}

size_t vbr_place_marks_sent(VbrPlace *p)
{
    g_autofree char *stream = NULL;
    gsize len = 0;
    size_t found = 0;

    g_assert(g_file_get_contents(p->stream, &stream, &len, NULL));
    for (uint64_t i = 0; i < 2 * p->unit; i += VBR_PAGE) {
        g_autofree char *mark = mark_of(p->addr + p->unit + i);

        found += !!memmem(stream, len, mark, strlen(mark));
    }
    return found;
}

void vbr_place_unmark(VbrPlace *p)
{
    for (uint64_t i = 0; i < 2 * p->unit; i += VBR_PAGE) {
        g_autofree char *mark = mark_of(p->addr + p->unit + i);
        g_autofree char *held = g_strdup(mark);

        qtest_memread(p->vm->qts, p->addr + p->unit + i, held, strlen(mark));
        g_assert_cmpstr(held, ==, mark);
        memset(held, VBR_GUEST_BYTE, strlen(mark));
        qtest_memwrite(p->vm->qts, p->addr + p->unit + i, held, strlen(mark));
    }
}

void vbr_place_free(VbrPlace *p)
{
    bool huge = p->kind->huge;

    if (p->other) {
        munmap(p->other, 4 * p->unit);
        close(p->fd);
    }
    vbr_vm_free(p->vm);
    if (huge) {
        vbr_hugetlb_release();
    }
    g_free(p->stream);
    g_free(p);
}
