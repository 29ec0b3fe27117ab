/*
 * Test cases that run on every transport
 *
 * The qos binary runs them over what qgraph finds (PCI, legacy PCI, MMIO);
 * virtio-balloon-rs-vm-test runs them over the MMIO of microvm, because
 * qgraph has no MMIO on x86.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_CASES_H
#define VBR_CASES_H

#include "vbr-driver.h"

typedef struct VbrCase {
    const char *name;
    void (*run)(VbrDev *d);
    const char *opts;           /* device properties, NULL for none */
    unsigned int arg;           /* for the case, in VbrDev */
} VbrCase;

/* Each table ends with a case without a name. */
extern const VbrCase vbr_inflate_cases[];
extern const VbrCase vbr_input_cases[];
extern const VbrCase vbr_batch_cases[];
extern const VbrCase vbr_stats_cases[];
extern const VbrCase vbr_config_cases[];
extern const VbrCase vbr_report_cases[];
extern const VbrCase vbr_hint_cases[];
extern const VbrCase vbr_hint_end_cases[];
extern const VbrCase vbr_reset_cases[];
extern const VbrCase vbr_range_cases[];
extern const VbrCase vbr_bad_range_cases[];
extern const VbrCase vbr_chunk_cases[];
extern const VbrCase vbr_bad_chunk_cases[];

typedef struct VbrTheme {
    const char *name;
    const VbrCase *cases;
} VbrTheme;

/* Ends with a theme without a name. */
extern const VbrTheme vbr_themes[];

/* The feature and queue matrix, one case for each combination. */
#define VBR_NCOMBOS 32
const VbrCase *vbr_feature_cases(void);

#endif
