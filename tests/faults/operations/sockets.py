"""Unix sockets, waited for or under asyncio."""

import asyncio
import os
import socket
from types import SimpleNamespace

import numpy as np

import memfd
from memfd import aio

from .adopted import MAYBE_HOLES, sent, unsealed
from .arrays import right_array
from .operation import equal, numbers, operation


class _Ends:
    """Two sockets, with a deadline; one message is on its way, or none."""

    def __init__(self, kind=socket.SOCK_STREAM):
        self.kind = kind
        self.open()

    def open(self):
        self.here, self.there = socket.socketpair(socket.AF_UNIX, self.kind)
        self.here.settimeout(10)
        self.there.settimeout(10)

    def __del__(self):
        self.here.close()
        self.there.close()


def _ends(item, is_sent, kind=socket.SOCK_STREAM):
    def given():
        ends = _Ends(kind)
        made = item()
        if is_sent:
            memfd.send(ends.here, made)
        return SimpleNamespace(item=made, ends=ends)

    return given


def _send_again(given):
    # After an error the rest of a stream means nothing.
    given.ends = _Ends(given.ends.kind)
    memfd.send(given.ends.here, given.item)


def right_received(given, f):
    with f:
        assert f.read(4) == b"\0\1\2\3"
        assert not os.get_inheritable(f.fileno())


def _right_sent(given, result):
    right_received(given, memfd.recv(given.ends.there))


RECEIVED = [("fcntl F_GET_SEALS", "ValueError"), *MAYBE_HOLES]


@operation("send()", "send", given=_ends(sent, False), right=_right_sent)
def _(given):
    memfd.send(given.ends.here, given.item)


def _right_view_sent(given, result):
    assert np.array_equal(memfd.recv_array(given.ends.there), numbers()[::3])


def view():
    return memfd.share(numbers())[::3]


@operation("send() of a view", "send", given=_ends(view, False), right=_right_view_sent)
def _(given):
    memfd.send(given.ends.here, given.item)


@operation(
    "recv()",
    "recv",
    given=_ends(sent, True),
    repeat=_send_again,
    right=right_received,
    documented=RECEIVED,
)
def _(given):
    return memfd.recv(given.ends.there)


@operation(
    "recv(), seqpacket",
    "recv",
    given=_ends(sent, True, socket.SOCK_SEQPACKET),
    repeat=_send_again,
    right=right_received,
    documented=RECEIVED,
)
def _(given):
    return memfd.recv(given.ends.there)


@operation(
    "recv(copy=True)",
    "recv",
    given=_ends(unsealed, True),
    repeat=_send_again,
    right=right_received,
    documented=RECEIVED,
)
def _(given):
    return memfd.recv(given.ends.there, copy=True, dense=False)


@operation(
    "recv() of a socket, refused",
    "recv",
    given=lambda: _ends_with_a_socket(),
    repeat=lambda given: _send_socket(given),
    right=lambda given, text: equal("is not a memfd" in text, True),
    threads=True,
)
def _(given):
    try:
        memfd.recv(given.ends.there)
    except ValueError as error:
        return str(error)


def _ends_with_a_socket():
    given = SimpleNamespace(ends=_Ends())
    _send_socket(given)
    return given


def _send_socket(given):
    given.ends = _Ends()
    with socket.socket(socket.AF_UNIX) as one:
        socket.send_fds(given.ends.here, [b"x"], [one.fileno()])


@operation(
    "recv_array()",
    "recv_array",
    given=_ends(view, True),
    repeat=_send_again,
    right=lambda given, array: right_array(numbers()[::3])(given, array),
    documented=RECEIVED,
)
def _(given):
    return memfd.recv_array(given.ends.there)


class _Loop:
    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.run(asyncio.sleep(0))

    def run(self, steps):
        return self.loop.run_until_complete(steps)

    def __del__(self):
        self.loop.close()


def _with_loop(given):
    def make():
        made = given()
        made.loop = _Loop()
        made.ends.here.settimeout(0)
        made.ends.there.settimeout(0)
        return made

    return make


def _send_to_loop(given):
    _send_again(given)
    given.loop = _Loop()
    given.ends.here.settimeout(0)
    given.ends.there.settimeout(0)


def _right_sent_at_once(given, result):
    given.ends.there.settimeout(10)
    _right_sent(given, result)


def _fresh_loop(given):
    given.loop = _Loop()


@operation(
    "aio.send()",
    "aio.send",
    given=_with_loop(_ends(sent, False)),
    repeat=_fresh_loop,
    right=_right_sent_at_once,
)
def _(given):
    given.loop.run(aio.send(given.ends.here, given.item))


@operation(
    "aio.recv()",
    "aio.recv",
    given=_with_loop(_ends(sent, True)),
    repeat=_send_to_loop,
    right=right_received,
    documented=RECEIVED,
)
def _(given):
    return given.loop.run(aio.recv(given.ends.there))


@operation(
    "aio.recv_array()",
    "aio.recv_array",
    given=_with_loop(_ends(view, True)),
    repeat=_send_to_loop,
    right=lambda given, array: right_array(numbers()[::3])(given, array),
    documented=RECEIVED,
)
def _(given):
    return given.loop.run(aio.recv_array(given.ends.there))
