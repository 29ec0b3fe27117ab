/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What C and Rust must agree on before the first call. */

#include <stddef.h>
#include <string.h>

#include "check.h"
#include "host.h"
#include "themes.h"

#define IS(what, value) _Static_assert((what) == (value), #what " is not " #value)
#define AT(type, field, place) IS(offsetof(struct type, field), place)

IS(sizeof(enum VbrStatus), 4);
IS(sizeof(enum VbrQueueKind), 4);
IS(sizeof(enum VbrInhibit), 4);
IS(sizeof(enum VbrHintState), 4);
IS(sizeof(enum VbrHintEvent), 4);
IS(sizeof(enum VbrArm), 4);
IS(sizeof(enum VbrNumbering), 4);
IS(sizeof(enum VbrFlush), 4);
IS(sizeof(enum VbrAdvice), 4);
IS(sizeof(enum VbrAdviceInForce), 4);
IS(sizeof(enum VbrFreePageSource), 4);
IS(VBR_STATUS_OK, 0);
IS(VBR_STATUS_INVALID_ARGUMENT, 1);
IS(VBR_STATUS_BUSY, 2);
IS(VBR_STATUS_BROKEN, 3);
IS(VBR_STATUS_BATCH_IN_WORK, 4);
IS(VBR_STATUS_STATE_TARGET, 5);
IS(VBR_STATUS_STATE_STATS, 6);
IS(VBR_STATUS_STATE_PAGES_SIZE, 7);
IS(VBR_STATUS_STATE_PAGES_UNTOLD, 8);
IS(VBR_STATUS_STATE_PAGES_CUT, 9);
IS(VBR_STATUS_STATE_PAGES_NUMBER, 10);
IS(VBR_STATUS_STATE_PAGES_RUN, 11);
IS(VBR_STATUS_STATE_PAGES_LIMIT, 12);
IS(VBR_STATUS_STATE_HINTS, 13);
IS(VBR_STATUS_FOUNDING_AND_TODAY, 14);
IS(VBR_STATUS_FOUNDING_GENERATIONS, 15);
IS(VBR_STATUS_STATE_FOUNDING, 16);
IS(VBR_STATUS_DIRTY_LIST_VERSION, 17);
IS(VBR_STATUS_DIRTY_LIST_ZERO, 18);
IS(VBR_STATUS_DIRTY_LIST_SIZE, 19);
IS(VBR_STATUS_DIRTY_LIST_ACTIVE, 20);
IS(VBR_STATUS_DIRTY_LIST_TRIGGER, 21);
IS(VBR_STATUS_DIRTY_LIST_MEMORY, 22);
IS(VBR_STATUS_DIRTY_LIST_TWICE, 23);
IS(VBR_STATUS_DIRTY_LIST_OVERFLOW, 24);
IS(VBR_STATUS_DIRTY_LIST_INACTIVE, 25);
IS(VBR_STATUS_STATE_POISON, 26);
IS(VBR_DIRTY_VERSION, 1);
IS(VBR_QUEUE_KIND_HOST_REQUEST, 5);
IS(VBR_QUEUE_KIND_MISC, 6);
IS(VBR_NUMBERING_HISTORICAL, 1);
IS(VBR_FLUSH_AGED, 0);
IS(VBR_FLUSH_ALL, 1);
IS(VBR_ADVICE_FREE, 1);
IS(VBR_ADVICE_IN_FORCE_POISONED, 4);
IS(VBR_ADVICE_IN_FORCE_REFUSED, 5);
IS(VBR_FREE_PAGE_SOURCE_NONE, 0);
IS(VBR_FREE_PAGE_SOURCE_MISC_QUEUE, 3);
IS(VBR_REQUEST_MAX_BYTES, 16);
IS(VBR_MAX_QUEUES, 7);
IS(VBR_HINT_STATE_OFF, 0);
IS(VBR_HINT_STATE_DONE, 5);
IS(VBR_HINT_EVENT_RESET, 2);
IS(VBR_HINT_EVENT_QUEUE_EMPTY, 7);
IS(VBR_ARM_ALL, 0);
IS(VBR_ARM_WANTED, 1);
IS(VBR_HINT_ID_MIN, UINT32_C(1) << 31);
IS(VBR_BATCH_MAX_REQUESTS, 128);
IS(VBR_STATE_MAX_PAGES_BYTES, 4 << 20);
IS(VBR_STATS, 16);
IS(VBR_STATS_MAX_BYTES % 10, 0);

/* The layouts below are those of 64-bit machines, the only ones that QEMU still runs on. */
IS(sizeof(void *), 8);

IS(sizeof(struct VbrPart), 48);
AT(VbrPart, payload, 0);
AT(VbrPart, len, 8);
AT(VbrPart, total, 16);
AT(VbrPart, big_endian, 24);
AT(VbrPart, last, 25);
AT(VbrPart, descriptors, 32);
AT(VbrPart, writable, 40);

IS(sizeof(struct VbrAnswer), 32);
AT(VbrAnswer, payload, 0);
AT(VbrAnswer, len, 8);
AT(VbrAnswer, total, 16);
AT(VbrAnswer, first, 24);
AT(VbrAnswer, last, 25);

IS(sizeof(struct VbrReported), 16);
AT(VbrReported, host, 0);
AT(VbrReported, bytes, 8);

IS(sizeof(struct VbrOptions), 32);
AT(VbrOptions, features, 0);
AT(VbrOptions, numbering, 8);
AT(VbrOptions, reporting_advice, 12);
AT(VbrOptions, hold_bytes, 16);
AT(VbrOptions, qemu_4_0_config_size, 24);

IS(sizeof(struct VbrBlockSpan), 16);
AT(VbrBlockSpan, offset, 0);
AT(VbrBlockSpan, bytes, 8);

IS(VBR_MAX_SPANS, 512);
IS(sizeof(struct VbrHostOps), 40);
AT(VbrHostOps, opaque, 0);
AT(VbrHostOps, discard, 8);
AT(VbrHostOps, drop_private, 16);
AT(VbrHostOps, free, 24);
AT(VbrHostOps, populate, 32);

IS(sizeof(struct VbrQueueSpec), 8);
AT(VbrQueueSpec, kind, 0);
AT(VbrQueueSpec, size, 4);

IS(sizeof(struct VbrSection), 72);
AT(VbrSection, gpa, 0);
AT(VbrSection, bytes, 8);
AT(VbrSection, block, 16);
AT(VbrSection, offset, 24);
AT(VbrSection, host, 32);
AT(VbrSection, page_size, 40);
AT(VbrSection, host_page_size, 48);
AT(VbrSection, owner, 56);
AT(VbrSection, file, 60);
AT(VbrSection, read_only, 64);
AT(VbrSection, nonvolatile, 65);
AT(VbrSection, shared, 66);
AT(VbrSection, guest_memfd, 67);
AT(VbrSection, locked, 68);

/* 28 counts of 8 bytes: no room between them for padding. */
IS(sizeof(struct VbrCounters), 28 * 8);
AT(VbrCounters, ballooned_bytes, 0);
AT(VbrCounters, held_bytes, 8);
AT(VbrCounters, owed_bytes, 2 * 8);
AT(VbrCounters, discarded_bytes, 6 * 8);
AT(VbrCounters, batches, 9 * 8);
AT(VbrCounters, requests, 10 * 8);
AT(VbrCounters, malformed_messages, 11 * 8);
AT(VbrCounters, ignored_message_bytes, 12 * 8);
AT(VbrCounters, ignored_request_buffers, 13 * 8);
AT(VbrCounters, ignored_bad_pfns, 15 * 8);
AT(VbrCounters, ignored_stats, 23 * 8);
AT(VbrCounters, inhibited_bytes, 26 * 8);
AT(VbrCounters, free_errors, 27 * 8);

IS(sizeof(struct VbrState), 184);
AT(VbrState, num_pages, 0);
AT(VbrState, actual, 4);
AT(VbrState, poison_val, 8);
AT(VbrState, has_stats, 12);
AT(VbrState, stats, 16);
AT(VbrState, stats_last_update, 144);
AT(VbrState, stats_polling_interval, 152);
AT(VbrState, founding, 160);
AT(VbrState, has_target, 168);
AT(VbrState, target, 176);

IS(sizeof(struct VbrSavedPages), 24);
AT(VbrSavedPages, coded, 0);
AT(VbrSavedPages, len, 8);
AT(VbrSavedPages, complete, 16);

IS(sizeof(struct VbrStatsBuffer), 56);
AT(VbrStatsBuffer, payload, 0);
AT(VbrStatsBuffer, payload_len, 8);
AT(VbrStatsBuffer, len, 16);
AT(VbrStatsBuffer, big_endian, 24);
AT(VbrStatsBuffer, writable, 32);
AT(VbrStatsBuffer, held, 40);
AT(VbrStatsBuffer, now, 48);

IS(sizeof(struct VbrStats), 136);
AT(VbrStats, values, 0);
AT(VbrStats, last_update, 128);

IS(sizeof(struct VbrHintCounters), 7 * 8);
AT(VbrHintCounters, rounds, 0);
AT(VbrHintCounters, ignored_ids, 5 * 8);
AT(VbrHintCounters, wait_ms, 6 * 8);

IS(sizeof(struct VbrHintView), 96);
AT(VbrHintView, source, 0);
AT(VbrHintView, state, 4);
AT(VbrHintView, shown_id, 8);
AT(VbrHintView, wanted, 16);
AT(VbrHintView, epoch, 24);
AT(VbrHintView, can_ask, 32);
AT(VbrHintView, has_pending, 33);
AT(VbrHintView, window_ms, 36);
AT(VbrHintView, counters, 40);

IS(sizeof(struct VbrHintRecord), 8);
AT(VbrHintRecord, cmd_id, 0);
AT(VbrHintRecord, status, 4);

IS(sizeof(struct VbrRamView), 32);
AT(VbrRamView, dirty, 0);
AT(VbrRamView, pages, 8);
AT(VbrRamView, unarmed, 16);
AT(VbrRamView, chunk_shift, 24);

IS(sizeof(struct VbrRamOps), 32);
AT(VbrRamOps, opaque, 0);
AT(VbrRamOps, view, 8);
AT(VbrRamOps, find, 16);
AT(VbrRamOps, arm, 24);

IS(sizeof(struct VbrDirtyChange), 16);
AT(VbrDirtyChange, cleared, 0);
AT(VbrDirtyChange, set, 8);

IS(sizeof(struct VbrSkipCounters), 6 * 8);
AT(VbrSkipCounters, hint_left_out_bytes, 0);
AT(VbrSkipCounters, ballooned_left_out_bytes, 8);
AT(VbrSkipCounters, refused_not_ram_bytes, 2 * 8);
AT(VbrSkipCounters, refused_unprotected_bytes, 5 * 8);

IS(sizeof(struct VbrDirtyOptions), 4 * 8);
AT(VbrDirtyOptions, version, 0);
AT(VbrDirtyOptions, no_dups, 4);
AT(VbrDirtyOptions, max_dirty, 8);
AT(VbrDirtyOptions, dirty_trigger, 2 * 8);
AT(VbrDirtyOptions, vcpus, 3 * 8);

IS(sizeof(struct VbrDirtyIndices), 6 * 8);
AT(VbrDirtyIndices, dirty_index, 0);
AT(VbrDirtyIndices, fetch_index, 8);
AT(VbrDirtyIndices, reset_index, 2 * 8);
AT(VbrDirtyIndices, overflows, 3 * 8);
AT(VbrDirtyIndices, max_dirty, 4 * 8);
AT(VbrDirtyIndices, overflow, 5 * 8);
AT(VbrDirtyIndices, active, 5 * 8 + 1);

static void texts_differ_and_have_no_end_mark(void)
{
    for (int status = VBR_STATUS_OK; status <= VBR_STATUS_STATE_POISON; status++) {
        const char *text = vbr_status_str((enum VbrStatus)status);
        CHECK(text != NULL);
        size_t length = strlen(text);
        CHECK(length > 5);
        CHECK(text[length - 1] != '.' && text[length - 1] != '\n');
        CHECK(text == vbr_status_str((enum VbrStatus)status));
        for (int other = VBR_STATUS_OK; other < status; other++) {
            CHECK(strcmp(text, vbr_status_str((enum VbrStatus)other)) != 0);
        }
    }
}

static void queues_follow_the_offered_features(void)
{
    struct VbrQueueSpec queues[VBR_MAX_QUEUES];
    struct VbrOptions options = { .features = STATS_VQ | MUST_TELL_HOST };
    size_t count = 0;

    CHECK_OK(vbr_options_queues(&options, queues, &count));
    CHECK_EQ(count, 3);
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(queues[i].kind, i);
        CHECK_EQ(queues[i].size, 128);
    }
    /* Bits that are no feature of a balloon change nothing. */
    options.features = ~(uint64_t)0;
    CHECK_OK(vbr_options_queues(&options, queues, &count));
    CHECK_EQ(count, VBR_MAX_QUEUES);
    CHECK_EQ(queues[3].kind, VBR_QUEUE_KIND_HINT);
    CHECK_EQ(queues[3].size, 1024);
    CHECK_EQ(queues[4].kind, VBR_QUEUE_KIND_REPORTING);
    CHECK_EQ(queues[4].size, 32);
    CHECK_EQ(queues[5].kind, VBR_QUEUE_KIND_HOST_REQUEST);
    CHECK_EQ(queues[5].size, 128);
    CHECK_EQ(queues[6].kind, VBR_QUEUE_KIND_MISC);
    CHECK_EQ(queues[6].size, 128);
    /* The request queue was once the fourth. */
    options = (struct VbrOptions){ STATS_VQ | REPORTING | HOST_REQUEST, VBR_NUMBERING_HISTORICAL,
                                   VBR_ADVICE_DISCARD, 0, false };
    CHECK_OK(vbr_options_queues(&options, queues, &count));
    CHECK_EQ(count, 5);
    CHECK_EQ(queues[3].kind, VBR_QUEUE_KIND_HOST_REQUEST);
    CHECK_EQ(queues[4].kind, VBR_QUEUE_KIND_REPORTING);
}

void theme_layout(void)
{
    CHECK_EQ(vbr_abi_version(), VBR_ABI_VERSION);
    texts_differ_and_have_no_end_mark();
    queues_follow_the_offered_features();
}
