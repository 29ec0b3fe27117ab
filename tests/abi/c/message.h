/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Messages of the founding protocols, byte by byte, always little-endian. */

#ifndef MESSAGE_H
#define MESSAGE_H

#include <stddef.h>
#include <stdint.h>

struct message {
    uint8_t bytes[256];
    size_t len;
};

/* Puts `size` bytes of `value` at `at`, which makes the message as long as that at least. */
void put(struct message *message, size_t at, uint64_t value, size_t size);

/* The header of ranges, and a word. The header's data length follows what is added. */
void words(struct message *message, uint8_t cmd, uint8_t flag, uint16_t id);
void word(struct message *message, uint64_t value);
/* The header of chunks, and a chunk. The header's count follows what is added. */
void chunks(struct message *message);
void chunk(struct message *message, uint64_t base, uint64_t size);
/* The header of chunks in the misc queue, and a chunk. */
void misc(struct message *message, uint16_t cmd, uint16_t flags);
void misc_chunk(struct message *message, uint64_t base, uint64_t size);

#endif
