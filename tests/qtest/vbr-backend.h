/*
 * A vhost-user backend that does nothing but be there
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_BACKEND_H
#define VBR_BACKEND_H

typedef struct VbrBackend VbrBackend;

/* Waits for QEMU at a socket of its own, and answers what it is asked. */
VbrBackend *vbr_backend(void);
/* Where the socket is. */
const char *vbr_backend_path(VbrBackend *b);
/* After QEMU has ended, or has closed its side. */
void vbr_backend_free(VbrBackend *b);

#endif
