/*
 * The host's pool of huge pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/file.h>
#include "qemu/units.h"
#include "tests/qtest/libqtest.h"
#include "vbr-hugetlb.h"

/* The pool that was made larger: its file, and what that held before. */
static struct {
    char *file;
    char *before;
    /* Locked: a pool has one size, and tests run beside each other. */
    int lock;
} pool = { .lock = -1 };

/* Signals by which somebody ends a test program. */
static const int ends[] = { SIGINT, SIGTERM };

static char *pool_file(uint64_t page_size, const char *name)
{
    return g_strdup_printf("/sys/kernel/mm/hugepages/hugepages-%" PRIu64
                           "kB/%s", page_size / (uint64_t)KiB, name);
}

static bool read_number(uint64_t page_size, const char *name, uint64_t *val)
{
    g_autofree char *file = pool_file(page_size, name);
    g_autofree char *text = NULL;

    if (!g_file_get_contents(file, &text, NULL, NULL)) {
        return false;
    }
    *val = g_ascii_strtoull(text, NULL, 10);
    return true;
}

/* What a signal's handler may do, and no more. */
static void set_size(const char *n)
{
    int fd = open(pool.file, O_WRONLY);
    ssize_t done = fd < 0 ? fd : write(fd, n, strlen(n));

    if (done < 0) {
        /* The pool stays as it is: tests that need more of it are skipped. */
        return;
    }
    close(fd);
}

static void give_back(void *unused)
{
    set_size(pool.before);
}

/* The pool outlives this process; QEMU's memory does not. */
static void on_end(int signal)
{
    give_back(NULL);
    /* Now for what it does otherwise. */
    raise(signal);
}

static void catch_ends(void (*handler)(int))
{
    struct sigaction action = {
        .sa_handler = handler,
        .sa_flags = handler == SIG_DFL ? 0 : SA_RESETHAND,
    };

    for (int i = 0; i < ARRAY_SIZE(ends); i++) {
        sigaction(ends[i], &action, NULL);
    }
}

/* Waits until no other test has reserved pages of this size. */
static void lock_pool(uint64_t page_size)
{
    g_autofree char *file = pool_file(page_size, "nr_hugepages");

    pool.lock = open(file, O_RDONLY | O_CLOEXEC);
    while (pool.lock >= 0 && flock(pool.lock, LOCK_EX) < 0 && errno == EINTR) {
    }
}

static void unlock_pool(void)
{
    if (pool.lock >= 0) {
        close(pool.lock);
        pool.lock = -1;
    }
}

bool vbr_hugetlb_reserve(uint64_t page_size, uint64_t n)
{
    g_autofree char *why = NULL, *more = NULL;
    uint64_t before, have;

    lock_pool(page_size);
    if (!read_number(page_size, "nr_hugepages", &before) ||
        !read_number(page_size, "free_hugepages", &have)) {
        why = g_strdup_printf("this host has no huge pages of %" PRIu64 " MiB",
                              page_size / (uint64_t)MiB);
        g_test_skip(why);
        unlock_pool();
        return false;
    }
    pool.file = pool_file(page_size, "nr_hugepages");
    pool.before = g_strdup_printf("%" PRIu64 "\n", before);
    qtest_add_abrt_handler(give_back, &pool);
    catch_ends(on_end);
    if (have < n) {
        more = g_strdup_printf("%" PRIu64 "\n", before + n - have);
        set_size(more);
        read_number(page_size, "free_hugepages", &have);
    }
    if (have < n) {
        vbr_hugetlb_release();
        why = g_strdup_printf("cannot reserve %" PRIu64 " huge pages of %"
                              PRIu64 " MiB", n, page_size / (uint64_t)MiB);
        g_test_skip(why);
        return false;
    }
    return true;
}

void vbr_hugetlb_release(void)
{
    give_back(NULL);
    catch_ends(SIG_DFL);
    unlock_pool();
    qtest_remove_abrt_handler(&pool);
    g_free(pool.before);
    g_free(pool.file);
}

uint64_t vbr_hugetlb_free(uint64_t page_size)
{
    uint64_t n;

    g_assert(read_number(page_size, "free_hugepages", &n));
    return n;
}
