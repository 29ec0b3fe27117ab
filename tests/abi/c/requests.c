/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The host asks for unused pages, over the request and the misc queue, and the guest answers. */

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "host.h"
#include "message.h"
#include "themes.h"

#define REQUEST VBR_FREE_PAGE_SOURCE_HOST_REQUEST
#define MISC VBR_FREE_PAGE_SOURCE_MISC_QUEUE
#define FIRST (VBR_HINT_ID_MIN + 1)

/* A device with its hints, and a driver that took one of the two queues. */
struct asked {
    struct host *host;
    struct VbrHints *hints;
    enum VbrFreePageSource source;
};

static void negotiate(struct asked *a)
{
    bool changed;

    CHECK_OK(vbr_device_set_features(a->host->device,
                                     a->source == MISC ? MISC_QUEUE : HOST_REQUEST, false));
    CHECK_OK(vbr_hints_negotiated(a->hints, a->host->device, &changed));
}

static struct asked start(enum VbrFreePageSource source)
{
    const struct VbrOptions options = {
        .features = ALL_FEATURES | HOST_REQUEST | MISC_QUEUE
    };
    struct asked a = { host_with(&options, 0), NULL, source };

    CHECK_OK(vbr_hints_new(&a.hints));
    negotiate(&a);
    return a;
}

static void end(struct asked *a)
{
    host_free(a->host);
    vbr_hints_free(a->hints);
}

static struct VbrHintView look(const struct asked *a)
{
    struct VbrHintView view;

    CHECK_OK(vbr_hints_view(a->hints, &view));
    CHECK_EQ(view.source, a->source);
    /* Only the free page hint queue has anything in the configuration space. */
    CHECK_EQ(view.shown_id, 0);
    return view;
}

static void event(struct asked *a, enum VbrHintEvent what)
{
    bool changed = true;

    CHECK_OK(vbr_hints_event(a->hints, what, &changed));
    CHECK(!changed);
}

static bool buffer(struct asked *a, size_t bytes, bool held)
{
    bool hold;

    CHECK_OK(vbr_request_buffer(a->hints, a->host->device, a->source, bytes, held, &hold));
    return hold;
}

/* A synchronization, and the log armed; whether the guest is to be asked then. */
static bool open_round(struct asked *a)
{
    bool asked = false;

    event(a, VBR_HINT_EVENT_BEFORE_SYNC);
    event(a, VBR_HINT_EVENT_AFTER_SYNC);
    for (int i = 0; i < 3 && !asked; i++) {
        CHECK_OK(vbr_hints_request(a->hints, look(a).wanted, &asked));
        event(a, VBR_HINT_EVENT_QUEUE_EMPTY);
    }
    return asked;
}

/* How many bytes go into the guest's buffer; for the request queue, with this id. */
static size_t take(struct asked *a, uint32_t id)
{
    uint8_t bytes[VBR_REQUEST_MAX_BYTES];
    uint8_t expected[VBR_REQUEST_MAX_BYTES] = { 0 };
    size_t len = 99;

    memset(bytes, 0x55, sizeof(bytes));
    CHECK_OK(vbr_request_take(a->hints, a->source, bytes, &len));
    for (int i = 0; len == 16 && i < 4; i++) {
        expected[8 + i] = (uint8_t)(id >> 8 * i);
    }
    CHECK_EQ(memcmp(bytes, expected, sizeof(bytes)), 0);
    return len;
}

static void part(struct asked *a, const uint8_t *bytes, size_t len, size_t total, bool first,
                 bool last)
{
    uint8_t *payload = malloc(len + (len == 0));

    CHECK(payload != NULL);
    memcpy(payload, bytes, len);
    const struct VbrAnswer answer = { payload, len, total, first, last };
    CHECK_OK(vbr_request_answer(a->hints, a->host->device, a->source, &answer));
    free(payload);
}

static void send(struct asked *a, const struct message *message, size_t cut)
{
    size_t at = 0;

    do {
        const size_t len = cut < message->len - at ? cut : message->len - at;
        part(a, message->bytes + at, len, message->len, at == 0, at + len == message->len);
        at += len;
    } while (at < message->len);
}

/* A message that names one range, or none for 0 bytes. */
static struct message naming(const struct asked *a, uint32_t id, bool done, uint64_t gpa,
                             uint64_t bytes)
{
    struct message message = { .len = 0 };

    if (a->source == MISC) {
        misc(&message, 0, done);
        if (bytes != 0) {
            misc_chunk(&message, gpa, bytes);
        }
    } else {
        words(&message, 0, done, (uint16_t)id);
        if (bytes != 0) {
            word(&message, gpa | bytes / PAGE);
        }
    }
    return message;
}

static void answer(struct asked *a, uint32_t id, bool done, uint64_t gpa, uint64_t bytes)
{
    const struct message message = naming(a, id, done, gpa, bytes);

    send(a, &message, 4096);
}

static void a_request_and_its_answer(enum VbrFreePageSource source)
{
    const size_t cuts[] = { 1, 3, 7, 8, 9, 4096 };
    const size_t size = source == MISC ? 4 : 16;

    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        struct asked a = start(source);
        uint32_t id = FIRST;

        CHECK_EQ(look(&a).state, VBR_HINT_STATE_STOP);
        CHECK(!buffer(&a, size - 1, false));
        CHECK_EQ(host_counters(a.host).ignored_request_buffers, 1);
        CHECK(!look(&a).can_ask);
        CHECK(!open_round(&a));
        CHECK(buffer(&a, size, false));
        CHECK(look(&a).can_ask);
        CHECK(!buffer(&a, size, true));
        CHECK_EQ(host_counters(a.host).ignored_request_buffers, 2);
        CHECK_EQ(take(&a, 0), 0);
        CHECK(open_round(&a));
        CHECK_EQ(look(&a).state, VBR_HINT_STATE_REQUESTED);
        CHECK_EQ(take(&a, id), size);
        CHECK_EQ(take(&a, id), 0);

        struct message message = naming(&a, id, false, 4 * MIB, 2 * PAGE);
        send(&a, &message, cuts[i]);
        CHECK_EQ(look(&a).state, VBR_HINT_STATE_STARTED);
        CHECK_EQ(look(&a).counters.hinted_bytes, 2 * PAGE);
        CHECK(look(&a).has_pending);
        message = naming(&a, id, true, 8 * MIB, PAGE);
        send(&a, &message, cuts[i]);
        CHECK_EQ(look(&a).state, VBR_HINT_STATE_STOP);
        CHECK_EQ(look(&a).counters.hinted_bytes, 3 * PAGE);
        /* Nobody asked for this. */
        answer(&a, id, false, 12 * MIB, PAGE);
        CHECK_EQ(look(&a).counters.ignored_ids, 1);
        CHECK_EQ(look(&a).counters.hinted_bytes, 3 * PAGE);
        CHECK_EQ(host_counters(a.host).malformed_messages, 0);
        CHECK_EQ(a.host->discard_count, 0);

        CHECK(buffer(&a, 4096, false));
        CHECK(open_round(&a));
        CHECK_EQ(take(&a, id + 1), size);
        CHECK_EQ(look(&a).counters.rounds, 2);
        /* An answer may be empty. */
        answer(&a, id + 1, true, 0, 0);
        CHECK_EQ(look(&a).state, VBR_HINT_STATE_STOP);
        end(&a);
    }
}

/* What is hinted at is where the host has it, section by section. */
static void across_sections(void)
{
    struct asked a = start(REQUEST);

    CHECK(buffer(&a, 16, false));
    CHECK(open_round(&a));
    CHECK_EQ(take(&a, FIRST), 16);
    answer(&a, FIRST, true, TOLD_GPA + TOLD_HALF - PAGE, 2 * PAGE);
    CHECK_EQ(look(&a).counters.hinted_bytes, 2 * PAGE);
    CHECK_EQ(host_counters(a.host).malformed_messages, 0);
    end(&a);
}

static void other_ids(void)
{
    struct asked a = start(REQUEST);

    CHECK(buffer(&a, 16, false));
    CHECK(open_round(&a));
    CHECK_EQ(take(&a, FIRST), 16);
    answer(&a, FIRST - 1, true, 4 * MIB, PAGE);
    answer(&a, FIRST + 1, false, 4 * MIB, PAGE);
    CHECK_EQ(look(&a).state, VBR_HINT_STATE_REQUESTED);
    CHECK_EQ(look(&a).counters.ignored_ids, 2);
    CHECK(!look(&a).has_pending);
    /* Nor in the middle of an answer that does count. */
    answer(&a, FIRST, false, 4 * MIB, PAGE);
    answer(&a, FIRST - 1, true, 5 * MIB, PAGE);
    CHECK_EQ(look(&a).state, VBR_HINT_STATE_STARTED);
    CHECK_EQ(look(&a).counters.hinted_bytes, PAGE);
    answer(&a, FIRST, true, 6 * MIB, PAGE);
    CHECK_EQ(look(&a).counters.hinted_bytes, 2 * PAGE);
    CHECK_EQ(look(&a).counters.ignored_ids, 3);
    end(&a);
}

/* What makes no sense, in an answer that somebody asked for: the front counts. */
static void malformed_answers(void)
{
    const struct {
        enum VbrFreePageSource source;
        unsigned cmd, flags;
        uint64_t second, behind;
        uint64_t left_out, hinted;
        const char *reason;
    } bad[] = {
        { REQUEST, 1, 0, 5 * MIB | 1, 6 * MIB | 1, 32, 0, "unknown command" },
        { REQUEST, 0, 2, 5 * MIB | 1, 6 * MIB | 1, 32, 0, "unknown flag" },
        { REQUEST, 0, 0, NOWHERE | 1, 6 * MIB | 1, 16, 1, "a range is not RAM" },
        { REQUEST, 0, 1, 5 * MIB, 0, 16, 1, "a range is empty" },
        { REQUEST, 0, 1, 5 * MIB | 1, 6 * MIB, 8, 2, "a range is cut short" },
        { MISC, 1, 0, 5 * MIB, 6 * MIB, 56, 0, "unknown command" },
        { MISC, 0, 3, 5 * MIB, 6 * MIB, 56, 0, "unknown flag" },
        { MISC, 0, 0, NOWHERE, 6 * MIB, 32, 1, "a range is not RAM" },
        { MISC, 0, 1, 5 * MIB | 8, 6 * MIB, 32, 1, "reserved bits are set" },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct asked a = start(bad[i].source);
        struct message message = { .len = 0 };

        CHECK(buffer(&a, 16, false));
        CHECK(open_round(&a));
        CHECK(take(&a, FIRST) > 0);
        if (a.source == MISC) {
            misc(&message, (uint16_t)bad[i].cmd, (uint16_t)bad[i].flags);
            misc_chunk(&message, 4 * MIB, PAGE);
            misc_chunk(&message, bad[i].second, PAGE);
            misc_chunk(&message, bad[i].behind, PAGE);
        } else {
            words(&message, (uint8_t)bad[i].cmd, (uint8_t)bad[i].flags, (uint16_t)FIRST);
            word(&message, 4 * MIB | 1);
            word(&message, bad[i].second);
            word(&message, bad[i].behind);
        }
        send(&a, &message, 5);
        CHECK_EQ(strcmp(vbr_device_malformed_str(a.host->device), bad[i].reason), 0);
        CHECK_EQ(host_counters(a.host).malformed_messages, 1);
        CHECK_EQ(host_counters(a.host).ignored_message_bytes, bad[i].left_out);
        CHECK_EQ(look(&a).counters.hinted_bytes, bad[i].hinted * PAGE);
        /* The guest said that it is done, whatever else it said. */
        const bool done = bad[i].hinted && bad[i].flags == 1;
        CHECK_EQ(look(&a).state == VBR_HINT_STATE_STOP, done);
        end(&a);
    }
}

/* Until the end of the answer came, nothing else is asked; and then not without a buffer. */
static void one_request_at_a_time(enum VbrFreePageSource source)
{
    struct asked a = start(source);

    CHECK(buffer(&a, 16, false));
    CHECK(open_round(&a));
    CHECK(take(&a, FIRST) > 0);
    CHECK(buffer(&a, 16, false));
    CHECK(!look(&a).can_ask);
    CHECK(!open_round(&a));
    CHECK_EQ(take(&a, 0), 0);
    answer(&a, FIRST, false, 4 * MIB, PAGE);
    CHECK_EQ(look(&a).counters.late_bytes, PAGE);
    CHECK(!open_round(&a));
    answer(&a, FIRST, true, 4 * MIB, PAGE);
    CHECK_EQ(look(&a).counters.hinted_bytes, 0);
    CHECK_OK(vbr_request_lost(a.hints, source));
    CHECK(!open_round(&a));
    CHECK(buffer(&a, 16, false));
    /* What is another queue's is not this one's. */
    CHECK_OK(vbr_request_lost(a.hints, source == MISC ? REQUEST : MISC));
    CHECK(open_round(&a));
    CHECK(take(&a, FIRST + 1) > 0);
    end(&a);
}

/* A message that ends in the middle, because its queue or the device was reset or gave it back. */
static void broken_off(enum VbrFreePageSource source)
{
    for (int how = 0; how < 4; how++) {
        struct asked a = start(source);
        bool changed;

        CHECK(buffer(&a, 16, false));
        CHECK(open_round(&a));
        CHECK(take(&a, FIRST) > 0);
        const struct message message = naming(&a, FIRST, true, 4 * MIB, PAGE);
        part(&a, message.bytes, message.len - 5, message.len, true, false);
        if (how == 0) {
            CHECK_OK(vbr_request_queue_reset(a.hints, source));
            CHECK_EQ(look(&a).state, VBR_HINT_STATE_STOP);
        } else if (how == 1) {
            CHECK_OK(vbr_device_reset(a.host->device, &changed));
            CHECK_OK(vbr_hints_event(a.hints, VBR_HINT_EVENT_RESET, &changed));
            CHECK(!changed);
            /* Of the old message nothing is read on. */
            const struct VbrAnswer rest = { message.bytes + message.len - 5, 5, message.len,
                                            false, true };
            CHECK_OK(vbr_request_answer(a.hints, a.host->device, source, &rest));
            negotiate(&a);
            CHECK_EQ(look(&a).counters.late_bytes, 0);
        } else if (how == 3) {
            /* It does not come again, and was the last of its answer. */
            CHECK_OK(vbr_request_give_up_answer(a.hints, a.host->device));
            CHECK_EQ(look(&a).state, VBR_HINT_STATE_STOP);
            CHECK_OK(vbr_request_give_up_answer(a.hints, a.host->device));
        }
        CHECK_EQ(look(&a).counters.hinted_bytes, 0);
        if (how == 2) {
            /* Given back: it comes again from its start, and counts once. */
            send(&a, &message, 4096);
            CHECK_EQ(look(&a).counters.hinted_bytes, PAGE);
        }
        CHECK(buffer(&a, 16, false));
        CHECK(open_round(&a));
        CHECK(take(&a, FIRST + 1) > 0);
        answer(&a, FIRST + 1, true, 8 * MIB, PAGE);
        CHECK_EQ(look(&a).counters.hinted_bytes, how == 2 ? 2 * PAGE : PAGE);
        CHECK_EQ(host_counters(a.host).malformed_messages, 0);
        end(&a);
    }
}

/* A message that is given up and was not the last of its answer does not end it. */
static void more_is_to_come(enum VbrFreePageSource source)
{
    struct asked a = start(source);

    CHECK(buffer(&a, 16, false));
    CHECK(open_round(&a));
    CHECK(take(&a, FIRST) > 0);
    const struct message message = naming(&a, FIRST, false, 4 * MIB, PAGE);
    part(&a, message.bytes, message.len - 5, message.len, true, false);
    CHECK_OK(vbr_request_give_up_answer(a.hints, a.host->device));
    CHECK_EQ(look(&a).state, VBR_HINT_STATE_STARTED);
    CHECK(buffer(&a, 16, false));
    CHECK(!look(&a).can_ask);
    answer(&a, FIRST, true, 8 * MIB, PAGE);
    CHECK_EQ(look(&a).counters.hinted_bytes, PAGE);
    CHECK(look(&a).can_ask);
    end(&a);
}

static void in_flight_while_it_migrates(enum VbrFreePageSource source)
{
    struct asked from = start(source), to = start(source);
    struct VbrHintRecord record;

    CHECK(buffer(&from, 16, false));
    CHECK(open_round(&from));
    CHECK(take(&from, FIRST) > 0);
    event(&from, VBR_HINT_EVENT_AFTER_SYNC_STOPPED);
    CHECK_OK(vbr_hints_save(from.hints, &record));
    CHECK_EQ(record.cmd_id, FIRST);
    CHECK_EQ(record.status, 1);
    CHECK_OK(vbr_hints_load(to.hints, &record));
    answer(&to, FIRST, false, 4 * MIB, PAGE);
    CHECK_EQ(look(&to).counters.late_bytes, PAGE);
    CHECK(buffer(&to, 16, false));
    CHECK(!open_round(&to));
    answer(&to, FIRST, true, 4 * MIB, PAGE);
    CHECK(open_round(&to));
    CHECK(take(&to, FIRST + 1) > 0);

    /* With nothing in flight the destination can ask at once. */
    answer(&from, FIRST, true, 4 * MIB, PAGE);
    CHECK_OK(vbr_hints_save(from.hints, &record));
    CHECK_EQ(record.status, 0);
    end(&from);
    end(&to);
}

static struct asked *inside;

static void negotiate_inside(struct host *host)
{
    bool changed = true;

    CHECK_STATUS(vbr_hints_negotiated(inside->hints, host->device, &changed), VBR_STATUS_BUSY);
    CHECK(changed);
    CHECK_EQ(vbr_device_malformed_str(host->device)[0], 0);
    look(inside);
}

/* A device that is busy says nothing of what was negotiated; one that is broken asks for nothing. */
static void busy_and_broken_devices(void)
{
    struct asked a = start(REQUEST);
    const uint32_t pfn = 1024;
    bool flag;

    inside = &a;
    a.host->inside = negotiate_inside;
    inflate(a.host, 4 * MIB, PAGE);
    CHECK_EQ(a.host->discard_count, 1);
    a.host->inside = NULL;

    CHECK_OK(vbr_inject_set("vbr_batch_run:1"));
    CHECK_OK(request(a.host, VBR_QUEUE_KIND_INFLATE, &pfn, 1));
    CHECK_STATUS(vbr_batch_run(a.host->device, VBR_INHIBIT_NO, &flag), VBR_STATUS_BROKEN);
    flag = true;
    CHECK_STATUS(vbr_request_buffer(a.hints, a.host->device, REQUEST, 16, false, &flag),
                 VBR_STATUS_BROKEN);
    CHECK(flag);
    CHECK_OK(vbr_hints_negotiated(a.hints, a.host->device, &flag));
    a.source = VBR_FREE_PAGE_SOURCE_NONE;
    CHECK_EQ(look(&a).state, VBR_HINT_STATE_OFF);
    CHECK_OK(vbr_device_reset(a.host->device, &flag));
    a.source = REQUEST;
    negotiate(&a);
    CHECK(buffer(&a, 16, false));
    CHECK(open_round(&a));
    CHECK_EQ(take(&a, FIRST), 16);
    end(&a);
}

void theme_requests(void)
{
    const enum VbrFreePageSource sources[] = { REQUEST, MISC };

    for (int i = 0; i < 2; i++) {
        a_request_and_its_answer(sources[i]);
        one_request_at_a_time(sources[i]);
        broken_off(sources[i]);
        more_is_to_come(sources[i]);
        in_flight_while_it_migrates(sources[i]);
    }
    across_sections();
    other_ids();
    malformed_answers();
    busy_and_broken_devices();
}
