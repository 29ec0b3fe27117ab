/*
 * Tests of the dirty page list
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_DIRTY_H
#define VBR_DIRTY_H

#include "vbr-vm.h"

#define VBR_DL_ID "dl0"
#define VBR_DL "-object dirty-page-list,id=" VBR_DL_ID

/* The text that errno EOVERFLOW has. */
#define VBR_DL_EOVERFLOW "Value too large for defined data type"
#define VBR_DL_EINVAL "Invalid argument"
#define VBR_DL_EBUSY "Device or resource busy"

/*
 * A machine with a list that has these properties, started and empty. Its guest
 * does nothing: what the tests write to, and nothing else, gets dirty.
 */
VbrVm *vbr_dirty_pc(const char *args, const char *props);

/* dirty-page-list-@command, which has no other argument than the id. */
void vbr_dirty_do(QTestState *qts, const char *command);
/* Takes @rsp, of a command that has to fail; what QEMU says. */
char *vbr_dirty_error(QDict *rsp);
/* The same for dirty-page-list-@command. */
char *vbr_dirty_refused(QTestState *qts, const char *command);
/* The same, and QEMU says @text among other things. */
#define vbr_assert_dirty_refused(qts, command, text) \
    vbr_assert_says(vbr_dirty_refused(qts, command), text)
/* Frees @said. */
void vbr_assert_says(char *said, const char *text);

/* Properties of the object. */
uint64_t vbr_dirty_get(QTestState *qts, const char *name);
bool vbr_dirty_is(QTestState *qts, const char *name);
#define vbr_assert_dirty(qts, name, value) \
    g_assert_cmpuint(vbr_dirty_get(qts, name), ==, value)

/* Writes to the first byte of each page, @step bytes apart. */
void vbr_dirty_write(QTestState *qts, uint64_t gpa, size_t pages,
                     uint64_t step, uint8_t byte);

/* The most pages of an answer if nobody says how many it may have. */
#define VBR_DL_DEFAULT 8192

/*
 * Fetches up to @most pages, 0: as many as QEMU likes, and writes the answer as
 * text: for each range "block offset+size @gpa" with numbers in hex, ", "
 * between them.
 */
char *vbr_dirty_fetch(QTestState *qts, unsigned int most);
/* The same with gfns: "gfns" and numbers in hex behind the ranges. */
char *vbr_dirty_fetch_gfns(QTestState *qts, unsigned int most);
/* Frees @fetched. */
void vbr_assert_text(char *fetched, const char *want);
#define vbr_assert_fetch(qts, want) \
    vbr_assert_text(vbr_dirty_fetch(qts, 0), want)

/*
 * Fetches @most pages at a time until there are no more: in pc.ram, where an
 * offset is a guest physical address, and none twice in an answer. Each is
 * added to @pages (not if NULL), with how often it came. The number of them.
 */
size_t vbr_dirty_fetch_all(QTestState *qts, unsigned int most,
                           GHashTable *pages);
GHashTable *vbr_dirty_pages(void);
/* Takes @pages: they are those @step bytes apart, and no others, once each. */
void vbr_assert_pages(GHashTable *pages, uint64_t gpa, size_t count,
                      uint64_t step);

/* Waits for query-status to say this. */
void vbr_dirty_await(QTestState *qts, const char *status);
char *vbr_dirty_status(QTestState *qts);
#define vbr_assert_status(qts, want) \
    vbr_assert_text(vbr_dirty_status(qts), want)

/*
 * Has all events from here on written down: names, each with a space behind
 * it, and "dl0=16 " behind that of the trigger.
 */
GString *vbr_dirty_events(QTestState *qts);
/* Those since the last time. */
void vbr_assert_events(QTestState *qts, GString *events, const char *want);

/* Whether both have the same @size bytes of memory from 0. */
bool vbr_same_memory(VbrVm *a, VbrVm *b, uint64_t size);

#endif
