/*
 * Tests of memory that the device holds back for a while
 *
 * The device gives such memory back when its time is over, by the host's clock.
 * A test that wants to see it before cannot rely on being quick enough, but it
 * can tell whether it was.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-calm.h"
#include "vbr-probe.h"

#define ATTEMPTS 50
#define PRESSURE "/proc/pressure/memory"

/* How long programs on this host had to wait for memory, in microseconds. */
static uint64_t stalled_us(void)
{
    g_autofree char *text = NULL;
    const char *total;

    if (!g_file_get_contents(PRESSURE, &text, NULL, NULL)) {
        return 0;
    }
    total = strstr(text, "total=");
    g_assert_nonnull(total);
    return g_ascii_strtoull(total + strlen("total="), NULL, 10);
}

VbrCalm vbr_calm_begin(void)
{
    return (VbrCalm) { .stalled_us = stalled_us() };
}

void vbr_calm_start_clock(VbrCalm *calm)
{
    calm->began = g_get_monotonic_time();
}

bool vbr_calm_lasted(const VbrCalm *calm, int hold_ms)
{
    gint64 us = g_get_monotonic_time() - calm->began;

    return us < hold_ms * 500 && stalled_us() == calm->stalled_us;
}

void vbr_calmly(bool (*attempt)(const void *data), const void *data)
{
    int i;

    for (i = 0; i < ATTEMPTS; i++) {
        if (attempt(data)) {
            return;
        }
        g_test_message("the host was too slow or short of memory: once more");
    }
    g_test_skip("this host is too slow, or short of memory all the time");
}

VbrVm *vbr_hold_machine(const char *args, const char *props, uint64_t refuse)
{
    VbrVm *vm = vbr_pc("%s -device " VBR_PCI "," VBR_SLOT_ARG "%s%s", args,
                       props ? "," : "", props ?: "");

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, refuse);
    return vm;
}

void vbr_hold_wait_gone(VbrDev *d, uint64_t addr, size_t pages)
{
    VbrWait wait = { "pages to go" };

    while (vbr_resident(d, addr, pages)) {
        vbr_wait(&wait);
    }
}
