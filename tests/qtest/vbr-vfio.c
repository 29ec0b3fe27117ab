/*
 * A stand-in for Linux's VFIO: devices that do nothing but migrate, and log
 * what they write
 *
 * QEMU's system calls that concern VFIO are sent here by seccomp, and answered
 * in the kernel's place. A device's configuration space is a file in memory,
 * which QEMU reads and writes as it would the device's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include "vbr-vfio.h"

#define CONFIG_OFFSET 4096
#define CONFIG_SIZE 256
#define FIRST_GROUP 70
#define NAME "vbr-vfio-"

typedef struct Device {
    VbrVfioLog log;
    bool refuses;
    uint32_t state;
    char *path;
} Device;

typedef struct Call {
    struct seccomp_notif *n;
    int mem;                    /* the caller's memory */
    uint64_t arg;
    int give_fd;                /* what the caller gets as answer, or -1 */
} Call;

static struct {
    int notify;
    char *dir;
    Device device[VBR_VFIO_DEVICES];
    bool apart;
    int containers;
    bool taken[VBR_VFIO_DEVICES];
    GMutex lock;
} host;

static void get(Call *c, uint64_t at, void *to, size_t size)
{
    g_assert_cmpint(pread(c->mem, to, size, at), ==, size);
}

static void put(Call *c, uint64_t at, const void *from, size_t size)
{
    g_assert_cmpint(pwrite(c->mem, from, size, at), ==, size);
}

static void get_text(Call *c, uint64_t at, char *to, size_t size)
{
    /* It may end where the caller's memory does. */
    ssize_t got = pread(c->mem, to, size - 1, at);

    to[MAX(got, 0)] = 0;
}

static int new_file(const char *kind, int number)
{
    g_autofree char *name = g_strdup_printf(NAME "%s%d", kind, number);
    int fd = memfd_create(name, MFD_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static int new_device(int number)
{
    /* Vendor and device, of which nobody knows a quirk. */
    static const uint8_t ids[] = { 0x36, 0x1b, 0xff, 0x00 };
    int fd = new_file("device", number);

    g_assert_cmpint(ftruncate(fd, CONFIG_OFFSET + CONFIG_SIZE), ==, 0);
    g_assert_cmpint(pwrite(fd, ids, sizeof(ids), CONFIG_OFFSET), ==,
                    sizeof(ids));
    return fd;
}

/* A file of the caller's, beside the answer; its number there. */
static int add_file(Call *c, int fd)
{
    struct seccomp_notif_addfd add = { .id = c->n->id, .srcfd = fd };
    int there = ioctl(host.notify, SECCOMP_IOCTL_NOTIF_ADDFD, &add);

    g_assert_cmpint(there, >=, 0);
    close(fd);
    return there;
}

static int migration_state(Call *c, Device *d, bool set)
{
    struct vfio_device_feature_mig_state state;
    uint64_t at = c->arg + sizeof(struct vfio_device_feature);

    get(c, at, &state, sizeof(state));
    if (set) {
        d->state = state.device_state;
    }
    state.device_state = d->state;
    state.data_fd = -1;
    if (set && (d->state == VFIO_DEVICE_STATE_STOP_COPY ||
                d->state == VFIO_DEVICE_STATE_RESUMING)) {
        state.data_fd = add_file(c, new_file("state", 0));
    }
    put(c, at, &state, sizeof(state));
    return 0;
}

static int start_log(Device *d)
{
    d->log.starts++;
    if (d->refuses) {
        return -EIO;
    }
    /* As Linux has it. */
    g_assert(!d->log.on);
    d->log.on = true;
    return 0;
}

static int feature(Call *c, Device *d)
{
    struct vfio_device_feature f;
    uint64_t at = c->arg + sizeof(f);
    uint64_t migration = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P;
    uint64_t data_size = 4096;

    get(c, c->arg, &f, sizeof(f));
    switch (f.flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_MIGRATION:
        put(c, at, &migration, sizeof(migration));
        return 0;
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
        return migration_state(c, d, f.flags & VFIO_DEVICE_FEATURE_SET);
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
        put(c, at, &data_size, sizeof(data_size));
        return 0;
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
        return f.flags & VFIO_DEVICE_FEATURE_PROBE ? 0 : start_log(d);
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
        d->log.on = false;
        return 0;
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
        d->log.reports++;
        return d->log.on ? 0 : -EINVAL;
    default:
        return -ENOTTY;
    }
}

static int device_call(Call *c, Device *d, unsigned int request)
{
    struct vfio_device_info info = {
        .argsz = sizeof(info),
        .flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
        .num_regions = VFIO_PCI_NUM_REGIONS,
        .num_irqs = VFIO_PCI_NUM_IRQS,
    };
    struct vfio_region_info region;

    switch (request) {
    case VFIO_DEVICE_GET_INFO:
        put(c, c->arg, &info, offsetof(struct vfio_device_info, cap_offset));
        return 0;
    case VFIO_DEVICE_GET_REGION_INFO:
        get(c, c->arg, &region, sizeof(region));
        region.flags = region.cap_offset = region.size = region.offset = 0;
        if (region.index == VFIO_PCI_CONFIG_REGION_INDEX) {
            region.flags = VFIO_REGION_INFO_FLAG_READ |
                           VFIO_REGION_INFO_FLAG_WRITE;
            region.size = CONFIG_SIZE;
            region.offset = CONFIG_OFFSET;
        }
        put(c, c->arg, &region, sizeof(region));
        return 0;
    case VFIO_DEVICE_FEATURE:
        return feature(c, d);
    case VFIO_DEVICE_RESET:
        d->state = VFIO_DEVICE_STATE_RUNNING;
        return 0;
    default:
        return -EINVAL;
    }
}

/* What is behind the caller's file @fd, after our name for it; or NULL. */
static char *our_file(Call *c, int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/%u/fd/%d", c->n->pid, fd);
    g_autofree char *file = g_file_read_link(path, NULL);
    const char *ours = file ? strstr(file, "memfd:" NAME) : NULL;

    return ours ? g_strdup(ours + strlen("memfd:" NAME)) : NULL;
}

static int join_container(Call *c)
{
    g_autofree char *container = NULL;
    bool *taken;
    int fd;

    get(c, c->arg, &fd, sizeof(fd));
    container = our_file(c, fd);
    taken = &host.taken[atoi(container + strlen("container"))];
    if (*taken && host.apart) {
        return -EINVAL;
    }
    *taken = true;
    return 0;
}

static int group_call(Call *c, unsigned int request)
{
    struct vfio_group_status status = {
        .argsz = sizeof(status), .flags = VFIO_GROUP_FLAGS_VIABLE,
    };
    char name[32];

    switch (request) {
    case VFIO_GROUP_GET_STATUS:
        put(c, c->arg, &status, sizeof(status));
        return 0;
    case VFIO_GROUP_SET_CONTAINER:
        return join_container(c);
    case VFIO_GROUP_UNSET_CONTAINER:
        return 0;
    case VFIO_GROUP_GET_DEVICE_FD:
        get_text(c, c->arg, name, sizeof(name));
        c->give_fd = new_device(atoi(name));
        return 0;
    default:
        return -EINVAL;
    }
}

static int container_call(Call *c, unsigned int request)
{
    struct vfio_iommu_type1_info info = {
        .argsz = sizeof(info),
        .flags = VFIO_IOMMU_INFO_PGSIZES,
        .iova_pgsizes = 4096,
    };

    switch (request) {
    case VFIO_CHECK_EXTENSION:
        return c->arg == VFIO_TYPE1v2_IOMMU;
    case VFIO_IOMMU_GET_INFO:
        put(c, c->arg, &info, offsetof(struct vfio_iommu_type1_info,
                                       cap_offset));
        return 0;
    case VFIO_GET_API_VERSION:
    case VFIO_SET_IOMMU:
    case VFIO_IOMMU_MAP_DMA:
    case VFIO_IOMMU_UNMAP_DMA:
        return 0;
    default:
        return -EINVAL;
    }
}

/* False: it is none of ours, and the kernel's to answer. */
static bool answer_ioctl(Call *c, int *answer)
{
    unsigned int request = c->n->data.args[1];
    g_autofree char *ours = our_file(c, c->n->data.args[0]);

    if (!ours) {
        return false;
    }
    c->arg = c->n->data.args[2];
    if (g_str_has_prefix(ours, "device")) {
        *answer = device_call(c, &host.device[atoi(ours + 6)], request);
    } else if (g_str_has_prefix(ours, "group")) {
        *answer = group_call(c, request);
    } else {
        *answer = container_call(c, request);
    }
    return true;
}

static bool answer_open(Call *c, int *answer)
{
    char path[64];
    int number;

    get_text(c, c->n->data.args[1], path, sizeof(path));
    *answer = 0;
    if (!strcmp(path, "/dev/vfio/vfio")) {
        c->give_fd = new_file("container", host.containers++);
    } else if (sscanf(path, "/dev/vfio/%d", &number) == 1) {
        c->give_fd = new_file("group", number);
    } else {
        return false;
    }
    return true;
}

static void answer_call(struct seccomp_notif *n)
{
    g_autofree char *mem = g_strdup_printf("/proc/%u/mem", n->pid);
    Call c = { .n = n, .mem = open(mem, O_RDWR), .give_fd = -1 };
    struct seccomp_notif_resp resp = { .id = n->id };
    int answer = 0;
    bool ours = false;

    if (c.mem >= 0) {
        g_mutex_lock(&host.lock);
        ours = n->data.nr == SYS_ioctl ? answer_ioctl(&c, &answer)
                                       : answer_open(&c, &answer);
        g_mutex_unlock(&host.lock);
        close(c.mem);
    }
    if (!ours) {
        resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    } else if (c.give_fd >= 0) {
        resp.val = add_file(&c, c.give_fd);
    } else if (answer < 0) {
        resp.error = answer;
    } else {
        resp.val = answer;
    }
    /* The caller may have been killed meanwhile. */
    ioctl(host.notify, SECCOMP_IOCTL_NOTIF_SEND, &resp);
}

static void *serve(void *unused)
{
    while (g_atomic_int_get(&host.notify) < 0) {
        g_usleep(1000);
    }
    for (;;) {
        struct seccomp_notif n = {};

        if (!ioctl(host.notify, SECCOMP_IOCTL_NOTIF_RECV, &n)) {
            answer_call(&n);
        } else if (errno != EINTR && errno != ENOENT) {
            return NULL;
        }
    }
}

/* Opening files and VFIO's own requests are sent to serve(). */
static int filter_calls(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 offsetof(struct seccomp_data, args[1])),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xffffff00),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, _IO(VFIO_TYPE, 0), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { ARRAY_SIZE(filter), filter };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) {
        return -1;
    }
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                   SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static void make_device(int number)
{
    Device *d = &host.device[number];
    g_autofree char *group = g_strdup_printf("groups/%d",
                                             FIRST_GROUP + number);
    g_autofree char *link = NULL;

    d->state = VFIO_DEVICE_STATE_RUNNING;
    d->path = g_strdup_printf("%s/%d", host.dir, number);
    g_assert_cmpint(mkdir(d->path, 0700), ==, 0);
    link = g_build_filename(d->path, "iommu_group", NULL);
    g_assert_cmpint(symlink(group, link), ==, 0);
}

bool vbr_vfio_start(void)
{
    int notify;

    host.notify = -1;
    host.dir = g_dir_make_tmp("vbr-vfio-XXXXXX", NULL);
    g_assert_nonnull(host.dir);
    for (int i = 0; i < VBR_VFIO_DEVICES; i++) {
        make_device(i);
    }
    /* It is not filtered itself. */
    g_thread_unref(g_thread_new("vfio", serve, NULL));
    notify = filter_calls();
    if (notify < 0) {
        g_test_skip("seccomp does not let this process answer for the kernel");
        return false;
    }
    g_atomic_int_set(&host.notify, notify);
    return true;
}

const char *vbr_vfio_path(int device)
{
    return host.device[device].path;
}

VbrVfioLog vbr_vfio_log(int device)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&host.lock);

    return host.device[device].log;
}

void vbr_vfio_refuse_log(int device)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&host.lock);

    host.device[device].refuses = true;
}

void vbr_vfio_keep_apart(void)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&host.lock);

    host.apart = true;
}

void vbr_vfio_stop(void)
{
    for (int i = 0; i < VBR_VFIO_DEVICES; i++) {
        g_autofree char *link = g_build_filename(host.device[i].path,
                                                 "iommu_group", NULL);

        unlink(link);
        rmdir(host.device[i].path);
    }
    rmdir(host.dir);
}
