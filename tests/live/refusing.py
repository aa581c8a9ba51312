"""Runs a program to which the kernel refuses a system call, as at a limit of the system.

    python refusing.py inotify_init1 EMFILE program arguments...

A seccomp filter does it: that needs no rights, holds for the program and its children, and disturbs nobody else.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

MACHINES = {
    "x86_64": (0xC000003E, {"inotify_init1": 294, "inotify_add_watch": 254}),
    "aarch64": (0xC00000B7, {"inotify_init1": 26, "inotify_add_watch": 27}),
}
"""The kernel's name of each machine, and its numbers of the calls."""
NO_NEW_PRIVILEGES, SET_SECCOMP, MODE_FILTER = 38, 22, 2


def refuse(name: str, error: int) -> None:
    """From now on the call of that name fails with that error, in this process and those it starts."""
    machine, calls = MACHINES[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06
    program = [
        (load, 0, 0, 4),  # the machine
        (equal, 0, 2, machine),
        (load, 0, 0, 0),  # the number of the call
        (equal, 1, 0, calls[name]),
        (give, 0, 0, 0x7FFF0000),  # allowed
        (give, 0, 0, 0x00050000 | error),  # fails with this error
    ]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(filters))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(SET_SECCOMP, MODE_FILTER, head, filters, 0):
        raise OSError(ctypes.get_errno(), "seccomp is not to be had here")


if __name__ == "__main__":
    refuse(sys.argv[1], getattr(errno, sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])  # the program that was named
