/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rounds of free page hints (virtio 1.3, 5.5.6.5). */

#include "check.h"
#include "host.h"
#include "themes.h"

#define FIRST (VBR_HINT_ID_MIN + 1)

static struct VbrHintView look(const struct VbrHints *hints)
{
    struct VbrHintView view;

    CHECK_OK(vbr_hints_view(hints, &view));
    return view;
}

static bool event(struct VbrHints *hints, enum VbrHintEvent what)
{
    bool changed;

    CHECK_OK(vbr_hints_event(hints, what, &changed));
    return changed;
}

static bool send_id(struct VbrHints *hints, uint32_t id, size_t len, bool big_endian)
{
    uint8_t bytes[8] = { 0 };
    bool changed;

    for (size_t i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(id >> 8 * (big_endian ? 3 - i : i));
    }
    CHECK_OK(vbr_hints_receive_id(hints, bytes, len, big_endian, &changed));
    return changed;
}

static bool ask(struct VbrHints *hints, uint64_t wanted)
{
    bool asked;

    /* Not before the queue was seen empty twice. */
    for (int i = 0; i < 2; i++) {
        CHECK_OK(vbr_hints_request(hints, wanted, &asked));
        CHECK(!asked);
        event(hints, VBR_HINT_EVENT_QUEUE_EMPTY);
    }
    CHECK_OK(vbr_hints_request(hints, wanted, &asked));
    return asked;
}

static struct VbrHints *accepted(void)
{
    struct VbrHints *hints = NULL;

    CHECK_OK(vbr_hints_new(&hints));
    CHECK_EQ(look(hints).state, VBR_HINT_STATE_OFF);
    CHECK(!event(hints, VBR_HINT_EVENT_AFTER_SYNC));
    CHECK_EQ(look(hints).state, VBR_HINT_STATE_OFF);
    CHECK(!hints_accept(hints, FREE_PAGE_HINT));
    CHECK_EQ(look(hints).state, VBR_HINT_STATE_STOP);
    CHECK_EQ(look(hints).source, VBR_FREE_PAGE_SOURCE_FREE_PAGE_HINT);
    return hints;
}

static void a_round(bool big_endian)
{
    struct VbrHints *hints = accepted();
    struct host *host = host_new(0);
    const void *memory = host->blocks[LOW].base;

    CHECK(!event(hints, VBR_HINT_EVENT_BEFORE_SYNC));
    CHECK(!event(hints, VBR_HINT_EVENT_AFTER_SYNC));
    struct VbrHintView view = look(hints);
    CHECK_EQ(view.state, VBR_HINT_STATE_ARMING);
    CHECK_EQ(view.shown_id, 0);
    CHECK(!ask(hints, view.wanted + 1));
    CHECK(ask(hints, view.wanted));
    CHECK(!ask(hints, view.wanted));
    CHECK_EQ(look(hints).state, VBR_HINT_STATE_REQUESTED);
    CHECK_EQ(look(hints).shown_id, FIRST);
    CHECK_EQ(look(hints).counters.rounds, 1);

    CHECK_OK(vbr_hints_receive(hints, host->device, memory, PAGE));
    CHECK_EQ(look(hints).counters.late_bytes, PAGE);
    CHECK(!look(hints).has_pending);
    CHECK(!send_id(hints, FIRST, 4, big_endian));
    CHECK_EQ(look(hints).state, VBR_HINT_STATE_STARTED);
    CHECK_OK(vbr_hints_receive(hints, host->device, memory, 3 * PAGE));
    CHECK_EQ(look(hints).counters.hinted_bytes, 3 * PAGE);
    CHECK(look(hints).has_pending);
    CHECK_OK(vbr_hints_receive(hints, host->device, NULL, PAGE));
    CHECK_EQ(look(hints).counters.refused_not_ram_bytes, PAGE);
    CHECK_OK(vbr_hints_memory_changed(hints));
    CHECK(!look(hints).has_pending);
    CHECK_EQ(look(hints).counters.late_bytes, 4 * PAGE);
    CHECK_OK(vbr_hints_receive(hints, host->device, memory, PAGE));
    CHECK(look(hints).has_pending);
    const uint64_t epoch = look(hints).epoch;
    CHECK(!event(hints, VBR_HINT_EVENT_QUEUE_EMPTY));
    CHECK_EQ(look(hints).epoch, epoch + 1);
    CHECK(send_id(hints, 0, 4, big_endian));
    CHECK_EQ(look(hints).shown_id, 0);

    CHECK(!event(hints, VBR_HINT_EVENT_BEFORE_SYNC));
    CHECK(!look(hints).has_pending);
    CHECK(event(hints, VBR_HINT_EVENT_AFTER_SYNC_STOPPED));
    CHECK_EQ(look(hints).state, VBR_HINT_STATE_DONE);
    CHECK_EQ(look(hints).shown_id, 1);
    CHECK(!event(hints, VBR_HINT_EVENT_FINISHED));
    CHECK(hints_accept(hints, 0));
    CHECK_EQ(look(hints).state, VBR_HINT_STATE_OFF);
    vbr_hints_free(hints);
    host_free(host);
}

static struct VbrHints *requested(void)
{
    struct VbrHints *hints = accepted();

    event(hints, VBR_HINT_EVENT_AFTER_SYNC);
    CHECK(ask(hints, look(hints).wanted));
    return hints;
}

static void ids_of_other_lengths(void)
{
    for (size_t len = 0; len <= 8; len++) {
        struct VbrHints *hints = requested();

        send_id(hints, FIRST, len, false);
        CHECK_EQ(look(hints).state,
                 len == 4 ? VBR_HINT_STATE_STARTED : VBR_HINT_STATE_REQUESTED);
        CHECK_EQ(look(hints).counters.ignored_ids, len != 4);
        CHECK(event(hints, VBR_HINT_EVENT_RESET));
        CHECK_EQ(look(hints).state, VBR_HINT_STATE_OFF);
        vbr_hints_free(hints);
    }
}

static uint64_t hold(struct VbrHints *hints, uint64_t now)
{
    uint64_t wait = 99;

    CHECK_OK(vbr_hints_hold(hints, now, 0, 0, &wait));
    return wait;
}

static void the_first_pass_waits(void)
{
    struct VbrHints *hints = requested();

    CHECK_EQ(look(hints).window_ms, VBR_DEFAULT_WINDOW_MS);
    CHECK(hold(hints, 10) > 0);
    CHECK_EQ(hold(hints, 10 + VBR_DEFAULT_WINDOW_MS), 0);
    CHECK_EQ(look(hints).counters.wait_ms, VBR_DEFAULT_WINDOW_MS);
    CHECK_EQ(hold(hints, 11), 0);
    vbr_hints_free(hints);

    hints = requested();
    CHECK_OK(vbr_hints_set_window(hints, 0));
    CHECK_EQ(look(hints).window_ms, 0);
    CHECK_EQ(hold(hints, 10), 0);
    vbr_hints_free(hints);
}

static void streams(void)
{
    struct VbrHints *from = requested();
    struct VbrHints *to = accepted();
    struct VbrHintRecord record;

    CHECK_OK(vbr_hints_save(from, &record));
    CHECK_EQ(record.cmd_id, FIRST);
    CHECK_EQ(record.status, 1);
    CHECK_OK(vbr_hints_load(to, &record));
    CHECK_EQ(look(to).shown_id, 1);
    event(to, VBR_HINT_EVENT_AFTER_SYNC);
    CHECK(ask(to, look(to).wanted));
    CHECK_EQ(look(to).shown_id, FIRST + 1);

    const struct VbrHintRecord bad[] = {
        { VBR_HINT_ID_MIN - 1, 0 }, { 0, 3 }, { VBR_HINT_ID_MIN, 4 }, { UINT32_MAX, UINT32_MAX },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CHECK_STATUS(vbr_hints_load(to, &bad[i]), VBR_STATUS_STATE_HINTS);
        CHECK_EQ(look(to).shown_id, FIRST + 1);
    }
    vbr_hints_free(from);
    vbr_hints_free(to);
}

void theme_hints(void)
{
    a_round(false);
    a_round(true);
    ids_of_other_lengths();
    the_first_pass_waits();
    streams();
}
