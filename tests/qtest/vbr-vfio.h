/*
 * A stand-in for Linux's VFIO: devices that do nothing but migrate, and log
 * what they write
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_VFIO_H
#define VBR_VFIO_H

#define VBR_VFIO_DEVICES 2

/* What QEMU had of a device; it may look at any time. */
typedef struct VbrVfioLog {
    bool on;
    int starts;
    /* How often it was asked what the device wrote to. */
    int reports;
} VbrVfioLog;

/*
 * From here on, whoever this thread starts finds /dev/vfio, with a group for
 * each device. To be called once in a process that does nothing else: false, and
 * the test is skipped, where Linux does not allow that.
 */
bool vbr_vfio_start(void);
/* To be given to vfio-pci as sysfsdev. */
const char *vbr_vfio_path(int device);
VbrVfioLog vbr_vfio_log(int device);
/* From here on the device's log cannot be started. */
void vbr_vfio_refuse_log(int device);
/* From here on a device does not join another's container. */
void vbr_vfio_keep_apart(void);
void vbr_vfio_stop(void);

#endif
