/*
 * virtio-balloon device with its logic in Rust: QEMU's side
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_BALLOON_RS_H
#define HW_VIRTIO_BALLOON_RS_H

#include "hw/qdev-properties.h"
#include "hw/resettable.h"
#include "hw/virtio/virtio.h"
#include "standard-headers/linux/virtio_balloon.h"
#include "system/iothread.h"
#include "vbr-compat.h"
#include "virtio_balloon_rs.h"

#define TYPE_VIRTIO_BALLOON_RS "virtio-balloon-rs-device"
OBJECT_DECLARE_SIMPLE_TYPE(VirtIOBalloonRs, VIRTIO_BALLOON_RS)

/* The set of ballooned pages, while it is saved or loaded. */
typedef struct VbrPagesState {
    uint8_t *coded;
    uint32_t len;
    bool complete;
    /* A stream brought it. */
    bool loaded;
} VbrPagesState;

/* The request and misc queues of the founding protocols. */
#define VBR_REQUEST_QUEUES 2

typedef struct VbrRequestQueue {
    /* Held for the next request. */
    VirtQueueElement *buffer;
    /* How many were popped behind it and did not go back to the ring. */
    unsigned int popped_since;
    /* Read up to here, the rest is still to be read. */
    VirtQueueElement *message;
    size_t offset;
} VbrRequestQueue;

struct VirtIOBalloonRs {
    VirtIODevice parent_obj;

    /* Properties */
    /* Founding protocols by their private bits, whatever they go by. */
    uint64_t host_features;
    VbrNumbering numbering;
    VbrAdvice reporting_advice;
    OnOffAuto beside_vhost_user;
    uint32_t hold_ms;
    uint64_t hold_bytes;
    bool qemu_4_0_config_size;
    /* Accepted as QEMU's C device does, with a warning. */
    IOThread *iothread;
    uint32_t hint_window;

    VbrDevice *device;
    /* The bits of the features that it offers. */
    uint64_t offered;
    /* By VbrQueueKind; NULL where the queue is not offered. */
    VirtQueue *vq[VBR_MAX_QUEUES];

    /* Guest RAM as the device knows it, and as the next commit will tell it. */
    MemoryListener listener;
    GArray *sections;
    GArray *next_sections;
    /* VbrBackingFile by RAMBlock of @sections, as it was at first sight. */
    GHashTable *files;
    /* Some of it is in pages larger than the host's. */
    bool large_pages;
    /* Something that was in @sections is not in @next_sections. */
    bool memory_went;
    /* What of it comes in parts: virtio-mem. */
    QLIST_HEAD(, VbrParts) parts;
    /* This process, for advice on many places at once; -1 where that fails. */
    int pidfd;

    /* Takes over what is RAM when memory has come or gone, and is counted. */
    QEMUBH *ram_bh;

    /* Runs the slices of a batch that are left after the first. */
    QEMUBH *bh;
    /* Queues that may hold requests, a bit for each VbrQueueKind. */
    uint32_t kicked;
    /* Changes when the device is reset, or goes. */
    unsigned int life;
    /* Its memory stays until the main loop has come round. */
    bool kept;
    /* QEMU ends, and frees what the device asks otherwise. */
    Notifier shutdown_notifier;
    bool qemu_ends;
    /* The library missed that the machine was reset. */
    bool machine_reset_due;
    /* What else it missed, bits of VbrMissed: nothing goes on meanwhile. */
    uint32_t missed;
    /*
     * The batch: the queue, and its requests, popped and not answered yet; NULL
     * where one is being answered.
     */
    VbrQueueKind batch_queue;
    VirtQueueElement *held[VBR_BATCH_MAX_REQUESTS];
    unsigned int n_held;
    /* The newest of them was read up to here and goes on in the next batch. */
    bool partial;
    size_t partial_offset;
    /* The batch is being worked on and takes no more requests. */
    bool working;
    /* Asks whether what could not be discarded can be now. */
    QEMUTimer *owed_timer;

    /* Ends the wait of inflated memory for its neighbours. */
    QEMUTimer *hold_timer;
    bool flush_due;
    VbrFlush flush;
    /* How long programs of the host waited for memory, when last asked. */
    int pressure_fd;
    uint64_t stalled_us;

    VirtQueueElement *stats_elem;
    QEMUTimer *stats_timer;
    int64_t stats_poll_interval;

    /* Under the migration lock. */
    VbrHints *hints;
    /* They missed something, and are not to be trusted until the next reset. */
    bool hints_lost;
    /* Takes the requests of the hint queue. */
    QEMUBH *hint_bh;
    /* Sends requests and takes what is answered. */
    QEMUBH *request_bh;
    VbrRequestQueue requests[VBR_REQUEST_QUEUES];
    /* Tells the guest that the configuration space changed. */
    QEMUBH *config_bh;

    VbrState state;
    VbrHintRecord hint_record;
    bool hint_record_loaded;
    /* The driver is to be told of the configuration when the machine runs. */
    bool config_due;
    VbrPagesState pages;
};

/* Says what is in the balloon, to whoever listens. */
void vbr_announce_actual(VirtIOBalloonRs *s);
/* Whether the driver accepted a feature of the standard, by its bit. */
bool vbr_accepted(VirtIOBalloonRs *s, unsigned int bit);
/*
 * Bytes of RAM that the guest has: the machine's, DIMMs, and what virtio-mem
 * devices have plugged.
 */
uint64_t vbr_ram_size(void);

/* virtio-balloon-rs-calls.c */
/* Takes over what the library logs. */
void vbr_log_init(void);
/*
 * Whether a call into the library failed. The device is marked as broken if the
 * library ran into a bug of its own, not for any other answer: nothing was done
 * then.
 */
bool vbr_failed(VirtIOBalloonRs *s, VbrStatus status);
/*
 * Notifies the driver of a queue, if the device was not reset since the turn
 * began, or of a change of the configuration space.
 * This can reset the device, or unplug it: nothing of it is used afterwards.
 */
void vbr_notify(VirtIOBalloonRs *s, VirtQueue *vq, unsigned int life);
void vbr_notify_config(VirtIOBalloonRs *s);
/*
 * Keeps the device for this turn of the main loop; returns what says, behind
 * whatever touches a ring, whether that has reset it or unplugged it, or found
 * it broken. Nothing of it is used then but what a broken device has to give up.
 */
unsigned int vbr_turn_begin(VirtIOBalloonRs *s);
bool vbr_was_reset(VirtIOBalloonRs *s, unsigned int life);
bool vbr_turn_is_over(VirtIOBalloonRs *s, unsigned int life);
/* Takes a request; NULL if there is none, or the turn is over. */
VirtQueueElement *vbr_pop(VirtIOBalloonRs *s, VirtQueue *vq,
                          unsigned int life);
/*
 * Runs @fn while the device's registers refuse access: rings and interrupts can
 * be aimed at them. Called with the big lock held.
 */
void vbr_guarded(VirtIOBalloonRs *s, void (*fn)(VirtIOBalloonRs *s));

/* virtio-balloon-rs-missed.c */
/* What the library has to be told, because the guest's memory hangs on it. */
typedef enum VbrMissed {
    VBR_MISSED_RESET = 1 << 0,
    VBR_MISSED_FEATURES = 1 << 1,
    VBR_MISSED_MEMORY = 1 << 2,
    VBR_MISSED_BATCH = 1 << 3,
    VBR_MISSED_CONFIG = 1 << 4,
} VbrMissed;

/*
 * Looks at what came of a call that tells the library @what. If it did not
 * listen, the device stands still until it did: no request is taken, nothing is
 * discarded, and no page counts as ballooned.
 */
void vbr_must(VirtIOBalloonRs *s, VbrStatus status, VbrMissed what);
/*
 * Tells the library what it missed; says whether the device goes on. To do so
 * can reset the device, or unplug it: then it does not.
 */
bool vbr_catch_up(VirtIOBalloonRs *s);

/* Tells the library what the driver accepted. */
void vbr_tell_features(VirtIOBalloonRs *s, uint64_t features);

/* virtio-balloon-rs.c */
/* Tells the library of a reset, or of the configuration. */
void vbr_tell_reset(VirtIOBalloonRs *s);
void vbr_tell_config(VirtIOBalloonRs *s, const uint8_t *config);

/* virtio-balloon-rs-memory.c */
/* What the library may ask of QEMU. */
VbrHostOps vbr_host_ops(VirtIOBalloonRs *s);
void vbr_memory_init(VirtIOBalloonRs *s);
void vbr_memory_cleanup(VirtIOBalloonRs *s);
/* Tells the library where guest RAM is. */
void vbr_memory_tell(VirtIOBalloonRs *s);
/* Tells it anew, so that it forgets whatever it knew of RAM before. */
void vbr_memory_tell_anew(VirtIOBalloonRs *s);
/* Whether parts of it come and go. */
bool vbr_is_virtio_mem(MemoryRegion *mr);

/* virtio-balloon-rs-parts.c */
/* Such memory appears; the library will be told of it next. */
void vbr_parts_add(VirtIOBalloonRs *s, MemoryRegionSection *section);
/* It goes, and the library is told. */
void vbr_parts_del(VirtIOBalloonRs *s, MemoryRegionSection *section);
/* Looks at memory that appeared: the library knows of it now. */
void vbr_parts_watch(VirtIOBalloonRs *s);
/* Tells a library that knows of no parts what is there. */
void vbr_parts_tell(VirtIOBalloonRs *s);

/* virtio-balloon-rs-queues.c */
VbrInhibit vbr_inhibit(VirtIOBalloonRs *s);
/* Whether one runs, which wants all of memory as it was when it began. */
bool vbr_background_snapshot(VirtIOBalloonRs *s);
const char *vbr_inhibit_str(VbrInhibit inhibit);
void vbr_queues_init(VirtIOBalloonRs *s, const VbrQueueSpec *queues,
                     size_t count);
void vbr_queues_cleanup(VirtIOBalloonRs *s);
/* Looks at all queues: requests may have come unnoticed. */
void vbr_queues_kick(VirtIOBalloonRs *s);

/* virtio-balloon-rs-batch.c */
/* The queue of the batch. */
VirtQueue *vbr_queues_batch_vq(VirtIOBalloonRs *s);
/*
 * These answer requests and notify the driver, as the last thing of a turn: the
 * device may have been reset or unplugged by it.
 */
/* Answers the batch; a request that goes on in the next one stays. */
void vbr_queues_complete(VirtIOBalloonRs *s, unsigned int life);
/* Gives the batch up and answers its requests. */
void vbr_queues_give_up(VirtIOBalloonRs *s);
/*
 * Gives held requests back to their ring, or answers them where that cannot be:
 * the machine is being stopped.
 */
void vbr_queues_give_back(VirtIOBalloonRs *s);
/* Drops the batch of a device that is broken. */
void vbr_queues_drop_broken(VirtIOBalloonRs *s);
/* Drops held requests: their ring is gone. */
void vbr_queues_drop(VirtIOBalloonRs *s);
/* A driver resets one queue. */
void vbr_queues_reset(VirtIOBalloonRs *s, VirtQueue *vq);

/* virtio-balloon-rs-hold.c */
void vbr_hold_init(VirtIOBalloonRs *s);
void vbr_hold_cleanup(VirtIOBalloonRs *s);
void vbr_hold_watch(VirtIOBalloonRs *s);
bool vbr_hold_turn(VirtIOBalloonRs *s, VbrInhibit inhibit);
void vbr_hold_flush(VirtIOBalloonRs *s);

/* virtio-balloon-rs-owed.c */
void vbr_owed_init(VirtIOBalloonRs *s);
void vbr_owed_cleanup(VirtIOBalloonRs *s);
/* Sees to it that what could not be discarded is, now or later. */
void vbr_owed_watch(VirtIOBalloonRs *s, VbrInhibit inhibit);
/* Discards for a slice what could not be before. */
void vbr_owed_turn(VirtIOBalloonRs *s, VbrInhibit inhibit);

/* virtio-balloon-rs-hints.c */
void vbr_hints_init(VirtIOBalloonRs *s);
void vbr_hints_cleanup(VirtIOBalloonRs *s);
void vbr_hints_handle_output(VirtIODevice *vdev, VirtQueue *vq);
/* Looks at the queue: requests may have come unnoticed. */
void vbr_hints_kick(VirtIOBalloonRs *s);
/* The queue of @source was seen empty. */
void vbr_hints_note_empty(VirtIOBalloonRs *s, VbrFreePageSource source);
/*
 * What there is to see of the hints; false if they cannot be trusted. Locked.
 */
bool vbr_hint_view(VirtIOBalloonRs *s, VbrHintView *view);
/* Takes over @event; says whether the guest sees another command. Locked. */
bool vbr_hint_event(VirtIOBalloonRs *s, VbrHintEvent event);
/* The same, and tells the guest. Not locked, under the big lock. */
void vbr_hint_event_notify(VirtIOBalloonRs *s, VbrHintEvent event);
/* What the configuration space shows as command. */
uint32_t vbr_hint_shown_id(VirtIOBalloonRs *s);

/* virtio-balloon-rs-requests.c */
void vbr_requests_init(VirtIOBalloonRs *s);
void vbr_requests_cleanup(VirtIOBalloonRs *s);
void vbr_requests_handle_output(VirtIODevice *vdev, VirtQueue *vq);
/* Looks at the queues: a request is due, or answers may have come unnoticed. */
void vbr_requests_kick(VirtIOBalloonRs *s);
/* Gives what is held back to its ring: the machine is being stopped. */
void vbr_requests_give_back(VirtIOBalloonRs *s);
/* Drops what is held: the rings are gone. */
void vbr_requests_drop(VirtIOBalloonRs *s);
/* A driver resets one queue. */
void vbr_requests_reset(VirtIOBalloonRs *s, VirtQueue *vq);

/* virtio-balloon-rs-vhost-user.c */
/* Whether a process beside QEMU may have pinned guest memory. */
bool vbr_vhost_user_is_there(void);
void vbr_vhost_user_init(void);

/* virtio-balloon-rs-migration.c */
void vbr_migration_init(VirtIOBalloonRs *s);
void vbr_migration_cleanup(VirtIOBalloonRs *s);
/*
 * The lock of the hints; not to be held while a ring or the guest is touched.
 */
void vbr_migration_lock(void);
void vbr_migration_unlock(void);
/* Wakes the migration thread if it waits for hints. */
void vbr_migration_wake(void);
/* What was left out, and how much of it when the first pass began. */
void vbr_migration_counters(VbrSkipCounters *counters, uint64_t *wait_bytes);

/* virtio-balloon-rs-account.c */
/* What the library knows of what was left out. Under the bitmap lock. */
VbrRam *vbr_account(void);
/*
 * Makes an account in which nothing is left out. Under the bitmap lock, or
 * before a migration can come.
 */
bool vbr_account_new(void);
/* How many more pages are dirty by a change; any thread. */
int64_t vbr_account_change(const VbrDirtyChange *change);
/* Has everything sent again. Under the bitmap lock and RCU. */
void vbr_account_send_all(VbrDirtyChange *change);
/*
 * Arms the dirty log; says whether all is armed. Under the migration lock,
 * which is released meanwhile.
 */
bool vbr_account_arm(VbrArm which);
/*
 * All that was armed so far was armed before hints of an epoch later than
 * @epoch were posted. Under the migration lock.
 */
bool vbr_account_trust(uint64_t epoch);
/*
 * Has postcopy announce as zero what was left out. Under the big lock, while
 * the guest stands still, and when all is settled.
 */
void vbr_account_postcopy(void);
/* Under the bitmap lock. */
bool vbr_account_is_left_out(RAMBlock *block, unsigned long page);

/* virtio-balloon-rs-state.c */
extern const VMStateDescription vmstate_vbr_device;
int vbr_post_load(VirtIODevice *vdev);
/* Frees what is left of a state that was saved or loaded. */
void vbr_pages_forget(VirtIOBalloonRs *s);

/* virtio-balloon-rs-stats.c */
void vbr_stats_handle_output(VirtIODevice *vdev, VirtQueue *vq);
void vbr_stats_init(VirtIOBalloonRs *s);
void vbr_stats_cleanup(VirtIOBalloonRs *s);
/* When the machine goes on. */
void vbr_stats_resume(VirtIOBalloonRs *s);
void vbr_stats_drop(VirtIOBalloonRs *s);
void vbr_stats_set_interval(VirtIOBalloonRs *s, int64_t seconds);
/* Starts the interval anew, if statistics are polled. */
void vbr_stats_rearm(VirtIOBalloonRs *s);

/* virtio-balloon-rs-props.c */
void vbr_props_init(VirtIOBalloonRs *s);
/* Makes the properties of @device readable on the proxy that it belongs to. */
void vbr_props_alias(Object *proxy, VirtIOBalloonRs *device);
/* What there is to see of the hints. Not locked, under the big lock. */
bool vbr_props_hint_view(VirtIOBalloonRs *s, VbrHintView *view, Error **errp);

/* virtio-balloon-rs-counters.c */
/* The properties with what is counted, and their names on the proxy. */
void vbr_counters_init(VirtIOBalloonRs *s);
void vbr_counters_alias(Object *proxy, VirtIOBalloonRs *device);

#endif
