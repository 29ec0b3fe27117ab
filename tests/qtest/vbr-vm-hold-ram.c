/*
 * virtio-balloon-rs: many pages at once, preallocated ones, migrated ones
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include "vbr-calm.h"
#include "vbr-hint.h"
#include "vbr-pair.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "qobject/qdict.h"

#define HUGE (2 * MiB)
#define PATTERN 0x2d
#define NO_MTH (1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST)

/* Every second of these is inflated. */
#define AREA_PAGES 2048
#define SCATTERED (AREA_PAGES / 2)

/* What the device asked the host for, by its own account. */
typedef struct Calls {
    unsigned int many, spans, single;
} Calls;

static Calls calls_of(const char *log)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    Calls calls = { };
    int i;

    g_assert(g_file_get_contents(log, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", 0);
    for (i = 0; lines[i]; i++) {
        const char *spans = strstr(lines[i], " at once, ");

        if (spans) {
            calls.many++;
            calls.spans += g_ascii_strtoull(spans + strlen(" at once, "),
                                            NULL, 10);
        } else if (strstr(lines[i], "virtio_balloon_rs_discard")) {
            calls.single++;
        }
    }
    return calls;
}

static void assert_scattered_gone(VbrDev *d, uint64_t base)
{
    const size_t size = AREA_PAGES * VBR_PAGE;
    g_autofree uint8_t *now = g_malloc(size), *expected = g_malloc(size);
    size_t i;

    g_assert_cmpuint(vbr_resident(d, base, AREA_PAGES), ==,
                     AREA_PAGES - SCATTERED);
    qtest_bufread(d->qts, base, now, size);
    memset(expected, PATTERN, size);
    for (i = 0; i < size; i += 2 * VBR_PAGE) {
        memset(expected + i, 0, VBR_PAGE);
    }
    g_assert(!memcmp(now, expected, size));
}

static Calls check_scattered(const char *memory, uint64_t refuse)
{
    g_autofree char *log = vbr_stream_name();
    g_autofree char *args = g_strdup_printf(
        "%s -trace virtio_balloon_rs_advise -trace virtio_balloon_rs_discard "
        "-D %s", memory, log);
    VbrVm *vm = vbr_hold_machine(args, NULL, refuse);
    VbrDev *d = &vm->d;
    uint64_t base = vbr_pages(d, AREA_PAGES, HUGE);
    uint32_t pfns[SCATTERED];
    Calls calls;
    int i;

    vbr_fill(d, base, AREA_PAGES, PATTERN);
    for (i = 0; i < SCATTERED; i++) {
        pfns[i] = (base >> VBR_PAGE_SHIFT) + 2 * i;
    }
    vbr_send(d, VBR_INFLATE, pfns, SCATTERED);
    if (!refuse) {
        vbr_wait_held(d);
    }
    assert_scattered_gone(d, base);
    vbr_assert_counter(d, "discards", SCATTERED);
    vbr_assert_counter(d, "discard-errors", 0);
    vbr_assert_counter(d, "discarded-bytes", SCATTERED * VBR_PAGE);
    vbr_vm_free(vm);
    calls = calls_of(log);
    unlink(log);
    g_assert_cmpuint(calls.spans + calls.single, ==, SCATTERED);
    return calls;
}

/* Whether the kernel gives several parts of memory back in one call. */
static bool kernel_takes_many(void)
{
#ifdef SYS_process_madvise
    size_t page = qemu_real_host_page_size();
    char *mem = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct iovec iov[] = { { mem, page }, { mem + 2 * page, page } };
    int fd = syscall(SYS_pidfd_open, getpid(), 0);
    ssize_t done;

    g_assert(mem != MAP_FAILED);
    done = syscall(SYS_process_madvise, fd, iov, 2, MADV_DONTNEED, 0);
    close(fd);
    munmap(mem, 3 * page);
    return done == 2 * page;
#else
    return false;
#endif
}

static void test_scattered(const void *data)
{
    uint64_t refuse = data ? NO_MTH : 0;
    Calls calls = check_scattered("", refuse);

    g_test_message("%u spans in %u calls, and %u alone", calls.spans,
                   calls.many, calls.single);
    if (!kernel_takes_many()) {
        g_test_skip("this kernel does not give back many pages in one call: "
                    "they were given back one by one");
        return;
    }
    /* A call for some hundreds. */
    g_assert_cmpuint(calls.many + calls.single, <=, SCATTERED / 100);
}

/* Memory that others have, too: a hole in its file for each. */
static void test_scattered_memfd(void)
{
    Calls calls = check_scattered("-M pc,memory-backend=ram -m 128M -object "
                                  "memory-backend-memfd,id=ram,size=128M,"
                                  "share=on", 0);

    g_assert_cmpuint(calls.many, ==, 0);
}

/* From here on this program and what it starts may not call it. */
static void refuse_many(void)
{
#ifdef SYS_process_madvise
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_madvise, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog prog = { ARRAY_SIZE(filter), filter };

    g_assert_cmpint(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), ==, 0);
    g_assert_cmpint(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), ==, 0);
#endif
}

/* As on an older kernel, or in a sandbox: page by page then. */
static void test_scattered_refused(const void *data)
{
    if (g_test_subprocess()) {
        Calls calls;

        refuse_many();
        g_assert(!kernel_takes_many());
        calls = check_scattered("", data ? NO_MTH : 0);
        g_assert_cmpuint(calls.many, ==, 0);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
}

/* What a balloon of some type does to memory that was there from the start. */
typedef struct Preallocated {
    size_t before, inflated, deflated, used;
} Preallocated;

static Preallocated preallocated(const char *type)
{
    const size_t n = 512;
    VbrVm *vm = vbr_pc("-M pc,memory-backend=ram -m 128M -object "
                       "memory-backend-ram,id=ram,size=128M,prealloc=on "
                       "-device %s," VBR_SLOT_ARG, type);
    VbrDev *d = &vm->d;
    Preallocated seen;
    uint64_t base;

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    base = vbr_pages(d, n, HUGE);
    seen.before = vbr_resident(d, base, n);
    vbr_send_range(d, VBR_INFLATE, base, n / 2);
    vbr_wait_held(d);
    seen.inflated = vbr_resident(d, base, n);
    vbr_send_range(d, VBR_DEFLATE, base, n / 2);
    vbr_settle(d);
    seen.deflated = vbr_resident(d, base, n);
    vbr_fill(d, base, n / 4, PATTERN);
    seen.used = vbr_resident(d, base, n);
    vbr_assert_filled(d, base, n / 4, PATTERN);
    vbr_vm_free(vm);
    return seen;
}

static void test_prealloc(void)
{
    Preallocated ours = preallocated(VBR_PCI);
    Preallocated stock = preallocated("virtio-balloon-pci");

    g_assert_cmpuint(ours.before, ==, 512);
    g_assert_cmpuint(ours.inflated, ==, 256);
    g_assert_cmpuint(ours.deflated, ==, 256);
    g_assert_cmpuint(ours.used, ==, 384);
    g_assert(!memcmp(&ours, &stock, sizeof(ours)));
}

#define NPAGES 64

/* How often the migration has looked which pages were written. */
static int64_t syncs(QTestState *qts)
{
    QDict *ret = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-migrate' }");
    int64_t n = 0;

    if (qdict_haskey(ret, "ram")) {
        n = qdict_get_int(qdict_get_qdict(ret, "ram"), "dirty-sync-count");
    }
    qobject_unref(ret);
    return n;
}

static void wait_sync(QTestState *qts)
{
    VbrWait wait = { "a synchronization" };

    while (!syncs(qts)) {
        vbr_wait(&wait);
    }
}

/* What is held is given back before a migration reads it. */
static bool sync_gives_back(const void *data)
{
    VbrCalm calm = vbr_calm_begin();
    VbrVm *vm = vbr_hold_machine("", VBR_LONG, 0);
    VbrDev *d = &vm->d;
    uint64_t base = vbr_pages(d, NPAGES, HUGE);
    size_t before, after;
    bool calmly;

    vbr_fill(d, base, NPAGES + 1, PATTERN);
    vbr_hint_ballast(d);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_calm_start_clock(&calm);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    before = vbr_resident(d, base, NPAGES);
    vbr_migrate(d->qts, VBR_NOWHERE);
    wait_sync(d->qts);
    after = vbr_resident(d, base, NPAGES);
    calmly = vbr_calm_lasted(&calm, VBR_LONG_MS);
    if (calmly) {
        g_assert_cmpuint(before, ==, NPAGES);
        g_assert_cmpuint(after, ==, 0);
    }
    vbr_hint_cancel(d);
    vbr_vm_free(vm);
    return calmly;
}

static void test_sync(void)
{
    vbr_calmly(sync_gives_back, NULL);
}

/* Held when the migration starts, and while it is on its way. */
static void test_moved(void)
{
    VbrPair p = vbr_pair("", VBR_LONG, 0);
    VbrDev *d = &p.from->d;
    uint64_t first = vbr_hint_area(d, 2 * NPAGES);
    uint64_t second = first + NPAGES * VBR_PAGE;

    vbr_fill(d, first, 2 * NPAGES + 1, PATTERN);
    vbr_send_range(d, VBR_INFLATE, first, NPAGES);
    vbr_pair_move(&p);
    wait_sync(d->qts);
    vbr_send_range(d, VBR_INFLATE, second, NPAGES / 2);
    vbr_send_range(d, VBR_INFLATE, second + NPAGES / 2 * VBR_PAGE,
                   NPAGES / 2);
    vbr_send_range(d, VBR_DEFLATE, second, NPAGES / 2);
    vbr_fill(d, second, NPAGES / 2, PATTERN + 1);
    vbr_pair_arrive(&p);

    d = &p.to->d;
    vbr_assert_gone(d, first, NPAGES);
    vbr_assert_kept(d, second, NPAGES / 2, PATTERN + 1);
    vbr_assert_gone(d, second + NPAGES / 2 * VBR_PAGE, NPAGES / 2);
    vbr_assert_kept(d, second + NPAGES * VBR_PAGE, 1, PATTERN);
    vbr_assert_counter(d, "ballooned-bytes", NPAGES * 3 / 2 * VBR_PAGE);
    vbr_assert_counter(d, "held-bytes", 0);
    vbr_send_range(d, VBR_DEFLATE, first, NPAGES);
    vbr_fill(d, first, NPAGES, PATTERN + 2);
    vbr_wait_held(d);
    vbr_assert_kept(d, first, NPAGES, PATTERN + 2);
    vbr_pair_free(&p);
}

/* The host's account of waits for memory, as this program and QEMU see it. */
static void write_pressure(const char *file, unsigned int total)
{
    g_autofree char *text = g_strdup_printf(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=%u\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", total);

    g_assert_true(g_file_set_contents_full(file, text, -1,
                                           G_FILE_SET_CONTENTS_NONE, 0600,
                                           NULL));
}

static bool fake_pressure(const char *file)
{
    write_pressure(file, 0);
    return !unshare(CLONE_NEWNS) &&
           !mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
           !mount(file, "/proc/pressure/memory", NULL, MS_BIND, NULL);
}

/*
 * Without pressure a page waits for two turns of the timer if nothing else
 * happens, with it for one. A slow host can make that look longer, not shorter.
 */
static bool gone_early(const char *file, unsigned int total)
{
    VbrVm *vm = vbr_hold_machine("", VBR_LONG, 0);
    VbrDev *d = &vm->d;
    /* In a part of memory where huge pages can be. */
    uint64_t base = vbr_pages(d, 16, HUGE);
    gint64 began, took;

    vbr_fill(d, base, 16, PATTERN);
    began = g_get_monotonic_time();
    vbr_send_range(d, VBR_INFLATE, base, 16);
    write_pressure(file, total);
    vbr_hold_wait_gone(d, base, 16);
    took = g_get_monotonic_time() - began;
    vbr_vm_free(vm);
    g_test_message("gone after %" PRId64 " us", took);
    return took < VBR_LONG_MS * 950;
}

/* How often the next test tries, and where it says why it did in vain. */
#define ATTEMPTS 20
#define PRESSURE_FILE "VBR_PRESSURE_FILE"
#define NOT_LET "nothing can be mounted here"
#define TOO_SLOW "this host is too slow to tell early from late"

/* In a process of its own, for which the account of pressure is this file. */
static void under_pressure(const char *file)
{
    unsigned int total = 0;

    if (!fake_pressure(file)) {
        g_assert_true(g_file_set_contents(file, NOT_LET, -1, NULL));
        return;
    }
    while (!gone_early(file, ++total)) {
        if (total == ATTEMPTS) {
            g_assert_true(g_file_set_contents(file, TOO_SLOW, -1, NULL));
            return;
        }
    }
}

static void test_pressure(void)
{
    g_autofree char *file = NULL, *text = NULL;
    int fd;

    if (g_test_subprocess()) {
        under_pressure(g_getenv(PRESSURE_FILE));
        return;
    }
    if (geteuid() || access("/proc/pressure/memory", R_OK)) {
        g_test_skip("only root can show another account of pressure, and "
                    "only where there is one");
        return;
    }
    fd = g_file_open_tmp(NULL, &file, NULL);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_setenv(PRESSURE_FILE, file, true);
    g_test_trap_subprocess(NULL, 0, 0);
    g_assert_true(g_file_get_contents(file, &text, NULL, NULL));
    unlink(file);
    g_test_trap_assert_passed();
    if (!strcmp(text, TOO_SLOW) || !strcmp(text, NOT_LET)) {
        g_test_skip(text);
    }
}

void vbr_add_hold_ram_tests(void)
{
    static const bool untold = true;

    qtest_add_data_func("virtio-balloon-rs/hold-ram/scattered", NULL,
                        test_scattered);
    qtest_add_data_func("virtio-balloon-rs/hold-ram/scattered-untold",
                        &untold, test_scattered);
    qtest_add_data_func("virtio-balloon-rs/hold-ram/scattered-refused", NULL,
                        test_scattered_refused);
    qtest_add_data_func("virtio-balloon-rs/hold-ram/scattered-refused-untold",
                        &untold, test_scattered_refused);
    qtest_add_func("virtio-balloon-rs/hold-ram/scattered-memfd",
                   test_scattered_memfd);
    qtest_add_func("virtio-balloon-rs/hold-ram/prealloc", test_prealloc);
    qtest_add_func("virtio-balloon-rs/hold-ram/sync", test_sync);
    qtest_add_func("virtio-balloon-rs/hold-ram/moved", test_moved);
    qtest_add_func("virtio-balloon-rs/hold-ram/pressure", test_pressure);
}
