/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "message.h"

#include "check.h"

void put(struct message *message, size_t at, uint64_t value, size_t size)
{
    CHECK(at + size <= sizeof(message->bytes));
    for (size_t i = 0; i < size; i++) {
        message->bytes[at + i] = (uint8_t)(value >> 8 * i);
    }
    message->len = at + size > message->len ? at + size : message->len;
}

void words(struct message *message, uint8_t cmd, uint8_t flag, uint16_t id)
{
    message->len = 0;
    put(message, 0, cmd, 1);
    put(message, 1, flag, 1);
    put(message, 2, id, 2);
    put(message, 4, 0, 4);
}

void word(struct message *message, uint64_t value)
{
    put(message, message->len, value, 8);
    put(message, 4, message->len - 8, 4);
}

void chunks(struct message *message)
{
    message->len = 0;
    put(message, 0, 0, 4);
}

void chunk(struct message *message, uint64_t base, uint64_t size)
{
    put(message, message->len, base, 8);
    put(message, message->len, size, 8);
    put(message, 0, (message->len - 4) / 16, 4);
}

void misc(struct message *message, uint16_t cmd, uint16_t flags)
{
    message->len = 0;
    put(message, 0, cmd, 2);
    put(message, 2, flags, 2);
    put(message, 4, 0, 4);
}

void misc_chunk(struct message *message, uint64_t base, uint64_t size)
{
    put(message, message->len, base, 8);
    put(message, message->len, size, 8);
    put(message, 4, (message->len - 8) / 16, 4);
}
