/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A bug in the library costs the device, not the machine; and the log says so. */

#include <stdbool.h>
#include <string.h>

#include "calls.h"
#include "check.h"
#include "host.h"
#include "themes.h"

static unsigned errors;
static unsigned warnings;

static void on_log(int level, const char *text)
{
    CHECK(level >= 1 && level <= 4);
    CHECK(text != NULL && strlen(text) > 0);
    CHECK(strchr(text, '\n') == NULL);
    errors += level == 1;
    warnings += level == 2;
}

/* A device that inflated, has a target and an `actual`, and then breaks. */
static struct host *broken_host(uint32_t *num_pages)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint8_t image[8] = { 0, 0, 0, 0, 0, 1 };
    bool done = true, changed;

    CHECK_OK(vbr_target_set(host->device, RAM / 2, RAM, num_pages));
    CHECK_OK(vbr_config_write(host->device, image, sizeof(image), &changed));
    inflate(host, 4 * MIB, 1 * MIB);
    guest_fill(host, 8 * MIB, 1 * MIB);
    CHECK_OK(vbr_inject_set("vbr_batch_run:1"));
    CHECK_OK(request_range(host, VBR_QUEUE_KIND_INFLATE, 8 * MIB, 1 * MIB));
    CHECK_STATUS(vbr_batch_run(host->device, VBR_INHIBIT_NO, &done), VBR_STATUS_BROKEN);
    CHECK(done);
    CHECK(guest_kept(host, 8 * MIB, 1 * MIB));
    return host;
}

static void a_reset_mends(void)
{
    uint32_t num_pages;
    bool changed = false;
    struct host *host = broken_host(&num_pages);
    struct VbrState state;

    expect_of_all_but_reset(host->device, VBR_STATUS_BROKEN);
    CHECK_OK(vbr_device_reset(host->device, &changed));
    CHECK(changed);

    /* The host's target and the counts stay, the rest is that of a new device. */
    CHECK_OK(vbr_state_save(host->device, 0, &state));
    CHECK_EQ(state.num_pages, num_pages);
    CHECK_EQ(state.actual, 0);
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.inflated_bytes, 1 * MIB);
    CHECK_EQ(counters.batches, 1);
    CHECK_EQ(counters.ballooned_bytes, 0);

    /* It does not know where memory is until it is told, and ignores what it does not know. */
    host_forget(host);
    CHECK_OK(vbr_device_set_features(host->device, ALL_FEATURES, false));
    inflate(host, 8 * MIB, 1 * MIB);
    CHECK(guest_kept(host, 8 * MIB, 1 * MIB));
    CHECK_EQ(host->discard_count, 0);
    CHECK_EQ(host_counters(host).ignored_bad_pfns, 256);
    CHECK_OK(vbr_device_set_memory(host->device, host->sections, SECTIONS));
    inflate(host, 8 * MIB, 1 * MIB);
    CHECK(guest_gone(host, 8 * MIB, 1 * MIB));
    CHECK_EQ(host_counters(host).ballooned_bytes, 1 * MIB);
    host_free(host);
}

/* It migrates as what a reset would make of it, and is broken afterwards as before. */
static void a_broken_device_can_be_saved(void)
{
    uint32_t num_pages;
    bool changed;
    struct host *from = broken_host(&num_pages);
    struct host *to = host_new(ALL_FEATURES);
    struct VbrState state;

    CHECK_STATUS(vbr_state_save(from->device, 3, &state), VBR_STATUS_BROKEN);
    CHECK_OK(vbr_state_save_broken(from->device, ALL_FEATURES, false, 3, &state));
    CHECK_EQ(state.num_pages, num_pages);
    CHECK_EQ(state.actual, 256);
    CHECK_EQ(state.stats_polling_interval, 3);
    CHECK_EQ(state.founding, 0);
    CHECK_STATUS(vbr_state_save(from->device, 3, &state), VBR_STATUS_BROKEN);
    CHECK_OK(vbr_ram_set(to->device, RAM, &changed));
    CHECK_OK(vbr_state_load(to->device, &state, NULL, RAM));
    host_free(from);
    host_free(to);
}

static void broken_hints_can_be_saved(void)
{
    struct VbrHints *hints;
    struct VbrHintView view;
    struct VbrHintRecord record;

    CHECK_OK(vbr_hints_new(&hints));
    CHECK_OK(vbr_inject_set("vbr_hints_view:1"));
    CHECK_STATUS(vbr_hints_view(hints, &view), VBR_STATUS_BROKEN);
    CHECK_STATUS(vbr_hints_save(hints, &record), VBR_STATUS_BROKEN);
    CHECK_OK(vbr_hints_save_broken(hints, &record));
    CHECK_EQ(record.cmd_id, VBR_HINT_ID_MIN);
    CHECK_STATUS(vbr_hints_save(hints, &record), VBR_STATUS_BROKEN);
    vbr_hints_free(hints);
}

static void a_broken_device_can_be_freed(void)
{
    uint32_t num_pages;

    host_free(broken_host(&num_pages));
}

/* A reset mends a device whatever call it broke in, and a reset that panics can be tried again. */
static void any_call_can_panic(void)
{
    struct host *host = host_new(ALL_FEATURES);
    bool changed;

    expect_of_each_call_to_break(host->device);
    CHECK_OK(vbr_inject_set("vbr_device_reset:1"));
    CHECK_STATUS(vbr_device_reset(host->device, &changed), VBR_STATUS_BROKEN);
    CHECK_OK(vbr_inject_set("vbr_device_reset:2"));
    CHECK_OK(vbr_device_reset(host->device, &changed));
    CHECK(vbr_inject_pending());
    CHECK_STATUS(vbr_device_reset(host->device, &changed), VBR_STATUS_BROKEN);
    CHECK(!vbr_inject_pending());
    CHECK_OK(vbr_device_reset(host->device, &changed));
    host_free(host);
}

/* What was handed back to the library is gone, however it fails: nobody else could free it. */
static void ends_that_panic(void)
{
    struct host *host = host_new(ALL_FEATURES);
    struct VbrHints *hints;

    CHECK_OK(vbr_hints_new(&hints));
    CHECK_OK(vbr_inject_set("vbr_hints_free:1"));
    vbr_hints_free(hints);
    CHECK(!vbr_inject_pending());
    CHECK_OK(vbr_inject_set("vbr_device_free:1"));
    host_free(host);
    CHECK(!vbr_inject_pending());
}

/* A call that answers that it did nothing did nothing, and breaks nothing. */
static void other_answers(void)
{
    struct host *host = host_new(ALL_FEATURES);
    uint64_t bytes = 77;
    char names[64] = "";

    CHECK_OK(vbr_inject_set("vbr_held_bytes:1:busy"));
    CHECK_STATUS(vbr_held_bytes(host->device, &bytes), VBR_STATUS_BUSY);
    CHECK_OK(vbr_inject_set("vbr_held_bytes:1:invalid"));
    CHECK_STATUS(vbr_held_bytes(host->device, &bytes), VBR_STATUS_INVALID_ARGUMENT);
    CHECK_EQ(bytes, 77);
    CHECK_OK(vbr_held_bytes(host->device, &bytes));
    CHECK_EQ(bytes, 0);
    CHECK_OK(vbr_inject_set("vbr_held_bytes:1"));
    CHECK_OK(vbr_inject_set(""));
    CHECK_OK(vbr_held_bytes(host->device, &bytes));
    CHECK_OK(vbr_inject_used(names, sizeof(names)));
    CHECK_EQ(strcmp(names, "vbr_held_bytes:1 "), 0);
    CHECK_STATUS(vbr_inject_used(names, strlen(names)), VBR_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(vbr_inject_set("vbr_held_bytes"), VBR_STATUS_INVALID_ARGUMENT);
    host_free(host);
}

/* Once, however many there are. */
static void failing_discards_are_logged(void)
{
    struct host *host = host_new(ALL_FEATURES);

    host->discard_answer = -12;
    for (uint64_t i = 0; i < 50; i++) {
        inflate(host, 4 * MIB + i * PAGE, PAGE);
    }
    host_free(host);
}

void theme_broken(void)
{
    CHECK_OK(vbr_log_set(on_log, 4));
    CHECK_STATUS(vbr_log_set(on_log, 4), VBR_STATUS_INVALID_ARGUMENT);
    a_reset_mends();
    CHECK_EQ(errors, 1);
    a_broken_device_can_be_freed();
    CHECK_EQ(errors, 2);
    a_broken_device_can_be_saved();
    CHECK_EQ(errors, 3);
    broken_hints_can_be_saved();
    CHECK_EQ(errors, 4);
    other_answers();
    CHECK_EQ(errors, 4);
    any_call_can_panic();
    ends_that_panic();
    CHECK_EQ(warnings, 0);
    errors = 0;
    failing_discards_are_logged();
    CHECK_EQ(warnings, 1);
    CHECK_EQ(errors, 0);
}
