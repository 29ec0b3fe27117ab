/*
 * virtio-balloon-rs: what is counted, through QOM
 *
 * A property for each counter of the library, those of hints and of what the
 * last migration left out among them. Called in the main loop with the big lock
 * held, where the device is made and by QMP's command qom-get; what is known of
 * hints is read under the migration lock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "virtio-balloon-rs.h"

typedef struct CounterProperty {
    const char *name;
    size_t offset;
    const char *description;
} CounterProperty;

#define COUNTER(name, field, description) \
    { name, offsetof(VbrCounters, field), description }

static const CounterProperty counters[] = {
    COUNTER("ballooned-bytes", ballooned_bytes, "bytes in the balloon now"),
    COUNTER("held-bytes", held_bytes,
            "bytes of these that wait to be given back with their neighbours"),
    COUNTER("owed-bytes", owed_bytes,
            "bytes of these that could not be given back when they came"),
    COUNTER("inflated-bytes", inflated_bytes,
            "bytes that the guest put into the balloon"),
    COUNTER("deflated-bytes", deflated_bytes,
            "bytes that the guest took out of the balloon"),
    COUNTER("reported-bytes", reported_bytes,
            "bytes that the guest reported as free"),
    COUNTER("discarded-bytes", discarded_bytes,
            "bytes given back to the host"),
    COUNTER("ranges", ranges, "ranges left after merging"),
    COUNTER("discards", discards,
            "ranges that the host was asked to take back"),
    COUNTER("batches", batches, "batches of requests done"),
    COUNTER("requests", requests, "inflate and deflate requests taken in"),
    COUNTER("malformed-messages", malformed_messages,
            "messages of founding protocols not used or not used in full"),
    COUNTER("ignored-message-bytes", ignored_message_bytes,
            "bytes of them that were not used"),
    COUNTER("ignored-request-buffers", ignored_request_buffers,
            "buffers for requests that are too short or too many"),
    COUNTER("discard-errors", discard_errors,
            "ranges that the host did not take back"),
    COUNTER("free-errors", free_errors,
            "ranges that the host did not accept to take when it needs them"),
    COUNTER("ignored-bad-pfns", ignored_bad_pfns,
            "pages named that are not guest RAM"),
    COUNTER("ignored-trailing-bytes", ignored_trailing_bytes,
            "bytes behind the last whole PFN of a request"),
    COUNTER("ignored-writable-buffers", ignored_writable_buffers,
            "device-writable segments where none are expected"),
    COUNTER("ignored-readable-buffers", ignored_readable_buffers,
            "device-readable segments where none are expected"),
    COUNTER("ignored-report-bytes", ignored_report_bytes,
            "bytes reported that are not guest RAM"),
    COUNTER("ignored-report-unaligned-bytes", ignored_report_unaligned_bytes,
            "bytes reported that do not fill a backing page"),
    COUNTER("ignored-report-poison-bytes", ignored_report_poison_bytes,
            "bytes reported while the guest poisons free pages"),
    COUNTER("ignored-report-file-bytes", ignored_report_file_bytes,
            "bytes reported that would read as a file's content, not as zeros"),
    COUNTER("ignored-stats", ignored_stats,
            "statistics with an unknown tag, cut short or too many"),
    COUNTER("ignored-stats-buffers", ignored_stats_buffers,
            "statistics buffers sent while one was held"),
    COUNTER("partial-page-bytes", partial_page_bytes,
            "bytes inflated that fill no backing page and stay"),
    COUNTER("inhibited-bytes", inhibited_bytes,
            "bytes not given back because discards are inhibited"),
};

static void get_counter(Object *obj, Visitor *v, const char *name,
                        void *opaque, Error **errp)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);
    const CounterProperty *property = opaque;
    VbrCounters values = {};
    uint64_t value;

    if (s->device) {
        VbrStatus status = vbr_device_counters(s->device, vbr_ram_size(),
                                               &values);

        if (vbr_failed(s, status)) {
            error_setg(errp, "%s", vbr_status_str(status));
            return;
        }
    }
    value = *(uint64_t *)((char *)&values + property->offset);
    visit_type_uint64(v, name, &value, errp);
}

/* What is known of hints; of the last migration once it is over. */
typedef struct HintValues {
    VbrHintView hints;
    VbrSkipCounters skips;
    uint64_t wait_bytes;
} HintValues;

#define HINT_COUNTER(name, field, description) \
    { name, offsetof(HintValues, field), description }

static const CounterProperty hint_counters[] = {
    HINT_COUNTER("hint-rounds", hints.counters.rounds,
                 "rounds of free page hints asked for"),
    HINT_COUNTER("hinted-bytes", hints.counters.hinted_bytes,
                 "bytes that the guest hinted in an open round"),
    HINT_COUNTER("hint-left-out-bytes", skips.hint_left_out_bytes,
                 "bytes hinted and left out of the last migration"),
    HINT_COUNTER("ballooned-left-out-bytes", skips.ballooned_left_out_bytes,
                 "bytes in the balloon and left out of the last migration"),
    HINT_COUNTER("late-hint-bytes", hints.counters.late_bytes,
                 "bytes hinted while no round was open"),
    HINT_COUNTER("refused-hint-not-ram-bytes",
                 hints.counters.refused_not_ram_bytes,
                 "bytes hinted that are not RAM"),
    HINT_COUNTER("refused-hint-not-migrated-bytes",
                 skips.refused_not_migrated_bytes,
                 "bytes hinted in RAM that is not migrated"),
    HINT_COUNTER("refused-hint-partial-page-bytes",
                 skips.refused_partial_page_bytes,
                 "bytes at the ends of hints that fill no page"),
    HINT_COUNTER("refused-hint-unprotected-bytes",
                 skips.refused_unprotected_bytes,
                 "bytes hinted before the dirty log was armed for them"),
    HINT_COUNTER("refused-hint-overflow-bytes",
                 hints.counters.refused_overflow_bytes,
                 "bytes hinted faster than they could be taken"),
    HINT_COUNTER("ignored-hint-ids", hints.counters.ignored_ids,
                 "ids of another length than 4, or not current"),
    HINT_COUNTER("hint-wait-ms", hints.counters.wait_ms,
                 "how long the first pass of the last migration was held back"),
    HINT_COUNTER("hint-wait-bytes", wait_bytes,
                 "bytes that hints had left out when it began"),
};

static void get_hint_counter(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    const CounterProperty *property = opaque;
    HintValues values = {};
    uint64_t value;

    if (vbr_props_hint_view(VIRTIO_BALLOON_RS(obj), &values.hints, errp)) {
        vbr_migration_counters(&values.skips, &values.wait_bytes);
        /* Memory that went before its hint was taken. */
        values.hints.counters.refused_not_ram_bytes +=
            values.skips.refused_not_ram_bytes;
        value = *(uint64_t *)((char *)&values + property->offset);
        visit_type_uint64(v, name, &value, errp);
    }
}

void vbr_counters_init(VirtIOBalloonRs *s)
{
    Object *obj = OBJECT(s);

    for (size_t i = 0; i < G_N_ELEMENTS(counters); i++) {
        object_property_add(obj, counters[i].name, "uint64", get_counter, NULL,
                            NULL, (void *)&counters[i]);
        object_property_set_description(obj, counters[i].name,
                                        counters[i].description);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(hint_counters); i++) {
        object_property_add(obj, hint_counters[i].name, "uint64",
                            get_hint_counter, NULL, NULL,
                            (void *)&hint_counters[i]);
        object_property_set_description(obj, hint_counters[i].name,
                                        hint_counters[i].description);
    }
}

void vbr_counters_alias(Object *proxy, VirtIOBalloonRs *device)
{
    for (size_t i = 0; i < G_N_ELEMENTS(counters); i++) {
        object_property_add_alias(proxy, counters[i].name, OBJECT(device),
                                  counters[i].name);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(hint_counters); i++) {
        object_property_add_alias(proxy, hint_counters[i].name, OBJECT(device),
                                  hint_counters[i].name);
    }
}
