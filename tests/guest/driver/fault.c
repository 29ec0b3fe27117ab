// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a broken driver does, on the wire only: `fault` names it, `fault_count`
 * says how many times more, `fault_on` in which messages. The guest's own
 * pages stay right, so that whatever the guest loses is the device's fault.
 */
#include "vbr.h"

static const char * const fault_names[VBR_N_FAULTS] = {
	[VBR_NO_FAULT] = "none",
	[VBR_LENGTH_LONG] = "length-long",
	[VBR_LENGTH_SHORT] = "length-short",
	[VBR_LENGTH_ODD] = "length-odd",
	[VBR_HEADER_SHORT] = "header-short",
	[VBR_HEADER_ONLY] = "header-only",
	[VBR_HUGE_COUNT] = "huge-count",
	[VBR_PAST_RAM] = "past-ram",
	[VBR_OVERFLOW] = "overflow",
	[VBR_EMPTY_RANGE] = "empty-range",
	[VBR_CUT_SHORT] = "cut-short",
	[VBR_OFF_BY_ONE] = "off-by-one",
	[VBR_RESERVED_BASE] = "reserved-base",
	[VBR_RESERVED_SIZE] = "reserved-size",
	[VBR_TOO_MANY] = "too-many",
	[VBR_UNKNOWN_COMMAND] = "unknown-command",
	[VBR_UNKNOWN_FLAG] = "unknown-flag",
	[VBR_STALE_ID] = "stale-id",
	[VBR_NO_ANSWER] = "no-answer",
	[VBR_NO_ANSWER_BUT_BUFFER] = "no-answer-but-buffer",
	[VBR_LATE_ANSWER] = "late-answer",
	[VBR_BUFFER_SHORT] = "buffer-short",
	[VBR_BUFFER_LONG] = "buffer-long",
	[VBR_BUFFER_TWICE] = "buffer-twice",
};

static struct vbr_choice fault = { fault_names, VBR_N_FAULTS, VBR_NO_FAULT };
module_param_cb(fault, &vbr_choice_ops, &fault, 0644);
MODULE_PARM_DESC(fault, "how to misbehave");

static const char * const where_names[] = { "inflate", "deflate", "answer" };
static struct vbr_choice where = {
	where_names, ARRAY_SIZE(where_names), VBR_ON_INFLATE
};
module_param_cb(fault_on, &vbr_choice_ops, &where, 0644);
MODULE_PARM_DESC(fault_on, "messages whose form is wrong: inflate, deflate, answer");

static atomic_t count = ATOMIC_INIT(1);

static int count_set(const char *text,
		     const struct kernel_param *kp __always_unused)
{
	unsigned int value;
	int err = kstrtouint(text, 0, &value);

	if (!err)
		atomic_set(&count, min_t(unsigned int, value, INT_MAX));
	return err;
}

static int count_get(char *buffer,
		     const struct kernel_param *kp __always_unused)
{
	return scnprintf(buffer, PAGE_SIZE, "%d\n", atomic_read(&count));
}

static const struct kernel_param_ops count_ops = {
	.set = count_set,
	.get = count_get,
};
module_param_cb(fault_count, &count_ops, NULL, 0644);
MODULE_PARM_DESC(fault_count, "how many times more");

static bool use_one(void)
{
	if (atomic_dec_if_positive(&count) < 0)
		return false;
	vbr_count(VBR_FAULTS, 1);
	return true;
}

/* Whether it is time for this fault, which then has happened. */
bool vbr_fault_take(enum vbr_fault which)
{
	return READ_ONCE(fault.value) == (int)which && use_one();
}

/* Forms that this fault is one of. */
static bool fits(enum vbr_fault which, enum vbr_form form, enum vbr_where here)
{
	switch (which) {
	case VBR_LENGTH_ODD:
	case VBR_HUGE_COUNT:
	case VBR_PAST_RAM:
		return true;
	case VBR_LENGTH_LONG:
	case VBR_LENGTH_SHORT:
	case VBR_HEADER_SHORT:
	case VBR_HEADER_ONLY:
	case VBR_OVERFLOW:
	case VBR_EMPTY_RANGE:
		return form != VBR_CLASSIC;
	case VBR_CUT_SHORT:
	case VBR_OFF_BY_ONE:
		return form == VBR_RANGES;
	case VBR_RESERVED_BASE:
	case VBR_RESERVED_SIZE:
	case VBR_TOO_MANY:
		return form == VBR_CHUNKS;
	case VBR_UNKNOWN_COMMAND:
	case VBR_UNKNOWN_FLAG:
		return here == VBR_ON_ANSWER;
	default:
		return false;
	}
}

/* What the first run of a message begins with, and how long its entry is. */
static unsigned long first_unit(const struct vbr_message *good)
{
	const u8 *data = good->bytes + good->header;

	if (good->form == VBR_CLASSIC)
		return get_unaligned_le32(data);
	return get_unaligned_le64(data) >> VBR_LENGTH_BITS;
}

static size_t first_size(const struct vbr_message *good)
{
	const u8 *data = good->bytes + good->header;

	if (good->form == VBR_CLASSIC)
		return sizeof(__le32);
	if (good->form == VBR_RANGES && get_unaligned_le64(data) & VBR_SHORT_MOST)
		return sizeof(__le64);
	return 2 * sizeof(__le64);
}

static void copy_first(struct vbr_message *bad, const struct vbr_message *good)
{
	size_t size = first_size(good);
	u8 *at = vbr_append(bad, size);

	if (at)
		memcpy(at, good->bytes + good->header, size);
}

static void put_two(struct vbr_message *bad, u64 first, u64 second)
{
	u8 *at = vbr_append(bad, 2 * sizeof(__le64));

	if (!at)
		return;
	put_unaligned_le64(first, at);
	put_unaligned_le64(second, at + sizeof(__le64));
}

/*
 * Where no guest of ours has memory. Right behind what this kernel knows there
 * may be some: what the firmware keeps, or a module that was not brought online.
 */
static unsigned long beyond_memory(void)
{
	return vbr_end_of_memory() * VBR_UNITS_PER_PAGE +
	       (1UL << (40 - VBR_UNIT_SHIFT));
}

/* A run that cannot be; it begins in the balloon, or with free memory. */
static void put_bad_run(struct vbr_message *bad, enum vbr_fault which,
			unsigned long unit)
{
	unsigned int shift = bad->form == VBR_CHUNKS ? VBR_CHUNK_SHIFT : 0;
	u64 base = (u64)unit << VBR_LENGTH_BITS;
	u64 most = ~0ULL << shift;

	switch (which) {
	case VBR_HUGE_COUNT:
		put_two(bad, base, shift ? most : 1ULL << 52);
		break;
	case VBR_PAST_RAM:
		put_two(bad, base, (u64)(beyond_memory() - unit) << shift);
		break;
	case VBR_OVERFLOW:
		put_two(bad, ~0ULL << VBR_LENGTH_BITS, most);
		break;
	case VBR_EMPTY_RANGE:
		put_two(bad, base, 0);
		break;
	case VBR_OFF_BY_ONE:
		/* 4096 does not fit beside the number: its bit goes into that. */
		put_unaligned_le64(base + VBR_SHORT_MOST + 1,
				   vbr_append(bad, sizeof(__le64)));
		break;
	case VBR_RESERVED_BASE:
		put_two(bad, base | 1, 1ULL << shift);
		break;
	case VBR_RESERVED_SIZE:
		put_two(bad, base, 1ULL << shift | BIT(shift - 1));
		break;
	default:
		break;
	}
}

/* Between two good ones, the second of which is not to be looked at. */
static void spoil_run(struct vbr_message *bad, const struct vbr_message *good,
		      enum vbr_fault which)
{
	bad->data = 0;
	copy_first(bad, good);
	if (bad->form == VBR_CLASSIC) {
		u8 *at = vbr_append(bad, sizeof(__le32));

		if (at)
			put_unaligned_le32(which == VBR_PAST_RAM ?
						   beyond_memory() : U32_MAX, at);
	} else {
		put_bad_run(bad, which, first_unit(good));
	}
	copy_first(bad, good);
	vbr_put_right_length(bad);
}

static void spoil_length(struct vbr_message *bad, enum vbr_fault which)
{
	bool chunks = bad->form == VBR_CHUNKS;
	int step = chunks ? 1 : sizeof(__le64);
	size_t length = chunks ? bad->data / sizeof(struct vbr_chunk) : bad->data;

	vbr_put_length(bad, which == VBR_LENGTH_LONG ? length + step :
						       length - step);
}

static void spoil(struct vbr_message *bad, const struct vbr_message *good,
		  enum vbr_fault which)
{
	switch (which) {
	case VBR_LENGTH_LONG:
	case VBR_LENGTH_SHORT:
		spoil_length(bad, which);
		break;
	case VBR_LENGTH_ODD:
		/* Chunks are counted: of the last one a byte is missing then. */
		bad->data--;
		if (bad->form == VBR_RANGES)
			vbr_put_right_length(bad);
		break;
	case VBR_HEADER_SHORT:
		bad->header--;
		bad->data = 0;
		break;
	case VBR_HEADER_ONLY:
		bad->data = 0;
		break;
	case VBR_CUT_SHORT:
		put_unaligned_le64((u64)first_unit(good) << VBR_LENGTH_BITS,
				   vbr_append(bad, sizeof(__le64)));
		vbr_put_right_length(bad);
		break;
	case VBR_TOO_MANY:
		bad->data = 0;
		while (bad->data <= VBR_CHUNKS_MOST * sizeof(struct vbr_chunk))
			copy_first(bad, good);
		vbr_put_right_length(bad);
		break;
	case VBR_UNKNOWN_COMMAND:
		bad->bytes[0] = 0x7f;
		break;
	case VBR_UNKNOWN_FLAG:
		bad->bytes[bad->form == VBR_CHUNKS ? 3 : 1] = 0x40;
		break;
	default:
		spoil_run(bad, good, which);
		break;
	}
}

/*
 * Makes @bad of @good if it is time for a fault of this kind. What was more
 * than half of its room is left out; an answer never says that it is the last.
 */
bool vbr_spoil(struct vbr_message *bad, const struct vbr_message *good,
	       enum vbr_where here)
{
	enum vbr_fault which = READ_ONCE(fault.value);

	if (!good->data || READ_ONCE(where.value) != (int)here ||
	    !fits(which, good->form, here) || !use_one())
		return false;
	bad->header = good->header;
	bad->data = min_t(size_t, good->data, SZ_32K);
	memcpy(bad->bytes, good->bytes, good->header + bad->data);
	if (here == VBR_ON_ANSWER)
		bad->bytes[good->form == VBR_CHUNKS ? 2 : 1] = 0;
	vbr_put_right_length(bad);
	spoil(bad, good, which);
	return true;
}
