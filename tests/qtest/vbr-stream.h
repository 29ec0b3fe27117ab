/*
 * Saving a machine to a file and loading it into another
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_STREAM_H
#define VBR_STREAM_H

#include "vbr-vm.h"

/* A name for a temporary file, which does not exist yet. */
char *vbr_stream_name(void);
void vbr_stream_stop(QTestState *qts);
void vbr_stream_save(QTestState *qts, const char *file);
/* For a machine with "-incoming defer"; on failure *@why, if known. */
bool vbr_stream_load(QTestState *qts, const char *file, char **why);
/* The driver of @from goes on in @to. */
void vbr_stream_adopt(VbrVm *to, const VbrVm *from);
/* A disk that takes snapshots; without qemu-img, which need not be built. */
void vbr_snapshot_disk(QTestState *qts, const char *file);
void vbr_snapshot(QTestState *qts, const char *hmp);
size_t vbr_stream_find(const uint8_t *data, size_t size, const char *what);

/* query-migrate's status, and waiting for one of two. */
char *vbr_migrate_status(QTestState *qts, char **why);
bool vbr_migrate_wait(QTestState *qts, const char *good, const char *bad,
                      char **why);

#endif
