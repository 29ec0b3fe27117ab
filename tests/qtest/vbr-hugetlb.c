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

/* The pool that was made larger, and how many pages it had before. */
static struct {
    uint64_t page_size;
    uint64_t before;
    /* Locked: a pool has one size, and tests run beside each other. */
    int lock;
} pool = { .lock = -1 };

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

static void set_size(uint64_t page_size, uint64_t n)
{
    g_autofree char *file = pool_file(page_size, "nr_hugepages");
    FILE *f = fopen(file, "w");

    if (f) {
        fprintf(f, "%" PRIu64 "\n", n);
        fclose(f);
    }
}

static void give_back(void *unused)
{
    set_size(pool.page_size, pool.before);
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
    g_autofree char *why = NULL;
    uint64_t have;

    lock_pool(page_size);
    if (!read_number(page_size, "nr_hugepages", &pool.before) ||
        !read_number(page_size, "free_hugepages", &have)) {
        why = g_strdup_printf("this host has no huge pages of %" PRIu64 " MiB",
                              page_size / (uint64_t)MiB);
        g_test_skip(why);
        unlock_pool();
        return false;
    }
    pool.page_size = page_size;
    qtest_add_abrt_handler(give_back, &pool);
    if (have < n) {
        set_size(page_size, pool.before + n - have);
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
    unlock_pool();
    qtest_remove_abrt_handler(&pool);
}

uint64_t vbr_hugetlb_free(uint64_t page_size)
{
    uint64_t n;

    g_assert(read_number(page_size, "free_hugepages", &n));
    return n;
}
