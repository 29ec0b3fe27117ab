/*
 * The guest's side of free page hints, and the migrations that ask for them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_HINT_H
#define VBR_HINT_H

#include "vbr-driver.h"

#define VBR_HINT_OPTS "free-page-hint=on"

/* What the field of the configuration space says beside the ids of rounds. */
#define VBR_HINT_STOP 0
#define VBR_HINT_DONE 1
#define VBR_HINT_FIRST_ID 0x80000000u

/* Where a stream goes that nobody needs. */
#define VBR_NOWHERE "exec:cat >/dev/null"

/*
 * Bytes per second. QEMU looks at what it sent when a buffer is full, ten times
 * a second: at this speed it sends 32 pages that are not zero at a time.
 */
#define VBR_SLOW 2000
#define VBR_FAST (1 * GiB)

void vbr_migrate_speed(QTestState *qts, int64_t bytes_per_second);
void vbr_migrate_capability(QTestState *qts, const char *name);
void vbr_migrate(QTestState *qts, const char *uri);
/* query-migrate's status has to become this one. */
void vbr_migrate_until(QTestState *qts, const char *status);

/* How often the migration looked for dirty pages. */
uint64_t vbr_migrate_syncs(QTestState *qts);

/* The field of the configuration space. */
uint32_t vbr_hint_shown(VbrDev *d);
/* Waits until another round than that of @last is asked for. */
uint32_t vbr_hint_wait_round(VbrDev *d, uint32_t last);
void vbr_hint_assert_state(VbrDev *d, const char *state);
/* Waits until a counter has this value. */
void vbr_hint_wait(VbrDev *d, const char *counter, uint64_t value);

/* One request each: offered, and taken back by the driver. */
void vbr_hint_bytes(VbrDev *d, const void *bytes, size_t len);
void vbr_hint_id(VbrDev *d, uint32_t id);
void vbr_hint_block(VbrDev *d, uint64_t addr, uint32_t len);
void vbr_hint_pages(VbrDev *d, uint64_t addr, size_t pages);
/* An id in guest memory, and a block, as parts of a request. */
VbrSeg vbr_hint_id_seg(VbrDev *d, uint32_t id);
VbrSeg vbr_hint_block_seg(uint64_t addr, uint32_t len);

/* Pages that a migration that is as slow as this will not reach soon. */
uint64_t vbr_hint_area(VbrDev *d, size_t pages);

/*
 * Fills what comes before such pages: the migration that is started next is
 * busy with it for 25 seconds.
 */
void vbr_hint_ballast(VbrDev *d);
/* Starts a slow migration to nowhere and returns the id of its round. */
uint32_t vbr_hint_begin(VbrDev *d);
/* The same, with the round answered. */
uint32_t vbr_hint_open(VbrDev *d);
/* The same with a stream that somebody wants. */
uint32_t vbr_hint_open_to(VbrDev *d, const char *uri);
/* Lets it complete: the guest is stopped then. */
void vbr_hint_complete(VbrDev *d);
void vbr_hint_cancel(VbrDev *d);
/*
 * Has the migration go on to its next pass at a speed at which the caller is
 * to slow it down when that has begun.
 */
void vbr_hint_next_pass(VbrDev *d);
/*
 * Brings the migration into its next pass, and returns the id of the round
 * after that of @last.
 */
uint32_t vbr_hint_next_round(VbrDev *d, uint32_t last);

#endif
