/*
 * virtio-balloon-rs: features, queues and configuration size, for every
 * combination of the properties
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-cases.h"
#include "vbr-probe.h"

typedef struct Prop {
    const char *name;
    unsigned int feature;
} Prop;

static const Prop props[] = {
    { "must-tell-host", VIRTIO_BALLOON_F_MUST_TELL_HOST },
    { "deflate-on-oom", VIRTIO_BALLOON_F_DEFLATE_ON_OOM },
    { "page-poison", VIRTIO_BALLOON_F_PAGE_POISON },
    { "free-page-reporting", VIRTIO_BALLOON_F_REPORTING },
    { "free-page-hint", VIRTIO_BALLOON_F_FREE_PAGE_HINT },
};

QEMU_BUILD_BUG_ON(VBR_NCOMBOS != 1 << ARRAY_SIZE(props));

/* The bits that belong to the balloon, not to the transport or the ring. */
#define OWN_FEATURES 0xffffffull

static uint64_t expected_features(unsigned int combo)
{
    uint64_t f = 1ull << VIRTIO_BALLOON_F_STATS_VQ;
    int i;

    for (i = 0; i < ARRAY_SIZE(props); i++) {
        if (combo & (1u << i)) {
            f |= 1ull << props[i].feature;
        }
    }
    return f;
}

static void check_combo(VbrDev *d)
{
    uint64_t features = expected_features(d->arg);
    bool reporting = features & (1ull << VIRTIO_BALLOON_F_REPORTING);
    bool poison = features & (1ull << VIRTIO_BALLOON_F_PAGE_POISON);
    bool hint = features & (1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT);

    g_assert_cmphex(qvirtio_get_features(d->vdev) & OWN_FEATURES, ==,
                    features);
    vbr_assert_queue_size(d, 0, 128);
    vbr_assert_queue_size(d, 1, 128);
    vbr_assert_queue_size(d, 2, 128);
    if (hint) {
        vbr_assert_queue_size(d, 3, 1024);
    }
    vbr_assert_queue_size(d, 3 + hint, reporting ? 32 : 0);
    vbr_assert_queue_size(d, 4 + hint, 0);

    vbr_start(d, 0);
    g_assert_cmphex(vbr_config_read(d, 0), ==, 0);
    g_assert_cmphex(vbr_config_read(d, 4), ==, 0);
    /* All ones is what is behind the end of the configuration. */
    g_assert_cmphex(vbr_config_read(d, 8), ==,
                    hint || poison ? 0 : UINT32_MAX);
    g_assert_cmphex(vbr_config_read(d, 12), ==, poison ? 0 : UINT32_MAX);
    g_assert_cmphex(vbr_config_read(d, 16), ==, UINT32_MAX);
}

static void fill_case(VbrCase *c, unsigned int combo)
{
    g_autoptr(GString) name = g_string_new("features-");
    g_autoptr(GString) opts = g_string_new("");
    int i;

    for (i = 0; i < ARRAY_SIZE(props); i++) {
        bool on = combo & (1u << i);

        g_string_append_printf(opts, "%s%s=%s", i ? "," : "",
                               props[i].name, on ? "on" : "off");
        g_string_append_printf(name, "%s%s", i ? "," : "",
                               on ? props[i].name : "-");
    }
    /* The tables of cases live as long as the program. */
    *c = (VbrCase) {
        .name = g_string_free(g_steal_pointer(&name), false),
        .run = check_combo,
        .opts = g_string_free(g_steal_pointer(&opts), false),
        .arg = combo,
    };
}

const VbrCase *vbr_feature_cases(void)
{
    static VbrCase cases[VBR_NCOMBOS + 1];
    unsigned int i;

    if (!cases[0].name) {
        for (i = 0; i < VBR_NCOMBOS; i++) {
            fill_case(&cases[i], i);
        }
    }
    return cases;
}
