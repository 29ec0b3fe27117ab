/* SPDX-License-Identifier: GPL-2.0-or-later */
/* NULL for each pointer that a function takes: refused, and nothing has changed. */

#include <stddef.h>
#include <string.h>

#include "check.h"
#include "host.h"
#include "themes.h"

/* Valid arguments, one of which each row of the table replaces. */
struct arguments {
    struct VbrDevice *device;
    struct VbrOptions options;
    struct VbrHostOps ops;
    struct VbrPart part;
    struct VbrAnswer answer;
    struct VbrState state;
    struct VbrStatsBuffer buffer;
    struct VbrQueueSpec queues[VBR_MAX_QUEUES];
    struct VbrCounters counters;
    struct VbrStats stats;
    struct VbrDevice *made;
    struct VbrHints *hints;
    struct VbrHints *made_hints;
    struct VbrHintView hint_view;
    struct VbrHintRecord record;
    struct VbrRam *ram;
    struct VbrRam *made_ram;
    struct VbrRamOps ram_ops;
    struct VbrDirtyChange change;
    struct VbrSkipCounters skips;
    struct VbrDirtyList *list;
    struct VbrDirtyList *made_list;
    struct VbrDirtyOptions dirty;
    struct VbrDirtyIndices indices;
    enum VbrAdviceInForce advice;
    uint8_t image[16];
    size_t size;
    uint64_t bytes;
    uint32_t pages;
    bool flag;
};

#define INFLATE VBR_QUEUE_KIND_INFLATE
#define REQUEST VBR_FREE_PAGE_SOURCE_HOST_REQUEST

/* A row: a name of its own, and the call. `a` are the arguments. */
#define ROWS(X)                                                                \
    X(room_device, vbr_batch_room(NULL, INFLATE, &a->size))                    \
    X(room_bytes, vbr_batch_room(a->device, INFLATE, NULL))                    \
    X(add_device, vbr_batch_add(NULL, INFLATE, &a->part))                      \
    X(add_part, vbr_batch_add(a->device, INFLATE, NULL))                       \
    X(report_device, vbr_batch_add_report(NULL, NULL, 0, 0))                   \
    X(report_segments, vbr_batch_add_report(a->device, NULL, 1, 0))            \
    X(run_device, vbr_batch_run(NULL, VBR_INHIBIT_NO, &a->flag))               \
    X(run_done, vbr_batch_run(a->device, VBR_INHIBIT_NO, NULL))                \
    X(cancel_device, vbr_batch_cancel(NULL))                                   \
    X(abandon_device, vbr_batch_abandon(NULL))                                 \
    X(held_device, vbr_held_bytes(NULL, &a->bytes))                            \
    X(held_bytes, vbr_held_bytes(a->device, NULL))                             \
    X(flush_device, vbr_held_flush(NULL, VBR_FLUSH_ALL, VBR_INHIBIT_NO, &a->flag)) \
    X(flush_done, vbr_held_flush(a->device, VBR_FLUSH_ALL, VBR_INHIBIT_NO, NULL)) \
    X(size_device, vbr_config_size(NULL, &a->size))                            \
    X(size_size, vbr_config_size(a->device, NULL))                             \
    X(read_device, vbr_config_read(NULL, 0, a->image, 16))                        \
    X(read_image, vbr_config_read(a->device, 0, NULL, 16))                        \
    X(write_device, vbr_config_write(NULL, a->image, 16, &a->flag))            \
    X(write_image, vbr_config_write(a->device, NULL, 16, &a->flag))            \
    X(write_changed, vbr_config_write(a->device, a->image, 16, NULL))          \
    X(target_device, vbr_target_set(NULL, 0, RAM, &a->pages))                  \
    X(target_pages, vbr_target_set(a->device, 0, RAM, NULL))                   \
    X(target_get, vbr_target_get(NULL, &a->bytes))                             \
    X(target_out, vbr_target_get(a->device, NULL))                             \
    X(ram_device, vbr_ram_set(NULL, RAM, &a->flag))                            \
    X(ram_changed, vbr_ram_set(a->device, RAM / 2, NULL))                      \
    X(actual_device, vbr_actual_get(NULL, RAM, &a->bytes))                     \
    X(actual_bytes, vbr_actual_get(a->device, RAM, NULL))                      \
    X(new_options, vbr_device_new(NULL, &a->ops, &a->made))                    \
    X(new_ops, vbr_device_new(&a->options, NULL, &a->made))                    \
    X(new_out, vbr_device_new(&a->options, &a->ops, NULL))                     \
    X(reset_device, vbr_device_reset(NULL, &a->flag))                          \
    X(reset_changed, vbr_device_reset(a->device, NULL))                        \
    X(queues_options, vbr_options_queues(NULL, a->queues, &a->size))           \
    X(queues_queues, vbr_options_queues(&a->options, NULL, &a->size))          \
    X(queues_count, vbr_options_queues(&a->options, a->queues, NULL))          \
    X(features_device, vbr_device_set_features(NULL, 0, false))                \
    X(offered_device, vbr_device_features(NULL, &a->bytes))                    \
    X(offered_features, vbr_device_features(a->device, NULL))                  \
    X(accept_device, vbr_device_can_accept(NULL, 0, &a->flag))                 \
    X(accept_accepted, vbr_device_can_accept(a->device, 0, NULL))              \
    X(advice_device, vbr_device_reporting_advice(NULL, &a->advice))            \
    X(advice_out, vbr_device_reporting_advice(a->device, NULL))                \
    X(memory_device, vbr_device_set_memory(NULL, NULL, 0))                     \
    X(plug_device, vbr_memory_plug(NULL, 0, PAGE))                             \
    X(plug_nothing, vbr_memory_plug(a->device, 0, 0))                          \
    X(plug_past_the_end, vbr_memory_plug(a->device, UINT64_MAX, PAGE))         \
    X(unplug_device, vbr_memory_unplug(NULL, 0, PAGE))                         \
    X(unplug_nothing, vbr_memory_unplug(a->device, 0, 0))                      \
    X(counters_device, vbr_device_counters(NULL, RAM, &a->counters))           \
    X(counters_out, vbr_device_counters(a->device, RAM, NULL))                 \
    X(inject_text, vbr_inject_set(NULL))                                        \
    X(inject_used_out, vbr_inject_used(NULL, 64))                              \
    X(log_function, vbr_log_set(NULL, 5))                                      \
    X(save_device, vbr_state_save(NULL, 1, &a->state))                         \
    X(save_out, vbr_state_save(a->device, 1, NULL))                            \
    X(save_broken_device, vbr_state_save_broken(NULL, 0, false, 1, &a->state)) \
    X(save_broken_out, vbr_state_save_broken(a->device, 0, false, 1, NULL))    \
    X(save_pages_device, vbr_state_save_pages(NULL, a->image, 16, &a->size, &a->flag)) \
    X(save_pages_out, vbr_state_save_pages(a->device, NULL, 16, &a->size, &a->flag)) \
    X(save_pages_used, vbr_state_save_pages(a->device, a->image, 16, NULL, &a->flag)) \
    X(save_pages_complete, vbr_state_save_pages(a->device, a->image, 16, &a->size, NULL)) \
    X(load_device, vbr_state_load(NULL, &a->state, NULL, RAM))                 \
    X(load_state, vbr_state_load(a->device, NULL, NULL, RAM))                  \
    X(owed_device, vbr_owed_bytes(NULL, &a->bytes))                            \
    X(owed_bytes, vbr_owed_bytes(a->device, NULL))                             \
    X(discard_device, vbr_owed_discard(NULL, VBR_INHIBIT_NO, &a->flag))        \
    X(discard_done, vbr_owed_discard(a->device, VBR_INHIBIT_NO, NULL))         \
    X(receive_device, vbr_stats_receive(NULL, &a->buffer))                     \
    X(receive_buffer, vbr_stats_receive(a->device, NULL))                      \
    X(stats_device, vbr_stats_get(NULL, &a->stats))                            \
    X(stats_out, vbr_stats_get(a->device, NULL))                               \
    X(stats_reset_device, vbr_machine_reset(NULL))                               \
    X(add_payload, vbr_batch_add(a->device, INFLATE,                           \
                                 &(struct VbrPart){ .len = 4, .last = true })) \
    X(load_pages_coded, vbr_state_load(a->device, &a->state,                   \
                                       &(struct VbrSavedPages){ .len = 4 }, RAM)) \
    X(stats_payload, vbr_stats_receive(a->device,                              \
                                       &(struct VbrStatsBuffer){ .payload_len = 10 })) \
    X(hints_new_out, vbr_hints_new(NULL))                                      \
    X(hints_view_hints, vbr_hints_view(NULL, &a->hint_view))                   \
    X(hints_view_out, vbr_hints_view(a->hints, NULL))                          \
    X(hints_window_hints, vbr_hints_set_window(NULL, 1))                       \
    X(hints_event_hints, vbr_hints_event(NULL, VBR_HINT_EVENT_RESET, &a->flag)) \
    X(hints_event_changed, vbr_hints_event(a->hints, VBR_HINT_EVENT_RESET, NULL)) \
    X(hints_request_hints, vbr_hints_request(NULL, 1, &a->flag))               \
    X(hints_request_asked, vbr_hints_request(a->hints, 1, NULL))               \
    X(hints_id_hints, vbr_hints_receive_id(NULL, a->image, 4, false, &a->flag)) \
    X(hints_id_payload, vbr_hints_receive_id(a->hints, NULL, 4, false, &a->flag)) \
    X(hints_id_changed, vbr_hints_receive_id(a->hints, a->image, 4, false, NULL)) \
    X(hints_receive_hints, vbr_hints_receive(NULL, a->device, a->image, PAGE)) \
    X(hints_receive_device, vbr_hints_receive(a->hints, NULL, a->image, PAGE)) \
    X(hints_memory_hints, vbr_hints_memory_changed(NULL))                      \
    X(hints_hold_hints, vbr_hints_hold(NULL, 1, 2, 3, &a->bytes))              \
    X(hints_hold_wait, vbr_hints_hold(a->hints, 1, 2, 3, NULL))                \
    X(hints_save_hints, vbr_hints_save(NULL, &a->record))                      \
    X(hints_save_out, vbr_hints_save(a->hints, NULL))                          \
    X(hints_save_broken_hints, vbr_hints_save_broken(NULL, &a->record))        \
    X(hints_save_broken_out, vbr_hints_save_broken(a->hints, NULL))            \
    X(hints_load_hints, vbr_hints_load(NULL, &a->record))                      \
    X(hints_load_record, vbr_hints_load(a->hints, NULL))                       \
    X(negotiated_hints, vbr_hints_negotiated(NULL, a->device, &a->flag))       \
    X(negotiated_device, vbr_hints_negotiated(a->hints, NULL, &a->flag))       \
    X(negotiated_changed, vbr_hints_negotiated(a->hints, a->device, NULL))     \
    X(buffer_hints, vbr_request_buffer(NULL, a->device, REQUEST, 16, false, &a->flag)) \
    X(buffer_hints_short, vbr_request_buffer(NULL, a->device, REQUEST, 1, false, &a->flag)) \
    X(buffer_device, vbr_request_buffer(a->hints, NULL, REQUEST, 16, false, &a->flag)) \
    X(buffer_hold, vbr_request_buffer(a->hints, a->device, REQUEST, 16, false, NULL)) \
    X(buffer_hold_short, vbr_request_buffer(a->hints, a->device, REQUEST, 1, false, NULL)) \
    X(lost_hints, vbr_request_lost(NULL, REQUEST))                             \
    X(give_up_hints, vbr_request_give_up_answer(NULL, a->device))              \
    X(give_up_device, vbr_request_give_up_answer(a->hints, NULL))              \
    X(queue_reset_hints, vbr_request_queue_reset(NULL, REQUEST))               \
    X(take_hints, vbr_request_take(NULL, REQUEST, a->image, &a->size))         \
    X(take_out, vbr_request_take(a->hints, REQUEST, NULL, &a->size))           \
    X(take_len, vbr_request_take(a->hints, REQUEST, a->image, NULL))           \
    X(answer_hints, vbr_request_answer(NULL, a->device, REQUEST, &a->answer))  \
    X(answer_device, vbr_request_answer(a->hints, NULL, REQUEST, &a->answer))  \
    X(answer_part, vbr_request_answer(a->hints, a->device, REQUEST, NULL))     \
    X(answer_payload, vbr_request_answer(a->hints, a->device, REQUEST,         \
                                         &(struct VbrAnswer){ .len = 8 }))     \
    X(ram_new_ops, vbr_ram_new(NULL, 12, &a->made_ram))                        \
    X(ram_new_out, vbr_ram_new(&a->ram_ops, 12, NULL))                         \
    X(ram_new_shift, vbr_ram_new(&a->ram_ops, 32, &a->made_ram))               \
    X(ram_begin_ram, vbr_ram_begin(NULL))                                      \
    X(ram_synced_ram, vbr_ram_synced(NULL))                                    \
    X(ram_sweep_ram, vbr_ram_sweep(NULL, a->device, &a->change, &a->flag))     \
    X(ram_sweep_change, vbr_ram_sweep(a->ram, a->device, NULL, &a->flag))      \
    X(ram_sweep_more, vbr_ram_sweep(a->ram, a->device, &a->change, NULL))      \
    X(ram_arm_ram, vbr_ram_arm(NULL, a, VBR_ARM_ALL, &a->flag))                \
    X(ram_arm_more, vbr_ram_arm(a->ram, a, VBR_ARM_ALL, NULL))                 \
    X(ram_trust_ram, vbr_ram_trust(NULL, 0))                                   \
    X(ram_hinted_ram, vbr_ram_leave_out_hinted(NULL, a->hints, &a->change, &a->flag)) \
    X(ram_hinted_hints, vbr_ram_leave_out_hinted(a->ram, NULL, &a->change, &a->flag)) \
    X(ram_hinted_change, vbr_ram_leave_out_hinted(a->ram, a->hints, NULL, &a->flag)) \
    X(ram_hinted_wanted, vbr_ram_leave_out_hinted(a->ram, a->hints, &a->change, NULL)) \
    X(ram_postcopy_ram, vbr_ram_postcopy(NULL, a, &a->change, &a->flag))       \
    X(ram_postcopy_change, vbr_ram_postcopy(a->ram, a, NULL, &a->flag))        \
    X(ram_postcopy_more, vbr_ram_postcopy(a->ram, a, &a->change, NULL))        \
    X(ram_counters_ram, vbr_ram_counters(NULL, &a->skips))                     \
    X(ram_counters_out, vbr_ram_counters(a->ram, NULL))                        \
    X(dirty_new_options, vbr_dirty_new(NULL, &a->made_list))                   \
    X(dirty_new_out, vbr_dirty_new(&a->dirty, NULL))                           \
    X(dirty_start_list, vbr_dirty_start(NULL))                                 \
    X(dirty_stop_list, vbr_dirty_stop(NULL))                                   \
    X(dirty_note_list, vbr_dirty_note(NULL, 0, 1, 1, &a->flag))                \
    X(dirty_note_trigger, vbr_dirty_note(a->list, 0, 1, 1, NULL))              \
    X(dirty_fetch_list, vbr_dirty_fetch(NULL, &a->bytes, 1, &a->size))         \
    X(dirty_fetch_pages, vbr_dirty_fetch(a->list, NULL, 1, &a->size))          \
    X(dirty_fetch_count, vbr_dirty_fetch(a->list, &a->bytes, 1, NULL))         \
    X(dirty_fetch_most, vbr_dirty_fetch(a->list, &a->bytes, SIZE_MAX, &a->size)) \
    X(dirty_reset_list, vbr_dirty_reset(NULL, &a->flag))                       \
    X(dirty_reset_trigger, vbr_dirty_reset(a->list, NULL))                     \
    X(dirty_indices_list, vbr_dirty_indices(NULL, &a->indices))                \
    X(dirty_indices_out, vbr_dirty_indices(a->list, NULL))                     \
    X(dirty_begin_list, vbr_dirty_sync_begin(NULL, &a->flag))                  \
    X(dirty_begin_listed, vbr_dirty_sync_begin(a->list, NULL))                 \
    X(dirty_sync_list, vbr_dirty_sync_fetch(NULL, &a->bytes, 1, &a->size))     \
    X(dirty_sync_pages, vbr_dirty_sync_fetch(a->list, NULL, 1, &a->size))      \
    X(dirty_sync_count, vbr_dirty_sync_fetch(a->list, &a->bytes, 1, NULL))     \
    X(dirty_end_list, vbr_dirty_sync_end(NULL))                                \
    X(misplaced_bytes, vbr_actual_get(a->device, RAM, (void *)&a->image[1]))

#define CALL(name, call)                                                       \
    static enum VbrStatus null_##name(struct arguments *a)                     \
    {                                                                          \
        (void)a;                                                               \
        return call;                                                           \
    }
ROWS(CALL)
#undef CALL

static const struct {
    const char *call;
    enum VbrStatus (*run)(struct arguments *a);
} rows[] = {
#define ROW(name, call) { #call, null_##name },
    ROWS(ROW)
#undef ROW
};

/* Lists with a page on each, which no call of the table takes. */
static struct VbrDirtyList *lively_list(void)
{
    const struct VbrDirtyOptions options = {
        .version = VBR_DIRTY_VERSION, .max_dirty = 1, .dirty_trigger = 3
    };
    struct VbrDirtyList *list = NULL;
    bool flag;

    CHECK_OK(vbr_dirty_new(&options, &list));
    CHECK_OK(vbr_dirty_start(list));
    CHECK_OK(vbr_dirty_sync_begin(list, &flag));
    CHECK_OK(vbr_dirty_note(list, 0, 99, 1, &flag));
    return list;
}

static void list_is_untouched(struct VbrDirtyList *list)
{
    struct VbrDirtyIndices indices;
    uint64_t page = 0;
    size_t count = 0;

    CHECK_OK(vbr_dirty_indices(list, &indices));
    CHECK(indices.active);
    CHECK_EQ(indices.dirty_index, 1);
    CHECK_OK(vbr_dirty_sync_fetch(list, &page, 1, &count));
    CHECK(count == 1 && page == 99);
    page = count = 0;
    CHECK_OK(vbr_dirty_fetch(list, &page, 1, &count));
    CHECK(count == 1 && page == 99);
    CHECK_OK(vbr_dirty_free(list, true));
}

/* All of a device that can be seen from outside. */
struct view {
    struct VbrCounters counters;
    struct VbrState state;
};

static struct view look(struct host *host)
{
    struct view view;
    struct VbrState state;

    memset(&view, 0, sizeof(view));
    view.counters = host_counters(host);
    CHECK_OK(vbr_state_save(host->device, 7, &state));
    /* One by one: what lies between the fields may be anything. */
    view.state.num_pages = state.num_pages;
    view.state.actual = state.actual;
    view.state.poison_val = state.poison_val;
    view.state.has_stats = state.has_stats;
    memcpy(view.state.stats, state.stats, sizeof(state.stats));
    view.state.stats_last_update = state.stats_last_update;
    view.state.stats_polling_interval = state.stats_polling_interval;
    return view;
}

/* A device in which every call would leave a trace. */
static struct host *lively_host(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint8_t image[16] = { 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5 };
    const uint8_t entry[10] = { 4, 0, 77 };
    const struct VbrStatsBuffer buffer = {
        .payload = entry, .payload_len = 10, .len = 10, .now = 3
    };
    uint32_t pages;
    bool changed;

    CHECK_OK(vbr_target_set(host->device, RAM / 2, RAM, &pages));
    CHECK_OK(vbr_config_write(host->device, image, sizeof(image), &changed));
    CHECK_OK(vbr_stats_receive(host->device, &buffer));
    inflate(host, 4 * MIB, 1 * MIB);
    CHECK_OK(request_range(host, INFLATE, 8 * MIB, 1 * MIB));
    return host;
}

void theme_null(void)
{
    struct host *host = lively_host();
    size_t bytes = room(host, INFLATE);
    struct view before = look(host);
    struct VbrHints *hints = NULL;
    struct VbrRam *ram = NULL;
    struct VbrDirtyList *list = lively_list();

    CHECK_OK(vbr_hints_new(&hints));
    CHECK_OK(vbr_ram_new(&(struct VbrRamOps){ .opaque = NULL }, 12, &ram));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct arguments a, untouched;
        memset(&a, 0, sizeof(a));
        a.device = host->device;
        a.hints = hints;
        a.ram = ram;
        a.list = list;
        a.ops = host_ops(host);
        memcpy(&untouched, &a, sizeof(a));
        check_status(__FILE__, __LINE__, rows[i].call, rows[i].run(&a),
                     VBR_STATUS_INVALID_ARGUMENT);
        check_that(__FILE__, __LINE__, rows[i].call, memcmp(&a, &untouched, sizeof(a)) == 0);
        struct view after = look(host);
        check_that(__FILE__, __LINE__, rows[i].call,
                   memcmp(&before, &after, sizeof(after)) == 0);
        CHECK_EQ(room(host, INFLATE), bytes);
    }
    list_is_untouched(list);
    CHECK_OK(vbr_dirty_free(NULL, false));
    CHECK(!vbr_dirty_is_active(NULL));
    /* The batch that was open all the time is whole. */
    guest_fill(host, 8 * MIB, 1 * MIB);
    run_batch(host);
    CHECK(guest_gone(host, 8 * MIB, 1 * MIB));
    CHECK_EQ(host_counters(host).ballooned_bytes, 2 * MIB);
    struct VbrHintView hint_view;
    CHECK_OK(vbr_hints_view(hints, &hint_view));
    CHECK_EQ(hint_view.source, VBR_FREE_PAGE_SOURCE_NONE);
    CHECK_EQ(hint_view.counters.ignored_ids, 0);

    /* Where nothing is pointed at, NULL is a pointer like others. */
    CHECK_OK(vbr_batch_add_report(host->device, NULL, 0, 1));
    run_batch(host);
    CHECK_OK(vbr_device_set_memory(host->device, NULL, 0));
    CHECK_OK(vbr_state_load(host->device, &before.state, &(struct VbrSavedPages){ .len = 0 }, RAM));
    host_free(host);
    vbr_device_free(NULL);
    CHECK(vbr_device_malformed_str(NULL) != NULL);
    CHECK_EQ(vbr_device_malformed_str(NULL)[0], 0);

    /* A host without callbacks has nothing that is migrated. */
    bool flag = true;
    struct VbrDirtyChange change = { 0, 0 };
    CHECK_OK(vbr_hints_receive_id(hints, NULL, 0, false, &flag));
    CHECK_OK(vbr_ram_synced(ram));
    CHECK_OK(vbr_ram_postcopy(ram, NULL, &change, &flag));
    CHECK(!flag);
    CHECK_OK(vbr_ram_arm(ram, NULL, VBR_ARM_ALL, &flag));
    CHECK(!flag);
    CHECK(!vbr_ram_is_left_out(ram, NULL, 0));
    CHECK(!vbr_ram_is_left_out(NULL, NULL, 0));
    vbr_hints_free(hints);
    vbr_ram_free(ram);
    vbr_hints_free(NULL);
    vbr_ram_free(NULL);
}
