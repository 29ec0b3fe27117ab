# SPDX-License-Identifier: GPL-2.0-or-later
"""Records what a guest sends through the balloon, for gdb:

    gdb -batch -x record.py --args qemu-system-x86_64 ...

What the library is called with is appended to the file that VBR_RECORD names. An entry is a byte
for its kind (KINDS below, by their place), two for its length, and its bytes; numbers are little
endian. Memory is named by pages of the guest, (first, count), 32 bits each. Of the calls of a kind
the first three are kept, and then the 4th, 8th, 16th and so on, each cut to 512 bytes, until the
file has 12 different ones of the kind.

`cargo xtask fuzz --record LINE` runs guests so.
"""

import os
import struct

import gdb

KINDS = [
    "features",
    "memory",
    "inflate",
    "deflate",
    "report",
    "stats",
    "hint id",
    "hint",
    "config",
    "answer",
    "state",
    "pages",
]
MOST = 512
ENTRIES = 12
PAGE = 4096

counts = {}
sections = []
out = open(os.environ["VBR_RECORD"], "ab+", buffering=0)


def kept(kind):
    """The entries of a kind that the file has: other QEMUs write to it, too."""
    out.seek(0)
    data = out.read()
    at, entries = 0, []
    while at < len(data):
        number, size = struct.unpack_from("<BH", data, at)
        at += 3 + size
        if number == KINDS.index(kind):
            entries.append(data[at - size : at])
    return entries


def note(kind, data):
    counts[kind] = counts.get(kind, 0) + 1
    count = counts[kind]
    data = bytes(data)[:MOST]
    wanted = data and (count <= 3 or count & (count - 1) == 0)
    if wanted and data not in (entries := kept(kind)) and len(entries) < ENTRIES:
        out.write(struct.pack("<BH", KINDS.index(kind), len(data)) + data)


def memory(at, size):
    return gdb.selected_inferior().read_memory(int(at), int(size)).tobytes()


def register(name):
    return int(gdb.parse_and_eval("$" + name)) & (1 << 64) - 1


def behind(name, kind):
    """What the pointer in a register leads to, as it is declared for C."""
    pointer = gdb.lookup_type(kind).pointer()
    return gdb.Value(register(name)).cast(pointer).dereference()


def guest_pages(host, size):
    for gpa, length, start in sections:
        if start <= host < start + length:
            return struct.pack("<II", (gpa + host - start) // PAGE, size // PAGE)
    return b""


def features():
    return "features", struct.pack("<Q", register("rsi"))


def set_memory():
    sections.clear()
    pointer = gdb.lookup_type("VbrSection").pointer()
    first = gdb.Value(register("rsi")).cast(pointer)
    data = b""
    for number in range(register("rdx")):
        section = first[number]
        gpa, size, host = (int(section[name]) for name in ("gpa", "bytes", "host"))
        sections.append((gpa, size, host))
        data += struct.pack("<II", gpa // PAGE, size // PAGE)
    return "memory", data


def batch_add():
    part = behind("rdx", "VbrPart")
    kind = "inflate" if register("rsi") & 0xFFFFFFFF == 0 else "deflate"
    return kind, memory(part["payload"], part["len"])


def batch_add_report():
    pointer = gdb.lookup_type("VbrReported").pointer()
    first = gdb.Value(register("rsi")).cast(pointer)
    segments = (first[number] for number in range(register("rdx")))
    pages = (guest_pages(int(s["host"]), int(s["bytes"])) for s in segments)
    return "report", b"".join(pages)


def stats():
    buffer = behind("rsi", "VbrStatsBuffer")
    return "stats", memory(buffer["payload"], buffer["payload_len"])


def hint_id():
    return "hint id", memory(register("rsi"), register("rdx"))


def hint():
    return "hint", guest_pages(register("rdx"), register("rcx"))


def config():
    return "config", memory(register("rsi"), register("rdx"))


def answer():
    part = behind("rcx", "VbrAnswer")
    return "answer", memory(part["payload"], part["len"])


def state():
    loaded = behind("rsi", "VbrState")
    if register("rdx"):
        pages = behind("rdx", "VbrSavedPages")
        note("pages", memory(pages["coded"], pages["len"]))
    numbers = (int(loaded[name]) for name in ("num_pages", "actual", "poison_val"))
    return "state", struct.pack("<III", *numbers)


class Call(gdb.Breakpoint):
    """Notes each call of a function, which goes on at once."""

    def __init__(self, function, read):
        super().__init__("*" + function)
        self.read = read

    def stop(self):
        note(*self.read())
        return False


gdb.execute("set pagination off")
# What libraries bring for gdb would run among the names of this file.
gdb.execute("set auto-load python-scripts off")
gdb.execute("handle SIGUSR1 SIGUSR2 SIGPIPE SIGALRM nostop noprint pass")
for function, read in {
    "vbr_device_set_features": features,
    "vbr_device_set_memory": set_memory,
    "vbr_batch_add": batch_add,
    "vbr_batch_add_report": batch_add_report,
    "vbr_stats_receive": stats,
    "vbr_hints_receive_id": hint_id,
    "vbr_hints_receive": hint,
    "vbr_config_write": config,
    "vbr_request_answer": answer,
    "vbr_state_load": state,
}.items():
    Call(function, read)
gdb.execute("run")
