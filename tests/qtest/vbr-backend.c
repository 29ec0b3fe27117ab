/*
 * A vhost-user backend that does nothing but be there
 *
 * It offers no features beside VIRTIO 1, of the protocol none but the word for
 * them, without which QEMU gives it no memory, and serves no queue.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/socket.h>
#include <sys/un.h>
#include "standard-headers/linux/virtio_config.h"
#include "vbr-backend.h"
#include "vbr-stream.h"

/* The messages of vhost-user that have an answer. */
#define GET_FEATURES 1
#define GET_VRING_BASE 11
#define GET_PROTOCOL_FEATURES 15

#define F_PROTOCOL_FEATURES 30

#define VERSION 1
#define IS_ANSWER 4
/* No message is longer by far. */
#define MOST_PAYLOAD 4096

struct VbrBackend {
    char *path;
    int listener;
    GThread *thread;
};

typedef struct QEMU_PACKED Header {
    uint32_t request;
    uint32_t flags;
    uint32_t size;
} Header;

/* File descriptors that come along are closed by the kernel. */
static bool read_all(int fd, void *to, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = read(fd, (char *)to + done, len - done);

        if (n <= 0) {
            return false;
        }
        done += n;
    }
    return true;
}

static void answer(int fd, uint32_t request, const void *payload, size_t len)
{
    Header h = { request, VERSION | IS_ANSWER, len };
    struct iovec parts[] = {
        { &h, sizeof(h) }, { (void *)payload, len },
    };

    g_assert_cmpint(writev(fd, parts, ARRAY_SIZE(parts)), ==,
                    sizeof(h) + len);
}

/* Until QEMU closes its side. */
static void serve(int fd)
{
    const uint64_t features = 1ull << VIRTIO_F_VERSION_1 |
                              1ull << F_PROTOCOL_FEATURES;
    const uint64_t none = 0;
    uint8_t payload[MOST_PAYLOAD];
    Header h;

    while (read_all(fd, &h, sizeof(h))) {
        g_assert_cmpuint(h.size, <=, sizeof(payload));
        if (!read_all(fd, payload, h.size)) {
            return;
        }
        if (h.request == GET_FEATURES) {
            answer(fd, h.request, &features, sizeof(features));
        } else if (h.request == GET_PROTOCOL_FEATURES) {
            answer(fd, h.request, &none, sizeof(none));
        } else if (h.request == GET_VRING_BASE) {
            /* The queue's number, and where it is: at its start. */
            answer(fd, h.request, payload, h.size);
        }
    }
}

static void *run(void *opaque)
{
    VbrBackend *b = opaque;
    int fd;

    while ((fd = accept(b->listener, NULL, NULL)) >= 0) {
        serve(fd);
        close(fd);
    }
    return NULL;
}

VbrBackend *vbr_backend(void)
{
    VbrBackend *b = g_new0(VbrBackend, 1);
    struct sockaddr_un at = { .sun_family = AF_UNIX };

    b->path = vbr_stream_name();
    g_assert_cmpuint(g_strlcpy(at.sun_path, b->path, sizeof(at.sun_path)), <,
                     sizeof(at.sun_path));
    b->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(b->listener, >=, 0);
    g_assert_cmpint(bind(b->listener, (struct sockaddr *)&at, sizeof(at)), ==,
                    0);
    g_assert_cmpint(listen(b->listener, 1), ==, 0);
    b->thread = g_thread_new("vhost-user", run, b);
    return b;
}

const char *vbr_backend_path(VbrBackend *b)
{
    return b->path;
}

void vbr_backend_free(VbrBackend *b)
{
    shutdown(b->listener, SHUT_RDWR);
    g_thread_join(b->thread);
    close(b->listener);
    unlink(b->path);
    g_free(b->path);
    g_free(b);
}
