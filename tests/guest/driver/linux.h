/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's headers, in one place: they are not written for -Wextra, so the
 * warnings that they give are off while they are read. Our own code has all.
 */
#ifndef VBR_LINUX_H
#define VBR_LINUX_H

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wshift-negative-value"
#pragma GCC diagnostic ignored "-Wcast-function-type"
#pragma GCC diagnostic ignored "-Woverride-init"

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/timekeeping.h>
#include <linux/list.h>
#include <linux/log2.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nodemask.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/vmstat.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

/* It moved in 6.12. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

/*
 * It got another name in 7.0, and with it the kernel itself does what a page's
 * move changes in its lists.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
#define VBR_KERNEL_MOVES
#include <linux/balloon.h>
#else
#include <linux/balloon_compaction.h>
#endif

#pragma GCC diagnostic pop

#endif
