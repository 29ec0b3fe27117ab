/*
 * virtio-balloon-rs: the tables of cases by name
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-cases.h"

const VbrTheme vbr_themes[] = {
    { "inflate", vbr_inflate_cases },
    { "input", vbr_input_cases },
    { "batch", vbr_batch_cases },
    { "stats", vbr_stats_cases },
    { "config", vbr_config_cases },
    { "report", vbr_report_cases },
    { "hint", vbr_hint_cases },
    { "hint-end", vbr_hint_end_cases },
    { "reset", vbr_reset_cases },
    { "range", vbr_range_cases },
    { "bad-range", vbr_bad_range_cases },
    { "chunks", vbr_chunk_cases },
    { "bad-chunks", vbr_bad_chunk_cases },
    { }
};
