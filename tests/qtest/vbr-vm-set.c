/*
 * virtio-balloon-rs: the set of ballooned pages, saved and loaded
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vm.h"

#define ARGS "-m 32M -device " VBR_PCI "," VBR_SLOT_ARG
#define PAGES_NAME "virtio-balloon-device/pages"
#define FEATURES_NAME "virtio/64bit_features"
#define MAX_PAGES_BYTES (4 * MiB)

/* What the guest says in "actual": not what is in the set. */
#define ACTUAL 7

/* The set: two runs, on both sides of where PC memory has its hole. */
#define LOW (128 * KiB)
#define LOW_PAGES 3
#define HIGH (16 * MiB)
#define HIGH_PAGES 300
#define SET_BYTES ((LOW_PAGES + HIGH_PAGES) * VBR_PAGE)

static const uint8_t coded_set[] = {
    0x20, LOW_PAGES,
    /* From page 0x23 to page 0x1000. */
    0xdd, 0x1f, 0xac, 0x02,
};

/* The subsection's place in a stream. */
typedef struct Place {
    size_t start;       /* of all of it */
    size_t content;     /* behind its name and version */
    size_t coded;
    size_t end;
} Place;

static VbrVm *source(uint64_t refuse)
{
    VbrVm *vm = vbr_pc(ARGS);

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, refuse);
    vbr_send_range(&vm->d, VBR_INFLATE, LOW, LOW_PAGES);
    vbr_send_range(&vm->d, VBR_INFLATE, HIGH, HIGH_PAGES + 1);
    vbr_send_range(&vm->d, VBR_DEFLATE, HIGH + HIGH_PAGES * VBR_PAGE, 1);
    vbr_set_actual(&vm->d, ACTUAL);
    return vm;
}

static GByteArray *stream_of(VbrVm *vm)
{
    g_autofree char *file = vbr_stream_name();
    char *data;
    size_t size;

    vbr_stream_save(vm->qts, file);
    g_assert(g_file_get_contents(file, &data, &size, NULL));
    unlink(file);
    return g_byte_array_new_take((uint8_t *)data, size);
}

static GByteArray *saved_stream(void)
{
    VbrVm *from = source(0);
    GByteArray *stream = stream_of(from);

    vbr_vm_free(from);
    return stream;
}

static Place place_of(const GByteArray *stream)
{
    size_t name = vbr_stream_find(stream->data, stream->len, PAGES_NAME);
    size_t content = name + strlen(PAGES_NAME) + 4;
    size_t coded = content + 1 + 4;
    uint32_t len = ldl_be_p(stream->data + coded - 4);

    g_assert_cmphex(stream->data[name - 1], ==, strlen(PAGES_NAME));
    return (Place) {
        /* A mark and the length come before the name. */
        .start = name - 2,
        .content = content,
        .coded = coded,
        .end = coded + len,
    };
}

/* The stream with other bytes in the place of its set. */
static GByteArray *with_set(const GByteArray *stream, const uint8_t *bytes,
                            size_t len)
{
    GByteArray *other = g_byte_array_new();
    Place at = place_of(stream);
    uint8_t be_len[4];

    stl_be_p(be_len, len);
    g_byte_array_append(other, stream->data, at.coded - sizeof(be_len));
    g_byte_array_append(other, be_len, sizeof(be_len));
    g_byte_array_append(other, bytes, len);
    g_byte_array_append(other, stream->data + at.end, stream->len - at.end);
    return other;
}

/*
 * Loads a stream into a machine of its own; returns that, or NULL if the stream
 * was refused.  @errors gets what QEMU said.
 */
static VbrVm *load(const GByteArray *stream, char **errors)
{
    g_autofree char *file = vbr_stream_name();
    g_autofree char *err_file = vbr_stream_name();
    VbrVm *to;
    bool ok;

    g_assert(g_file_set_contents(file, (const char *)stream->data,
                                 stream->len, NULL));
    to = vbr_pc(ARGS " -incoming defer 2>%s", err_file);
    ok = vbr_stream_load(to->qts, file, NULL);
    unlink(file);
    g_assert(g_file_get_contents(err_file, errors, NULL, NULL));
    unlink(err_file);
    if (!ok) {
        /* The machine is there and answers. */
        qtest_qmp_assert_success(to->qts, "{ 'execute': 'query-status' }");
        vbr_vm_free(to);
        return NULL;
    }
    return to;
}

static void assert_refused(const GByteArray *stream, const char *why)
{
    g_autofree char *errors = NULL;

    g_assert_null(load(stream, &errors));
    if (!strstr(errors, why)) {
        g_test_message("no '%s' in: %s", why, errors);
    }
    g_assert_nonnull(strstr(errors, why));
}

/* Goes on with the driver of @from, which is not needed any more. */
static VbrVm *load_and_adopt(const GByteArray *stream, VbrVm *from)
{
    g_autofree char *errors = NULL;
    VbrVm *to = load(stream, &errors);

    g_assert_nonnull(to);
    vbr_stream_adopt(to, from);
    vbr_vm_free(from);
    return to;
}

static void assert_coded(const GByteArray *stream, const uint8_t *bytes,
                         size_t len)
{
    Place at = place_of(stream);

    g_assert_cmpmem(stream->data + at.coded, at.end - at.coded, bytes, len);
    g_assert_cmpint(stream->data[at.content], ==, true);
}

/* Migrated twice; then it is still known which pages leave the balloon. */
static void test_survives(void)
{
    VbrVm *vm = source(0);
    int i;

    vbr_assert_counter(&vm->d, "ballooned-bytes", SET_BYTES);
    for (i = 0; i < 2; i++) {
        g_autoptr(GByteArray) stream = stream_of(vm);

        assert_coded(stream, coded_set, sizeof(coded_set));
        vm = load_and_adopt(stream, vm);
        vbr_assert_counter(&vm->d, "ballooned-bytes", SET_BYTES);
    }
    vbr_send_range(&vm->d, VBR_DEFLATE, LOW, LOW_PAGES);
    vbr_send_range(&vm->d, VBR_DEFLATE, 8 * MiB, 16);
    vbr_assert_counter(&vm->d, "ballooned-bytes", HIGH_PAGES * VBR_PAGE);
    vbr_assert_works(&vm->d);
    /* A new driver has all of its memory. */
    vbr_restart(&vm->d, 0);
    vbr_assert_counter(&vm->d, "ballooned-bytes", 0);
    vbr_vm_free(vm);
}

static void test_empty(void)
{
    g_autoptr(GByteArray) stream = NULL;
    VbrVm *vm = source(0);

    vbr_send_range(&vm->d, VBR_DEFLATE, LOW, LOW_PAGES);
    vbr_send_range(&vm->d, VBR_DEFLATE, HIGH, HIGH_PAGES);
    stream = stream_of(vm);
    assert_coded(stream, NULL, 0);
    vm = load_and_adopt(stream, vm);
    vbr_assert_counter(&vm->d, "ballooned-bytes", 0);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

/*
 * Without the promise to tell, the guest uses pages of the balloon
 * unannounced: no set, and a stream that QEMU's C device can load.
 */
static void test_not_told(void)
{
    g_autoptr(GByteArray) stream = NULL;
    VbrVm *vm = source(1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST);

    stream = stream_of(vm);
    g_assert_null(memmem(stream->data, stream->len, PAGES_NAME,
                         strlen(PAGES_NAME)));
    vm = load_and_adopt(stream, vm);
    vbr_assert_counter(&vm->d, "ballooned-bytes", ACTUAL * VBR_PAGE);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

/*
 * Pages that were sent before the guest gave them away are there, and are in
 * the balloon: as if all of it was inflated when the last page had been sent.
 */
static void test_sent_before(void)
{
    VbrVm *vm = vbr_pc(ARGS);
    g_autoptr(GByteArray) stream = NULL;
    g_autoptr(GByteArray) changed = NULL;
    const uint64_t next = HIGH + HIGH_PAGES * VBR_PAGE;

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    vbr_fill(&vm->d, LOW, LOW_PAGES + 1, 0x5e);
    vbr_fill(&vm->d, HIGH - VBR_PAGE, HIGH_PAGES + 2, 0x5e);
    stream = stream_of(vm);
    changed = with_set(stream, coded_set, sizeof(coded_set));
    vm = load_and_adopt(changed, vm);
    vbr_settle(&vm->d);
    vbr_assert_gone(&vm->d, LOW, LOW_PAGES);
    vbr_assert_gone(&vm->d, HIGH, HIGH_PAGES);
    vbr_assert_kept(&vm->d, LOW + LOW_PAGES * VBR_PAGE, 1, 0x5e);
    vbr_assert_kept(&vm->d, HIGH - VBR_PAGE, 1, 0x5e);
    vbr_assert_kept(&vm->d, next, 1, 0x5e);
    vbr_assert_counter(&vm->d, "discarded-bytes", SET_BYTES);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

/* Saved by a device that knew nothing of the set: what counts is "actual". */
static void test_absent(void)
{
    VbrVm *vm = source(0);
    g_autoptr(GByteArray) stream = stream_of(vm);
    Place at = place_of(stream);

    g_byte_array_remove_range(stream, at.start, at.end - at.start);
    vm = load_and_adopt(stream, vm);
    vbr_assert_counter(&vm->d, "ballooned-bytes", ACTUAL * VBR_PAGE);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

/* Sent twice: the last one counts, and the first is not leaked. */
static void test_twice(void)
{
    static const uint8_t other[] = { 5, 1 };
    VbrVm *vm = source(0);
    g_autoptr(GByteArray) first = stream_of(vm);
    g_autoptr(GByteArray) changed = with_set(first, other, sizeof(other));
    g_autoptr(GByteArray) both = g_byte_array_new();
    Place at = place_of(first);

    g_byte_array_append(both, changed->data, place_of(changed).end);
    g_byte_array_append(both, first->data + at.start, at.end - at.start);
    g_byte_array_append(both, first->data + at.end, first->len - at.end);
    vm = load_and_adopt(both, vm);
    vbr_assert_counter(&vm->d, "ballooned-bytes", SET_BYTES);
    vbr_vm_free(vm);
}

/* A set that lacks pages says so; it is of use all the same. */
static void test_incomplete(void)
{
    VbrVm *vm = source(0);
    g_autoptr(GByteArray) stream = stream_of(vm);
    g_autoptr(GByteArray) again = NULL;
    Place at = place_of(stream);

    stream->data[at.content] = false;
    vm = load_and_adopt(stream, vm);
    vbr_assert_counter(&vm->d, "ballooned-bytes", ACTUAL * VBR_PAGE);
    again = stream_of(vm);
    at = place_of(again);
    g_assert_cmpint(again->data[at.content], ==, false);
    g_assert_cmpmem(again->data + at.coded, at.end - at.coded, coded_set,
                    sizeof(coded_set));
    vbr_vm_free(vm);
}

/* Pages where this machine has none: those that it has are taken over. */
static void test_not_ram(void)
{
    /* From 15 pages before the end of memory to the last page there can be. */
    static const uint8_t beyond[] = {
        0xf1, 0x3f, 0x8f, 0xc0, 0xff, 0xff, 0x0f,
    };
    static const uint8_t kept[] = { 0xf1, 0x3f, 0x0f };
    VbrVm *vm = source(0);
    g_autoptr(GByteArray) stream = stream_of(vm);
    g_autoptr(GByteArray) changed = with_set(stream, beyond, sizeof(beyond));
    g_autoptr(GByteArray) again = NULL;
    Place at;

    vm = load_and_adopt(changed, vm);
    vbr_assert_counter(&vm->d, "ballooned-bytes", ACTUAL * VBR_PAGE);
    again = stream_of(vm);
    at = place_of(again);
    g_assert_cmpmem(again->data + at.coded, at.end - at.coded, kept,
                    sizeof(kept));
    vbr_vm_free(vm);
}

static void test_refused(void)
{
    static const struct {
        uint8_t bytes[8];
        size_t len;
        const char *why;
    } bad[] = {
        { { 5, 0x80 }, 2, "is cut short" },
        { { 5, 1, 7 }, 3, "is cut short" },
        { { 0x85, 0, 1 }, 3, "a number that is too long" },
        { { 5, 0 }, 2, "an empty run, or two that touch" },
        { { 5, 1, 0, 1 }, 4, "an empty run, or two that touch" },
        { { 1, 0x80, 0x80, 0x80, 0x80, 0x10 }, 6, "past the last page" },
    };
    g_autoptr(GByteArray) stream = saved_stream();
    Place at = place_of(stream);
    uint32_t len;
    int i;

    for (i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autoptr(GByteArray) changed = with_set(stream, bad[i].bytes,
                                                 bad[i].len);

        assert_refused(changed, bad[i].why);
    }

    /* Sizes: nothing of that kind is allocated. */
    len = ldl_be_p(stream->data + at.coded - 4);
    stl_be_p(stream->data + at.coded - 4, UINT32_MAX);
    assert_refused(stream, "larger than any can be");
    stl_be_p(stream->data + at.coded - 4, MAX_PAGES_BYTES + 1);
    assert_refused(stream, "larger than any can be");
    stl_be_p(stream->data + at.coded - 4, len);

    /* The end of the stream is in the middle of it; QEMU finds words for it. */
    g_byte_array_set_size(stream, at.end - 1);
    assert_refused(stream, "");
}

/* The largest there can be: a run of one page after each gap of one. */
static void test_largest(void)
{
    g_autoptr(GByteArray) stream = saved_stream();
    g_autofree uint8_t *bytes = g_malloc(MAX_PAGES_BYTES);
    g_autoptr(GByteArray) changed = NULL;
    g_autofree char *errors = NULL;
    VbrVm *to;

    memset(bytes, 1, MAX_PAGES_BYTES);
    changed = with_set(stream, bytes, MAX_PAGES_BYTES);
    to = load(changed, &errors);
    g_assert_nonnull(to);
    vbr_vm_free(to);
}

/* The same stream, but its guest has not accepted MUST_TELL_HOST. */
static void test_promise_missing(void)
{
    g_autoptr(GByteArray) stream = saved_stream();
    size_t section = vbr_stream_find(stream->data, stream->len, PAGES_NAME);
    size_t low = section + vbr_stream_find(stream->data + section,
                                           stream->len - section,
                                           FEATURES_NAME) +
                 strlen(FEATURES_NAME) + 4 + 7;

    g_assert(stream->data[low] & (1 << VIRTIO_BALLOON_F_MUST_TELL_HOST));
    stream->data[low] &= ~(1 << VIRTIO_BALLOON_F_MUST_TELL_HOST);
    assert_refused(stream, "did not accept MUST_TELL_HOST");
}

/* Any change of any byte is loaded or refused, but QEMU stays. */
static void test_flipped(void)
{
    g_autoptr(GByteArray) stream = saved_stream();
    Place place = place_of(stream);
    size_t at;

    for (at = place.start; at < place.end; at++) {
        g_autofree char *errors = NULL;
        VbrVm *to;

        stream->data[at] ^= 0x81;
        to = load(stream, &errors);
        if (to) {
            vbr_vm_free(to);
        }
        stream->data[at] ^= 0x81;
    }
}

void vbr_add_set_tests(void)
{
    qtest_add_func("virtio-balloon-rs/set/survives", test_survives);
    qtest_add_func("virtio-balloon-rs/set/empty", test_empty);
    qtest_add_func("virtio-balloon-rs/set/not-told", test_not_told);
    qtest_add_func("virtio-balloon-rs/set/sent-before", test_sent_before);
    qtest_add_func("virtio-balloon-rs/set/absent", test_absent);
    qtest_add_func("virtio-balloon-rs/set/twice", test_twice);
    qtest_add_func("virtio-balloon-rs/set/incomplete", test_incomplete);
    qtest_add_func("virtio-balloon-rs/set/not-ram", test_not_ram);
    qtest_add_func("virtio-balloon-rs/set/refused", test_refused);
    qtest_add_func("virtio-balloon-rs/set/largest", test_largest);
    qtest_add_func("virtio-balloon-rs/set/promise-missing",
                   test_promise_missing);
    qtest_add_func("virtio-balloon-rs/set/flipped", test_flipped);
}
