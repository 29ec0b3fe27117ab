/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "calls.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* Where outputs go; all of it must stay as it is, because none of the calls does anything. */
struct outputs {
    size_t size;
    uint64_t bytes;
    uint32_t pages;
    bool flag;
    uint8_t image[16];
    struct VbrCounters counters;
    struct VbrState state;
    struct VbrStats stats;
    enum VbrAdviceInForce advice;
};

/* Inputs: all zeros are valid, or never looked at. */
static const struct {
    uint8_t image[16];
    struct VbrPart part;
    struct VbrReported segment;
    struct VbrState state;
    struct VbrSavedPages pages;
    struct VbrStatsBuffer buffer;
    struct VbrAnswer answer;
} in;

#define CALLS(X)                                                               \
    X(vbr_batch_room, (device, VBR_QUEUE_KIND_INFLATE, &out->size))            \
    X(vbr_batch_add, (device, VBR_QUEUE_KIND_INFLATE, &in.part))               \
    X(vbr_batch_add_report, (device, &in.segment, 1, 0))                       \
    X(vbr_batch_run, (device, VBR_INHIBIT_NO, &out->flag))                     \
    X(vbr_batch_cancel, (device))                                              \
    X(vbr_batch_abandon, (device))                                             \
    X(vbr_held_bytes, (device, &out->bytes))                                   \
    X(vbr_held_flush, (device, VBR_FLUSH_ALL, VBR_INHIBIT_NO, &out->flag))     \
    X(vbr_owed_bytes, (device, &out->bytes))                                   \
    X(vbr_owed_discard, (device, VBR_INHIBIT_NO, &out->flag))                  \
    X(vbr_config_size, (device, &out->size))                                   \
    X(vbr_config_read, (device, 0, out->image, sizeof(out->image)))            \
    X(vbr_config_write, (device, in.image, sizeof(in.image), &out->flag))      \
    X(vbr_target_set, (device, 0, 4096, &out->pages))                          \
    X(vbr_target_get, (device, &out->bytes))                                   \
    X(vbr_ram_set, (device, 4096, &out->flag))                                 \
    X(vbr_actual_get, (device, 4096, &out->bytes))                             \
    X(vbr_device_features, (device, &out->bytes))                              \
    X(vbr_device_can_accept, (device, 0, &out->flag))                          \
    X(vbr_device_set_features, (device, 0, false))                             \
    X(vbr_device_reporting_advice, (device, &out->advice))                     \
    X(vbr_device_set_memory, (device, NULL, 0))                                \
    X(vbr_memory_plug, (device, 0, 4096))                                      \
    X(vbr_memory_unplug, (device, 0, 4096))                                    \
    X(vbr_hints_receive, (hints, device, NULL, 4096))                          \
    X(vbr_device_counters, (device, 4096, &out->counters))                     \
    X(vbr_state_save, (device, 1, &out->state))                                \
    X(vbr_state_save_pages, (device, out->image, 16, &out->size, &out->flag))  \
    X(vbr_state_load, (device, &in.state, &in.pages, 4096))                    \
    X(vbr_stats_receive, (device, &in.buffer))                                 \
    X(vbr_stats_get, (device, &out->stats))                                    \
    X(vbr_machine_reset, (device))                                             \
    X(vbr_request_buffer, (hints, device, HOST_REQUEST, 16, false, &out->flag)) \
    X(vbr_request_answer, (hints, device, HOST_REQUEST, &in.answer))           \
    X(vbr_request_give_up_answer, (hints, device))

#define HOST_REQUEST VBR_FREE_PAGE_SOURCE_HOST_REQUEST

/* Of nobody else's: what some calls need besides the device. */
static struct VbrHints *hints;

#define CALL(name, arguments)                                                  \
    static enum VbrStatus call_##name(struct VbrDevice *device, struct outputs *out) \
    {                                                                          \
        (void)out;                                                             \
        return name arguments;                                                 \
    }
CALLS(CALL)
CALL(vbr_device_reset, (device, &out->flag))
#undef CALL

static const struct call {
    const char *name;
    enum VbrStatus (*call)(struct VbrDevice *device, struct outputs *out);
} calls[] = {
#define ROW(name, arguments) { #name, call_##name },
    CALLS(ROW)
#undef ROW
};

static void expect_of(const struct call *call, struct VbrDevice *device,
                      enum VbrStatus expected)
{
    struct outputs out, before;

    memset(&out, 0x55, sizeof(out));
    out.flag = true;
    memcpy(&before, &out, sizeof(out));
    enum VbrStatus status = call->call(device, &out);
    if (status != expected || memcmp(&out, &before, sizeof(out)) != 0) {
        fprintf(stderr, "%s answers %d (%s) and %s its output, expected %d (%s) and no output\n",
                call->name, (int)status, vbr_status_str(status),
                memcmp(&out, &before, sizeof(out)) != 0 ? "writes" : "leaves", (int)expected,
                vbr_status_str(expected));
        _Exit(1);
    }
}

void expect_of_all_but_reset(struct VbrDevice *device, enum VbrStatus expected)
{
    CHECK_OK(vbr_hints_new(&hints));
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        expect_of(&calls[i], device, expected);
    }
    vbr_hints_free(hints);
    /* This one says nothing but why. */
    CHECK_EQ(vbr_device_malformed_str(device)[0], 0);
}

void expect_of_each_call_to_break(struct VbrDevice *device)
{
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        char fault[64];
        bool changed;

        snprintf(fault, sizeof(fault), "%s:1", calls[i].name);
        CHECK_OK(vbr_hints_new(&hints));
        CHECK_OK(vbr_inject_set(fault));
        expect_of(&calls[i], device, VBR_STATUS_BROKEN);
        CHECK(!vbr_inject_pending());
        vbr_hints_free(hints);
        CHECK_OK(vbr_device_reset(device, &changed));
    }
}

void expect_of_all_calls(struct VbrDevice *device, enum VbrStatus expected)
{
    const struct call reset = { "vbr_device_reset", call_vbr_device_reset };

    expect_of_all_but_reset(device, expected);
    expect_of(&reset, device, expected);
}
