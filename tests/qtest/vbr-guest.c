/*
 * Guests of a few instructions, for TCG
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-guest.h"
#include "vbr-stream.h"

#define ROM_SIZE (64 * KiB)
/* Where a processor begins, in the firmware. */
#define RESET_VECTOR 0xfff0
/* The vector of an NMI, in real mode: offset and segment. */
#define NMI_VECTOR (2 * 4)

bool vbr_has_tcg(void)
{
    if (!qtest_has_accel("tcg")) {
        g_test_skip("this QEMU has no TCG");
    }
    return qtest_has_accel("tcg");
}

char *vbr_guest_firmware(const uint8_t *code, size_t len)
{
    /* ljmp $0xf000, $0 */
    static const uint8_t reset[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 };
    g_autofree char *rom = g_malloc0(ROM_SIZE);
    char *name = vbr_stream_name();

    memcpy(rom, code, len);
    memcpy(rom + RESET_VECTOR, reset, sizeof(reset));
    g_assert(g_file_set_contents(name, rom, ROM_SIZE, NULL));
    return name;
}

char *vbr_guest_writer(void)
{
    static const uint8_t code[] = {
        0xb8, 0x00, 0x10,               /* 1: mov  $0x1000, %ax */
        0x8e, 0xd8,                     /* 2: mov  %ax, %ds */
        0xfe, 0x06, 0x00, 0x00,         /*    incb 0 */
        0x05, 0x00, 0x01,               /*    add  $0x100, %ax */
        0x3d, 0x00, 0x80,               /*    cmp  $0x8000, %ax */
        0x72, 0xf2,                     /*    jb   2b */
        0xeb, 0xed,                     /*    jmp  1b */
    };

    return vbr_guest_firmware(code, sizeof(code));
}

VbrVm *vbr_counter_pc(const char *args)
{
    static const uint8_t code[] = {
        0xf4,                           /* 1: hlt */
        0xeb, 0xfd,                     /*    jmp 1b */
        0x50,                           /* 3: push %ax */
        0xb8, 0x00, 0x60,               /*    mov  $0x6000, %ax */
        0x8e, 0xd8,                     /*    mov  %ax, %ds */
        0xfe, 0x06, 0x00, 0x00,         /*    incb 0 */
        0x58,                           /*    pop  %ax */
        0xcf,                           /*    iret */
    };
    g_autofree char *firmware = vbr_guest_firmware(code, sizeof(code));
    /* An APIC would let no NMI through before it is set up. */
    VbrVm *vm = vbr_pc("-accel tcg -cpu qemu64,-apic -m 64M -bios %s %s",
                       firmware, args);

    unlink(firmware);
    qtest_writel(vm->qts, NMI_VECTOR, 0xf0000003);
    return vm;
}

void vbr_count_one(VbrVm *vm)
{
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'inject-nmi' }");
}

void vbr_counted(VbrVm *vm, uint8_t count)
{
    gint64 start = g_get_monotonic_time();

    while (qtest_readb(vm->qts, VBR_COUNTER_ADDR) != count) {
        g_assert_cmpint(g_get_monotonic_time() - start, <, VBR_TIMEOUT_US);
        g_usleep(1000);
    }
}
