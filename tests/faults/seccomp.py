"""Filters for system calls: what they answer, or who is asked about them.

A filter belongs to the thread that installs it, and to the threads and processes that this
one starts.  It is for ever, so only children install one.
"""

import ctypes
import ctypes.util
import errno
import functools
import os
import struct
import sys

_ALLOW, _ERROR, _ASK = 0x7FFF0000, 0x00050000, 0x7FC00000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # of plain BPF
_NUMBER, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 16, 24  # in struct seccomp_data
_LOW_HALF = 4 * (sys.byteorder == "big")
_NO_NEW_PRIVILEGES = 38  # prctl
_SET_FILTER, _NEW_LISTENER = 1, 8


class Unavailable(Exception):
    """Something is missing here."""


@functools.cache
def _library():
    """Return libseccomp, which knows the numbers of system calls on each machine."""
    found = ctypes.util.find_library("seccomp") or "libseccomp.so.2"
    try:
        library = ctypes.CDLL(found)
    except OSError as error:
        raise Unavailable(f"no libseccomp: {error}") from None
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return library


@functools.cache
def number(name):
    """Return the number of a system call, or None where the machine has none."""
    found = _library().seccomp_syscall_resolve_name(name.encode())
    return found if found >= 0 else None


@functools.cache
def name(number):
    """Return the name of a system call."""
    library = _library()
    address = library.seccomp_syscall_resolve_num_arch(0, number)
    if not address:
        return f"call {number}"
    return ctypes.string_at(address).decode()


def _step(code, constant, if_true=0, if_false=0):
    return struct.pack("=HBBI", code, if_true, if_false, constant & 0xFFFFFFFF)


def _install(steps, flags):
    libc = ctypes.CDLL(None, use_errno=True)
    program = b"".join(steps)
    kept = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    answer = libc.syscall(number("seccomp"), _SET_FILTER, flags, head)
    if answer == -1:
        code = ctypes.get_errno()
        raise Unavailable(f"seccomp(2): {os.strerror(code)}")
    return answer


def deny(*rules):
    """Let calls fail from now on: ``(name, error)``, or ``(name, second argument, error)``.

    The second argument is the command of fcntl(2), for one.
    """
    steps = [_step(_LOAD, _NUMBER)]
    for call, *second, error in rules:
        if number(call) is None:
            continue
        answer = _step(_RETURN, _ERROR | getattr(errno, error))
        if second:
            steps += [
                _step(_EQUAL, number(call), 0, 4),
                _step(_LOAD, _SECOND_ARGUMENT + _LOW_HALF),
                _step(_EQUAL, second[0], 0, 1),
                answer,
                _step(_LOAD, _NUMBER),
            ]
        else:
            steps += [_step(_EQUAL, number(call), 0, 1), answer]
    _install([*steps, _step(_RETURN, _ALLOW)], 0)


def ask(but, descriptor):
    """Have somebody asked about each call from now on; return the descriptor to answer at.

    Not about calls that are named in `but`, nor those whose first argument is `descriptor`.
    """
    steps = [_step(_LOAD, _NUMBER)]
    for call in but:
        if number(call) is not None:
            steps += [_step(_EQUAL, number(call), 0, 1), _step(_RETURN, _ALLOW)]
    steps += [
        _step(_LOAD, _FIRST_ARGUMENT + _LOW_HALF),
        _step(_EQUAL, descriptor, 0, 1),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _ASK),
    ]
    return _install(steps, _NEW_LISTENER)
