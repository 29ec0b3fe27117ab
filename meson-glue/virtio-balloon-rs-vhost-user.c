/*
 * virtio-balloon-rs: processes beside QEMU that may have pinned guest memory
 *
 * A vhost-user backend maps the guest's memory and can pin it, for a device of
 * its own. It would go on to use the old page where one was given back, and
 * nobody tells QEMU. So all that is known here is whether there is a backend.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/qdev-core.h"
#include "net/net.h"
#include "virtio-balloon-rs.h"

/* More network clients than this are taken for one of a backend. */
#define MOST_CLIENTS 256

/* It costs a walk to find out, so only after devices came or went. */
static struct {
    bool registered;
    bool stale;
    bool found;
} backends;

/* A network card of the guest is connected to it. */
static bool is_used_backend(const NetClientState *client)
{
    switch (client->info->type) {
    case NET_CLIENT_DRIVER_VHOST_USER:
#ifdef CONFIG_PASST
    /* It may speak vhost-user, or not. */
    case NET_CLIENT_DRIVER_PASST:
#endif
        return client->peer;
    default:
        return false;
    }
}

static bool find_network(void)
{
    NetClientState *clients[MOST_CLIENTS];
    int count = qemu_find_net_clients_except(NULL, clients,
                                             NET_CLIENT_DRIVER_NIC,
                                             MOST_CLIENTS);

    for (int i = 0; i < MIN(count, MOST_CLIENTS); i++) {
        if (is_used_backend(clients[i])) {
            return true;
        }
    }
    return count > MOST_CLIENTS;
}

/* vhost-user-blk and so on, and what is an object: cryptodev-vhost-user. */
static int note_backend(Object *child, void *opaque)
{
    const char *type = object_get_typename(child);
    DeviceState *dev = (DeviceState *)object_dynamic_cast(child, TYPE_DEVICE);

    backends.found |= dev ? qdev_is_realized(dev) &&
                            g_str_has_prefix(type, "vhost-user-")
                          : g_str_has_suffix(type, "-vhost-user");
    return 0;
}

bool vbr_vhost_user_is_there(void)
{
    if (backends.stale) {
        backends.stale = false;
        backends.found = find_network();
        object_child_foreach_recursive(object_get_root(), note_backend, NULL);
    }
    return backends.found;
}

static void note_change(DeviceListener *listener, DeviceState *dev)
{
    backends.stale = true;
}

void vbr_vhost_user_init(void)
{
    static DeviceListener listener = {
        .realize = note_change,
        .unrealize = note_change,
    };

    backends.stale = true;
    if (!backends.registered) {
        backends.registered = true;
        device_listener_register(&listener);
    }
}
