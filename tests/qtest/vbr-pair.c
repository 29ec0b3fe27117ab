/*
 * A machine that moves to another one while it runs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-hint.h"
#include "vbr-pair.h"
#include "vbr-probe.h"
#include "vbr-stream.h"

static VbrVm *machine(const char *args, const char *props, const char *more)
{
    return vbr_pc("%s -device " VBR_PCI "," VBR_SLOT_ARG "%s%s%s", args,
                  props ? "," : "", props ?: "", more);
}

VbrPair vbr_pair_bits(const char *args, const char *props, uint64_t refuse,
                      VbrBits bits)
{
    g_autofree char *sock = vbr_stream_name();
    VbrPair p = {
        .from = machine(args, props, ""),
        .to = machine(args, props, " -incoming defer"),
        .uri = g_strdup_printf("unix:%s", sock),
    };

    vbr_vm_attach(p.from, VBR_SLOT);
    p.from->d.bits = bits;
    vbr_start(&p.from->d, refuse);
    return p;
}

VbrPair vbr_pair(const char *args, const char *props, uint64_t refuse)
{
    return vbr_pair_bits(args, props, refuse, VBR_BITS_PRIVATE);
}

void vbr_pair_capability(VbrPair *p, const char *name)
{
    vbr_migrate_capability(p->from->qts, name);
    vbr_migrate_capability(p->to->qts, name);
}

void vbr_pair_move(VbrPair *p)
{
    qtest_qmp_assert_success(p->to->qts, "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s } }", p->uri);
    vbr_hint_ballast(&p->from->d);
    vbr_migrate_speed(p->from->qts, VBR_SLOW);
    vbr_migrate(p->from->qts, p->uri);
}

void vbr_pair_arrive(VbrPair *p)
{
    vbr_migrate_speed(p->from->qts, VBR_FAST);
    vbr_migrate_until(p->from->qts, "completed");
    vbr_migrate_until(p->to->qts, "completed");
    vbr_stream_adopt(p->to, p->from);
}

void vbr_pair_free(VbrPair *p)
{
    vbr_vm_free(p->from);
    vbr_vm_free(p->to);
    unlink(p->uri + strlen("unix:"));
    g_free(p->uri);
}
