/*
 * What differs between the releases of QEMU that this is built into
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_COMPAT_H
#define VBR_COMPAT_H

#if QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR == 0
#define VBR_QEMU_10_0
#endif

/* QEMU 10.1 moved headers, and made the argument of class_init const. */
#ifdef VBR_QEMU_10_0
#include "exec/memory.h"
#define VBR_CLASS_DATA void
#else
#include "system/memory.h"
#define VBR_CLASS_DATA const void
#endif

#endif
