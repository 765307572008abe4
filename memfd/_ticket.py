"""Tickets: a descriptor of another process, which is asked for at its address.

It is the way of those who cannot open what /proc shows of the other process.  It needs a
thread there, and two processes that know the same authkey.
"""

from __future__ import annotations

import _thread
import _weakref
import contextlib
import errno
import multiprocessing.connection
import os
import signal
import socket
import time
from multiprocessing import process, reduction

from memfd import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    Ticket: TypeAlias = tuple[Any, int]
    _Send: TypeAlias = Callable[[Any, int], None]
    _Close: TypeAlias = Callable[[], object]

_PATIENCE = 10.0  # seconds after which who comes with a ticket is sent away
_ANSWER = 60.0  # seconds after which a sender that does not answer counts as gone
_REST = 0.02  # seconds until the next is answered, where one could not be


class Sharer:
    """Where those with a ticket come, at an address that every user reaches.

    As the resource sharer of multiprocessing, and for who knows the same authkey.  But the
    address is abstract, in no folder: there is none that only its owner may enter, and none
    is left where a process is killed.  And a signal handler may send something, or raise,
    in the middle of it.
    """

    # Where it listens: the socket, its address and inode, and the authkey of that time.
    _place: tuple[socket.socket, bytes, int, bytes] | None = None
    _is_served = False
    _key = 0

    def __init__(self) -> None:
        self._lock = _thread.RLock()
        self._cache: dict[int | None, tuple[_Send, _Close]] = {}

    def register(self, send: _Send, close: _Close) -> Ticket:
        """Return a ticket; who brings it is sent what ``send`` sends, then ``close()``."""
        return _core.locked(self._lock, self._register, send, close)

    def _register(self, send: _Send, close: _Close) -> Ticket:
        _, address, _, _ = self._place or self._listen()
        if not self._is_served:  # two threads do no harm
            self._is_served = _core.start_daemon(self._serve)
        number = self._key = self._key + 1
        self._cache[number] = send, close
        return address, number

    def _listen(self) -> tuple[socket.socket, bytes, int, bytes]:
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(f"\0memfd-{os.urandom(16).hex()}")
            listener.listen(128)
            inode = os.fstat(listener.fileno()).st_ino
            authkey = process.current_process().authkey
            place = listener, listener.getsockname(), inode, authkey
        except BaseException:
            listener.close()
            raise
        # At once, and unless a signal handler was quicker.
        self._place = found = self._place or place
        if found is not place:
            listener.close()
        return found

    def _serve(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while self._is_listening():
            try:
                self.answer()
            except Exception:
                # Who asked learns that it got nothing.  Without a descriptor left, the
                # next one would fail at once.
                time.sleep(_REST)
        _core.locked(self._lock, self._end)

    def _end(self) -> None:
        place = self._place
        if place is not None and not self._is_listening():
            place[0].detach()
            self._place = None
            self._is_served = False

    def _is_listening(self) -> bool:
        """Tell whether nobody closed what it listens at."""
        place = self._place
        if place is None:
            return False
        listener, _, inode, _ = place
        try:
            return os.fstat(listener.fileno()).st_ino == inode
        except OSError as error:
            return error.errno != errno.EBADF

    def begin_anew(self) -> None:
        """Forget, in a forked child, what its parent has."""
        self._lock = _thread.RLock()  # a thread of the parent may have had it
        self._cache.clear()
        if self._place is not None and self._is_listening():
            self._place[0].close()
        self._end()

    def is_served(self) -> bool:
        """Tell whether there is no need to call `answer`."""
        return self._place is None or self._is_served

    def forget(self, number: int | None) -> None:
        """Answer a ticket no more."""
        self._cache.pop(number, None)

    @property
    def listener(self) -> Any:
        """Where those with a ticket come, for who calls `answer` when they do."""
        place = self._place
        return None if place is None else place[0]

    def answer(self) -> None:
        """Send what one ticket is for, unless it was redeemed before."""
        place = self._place
        if place is None:  # somebody closed it, and `_end` has seen that
            return
        listener, address, _, authkey = place
        accepted, _ = listener.accept()
        key = _key_of(address, authkey)
        with accepted, _connection(accepted, _PATIENCE) as connection:
            multiprocessing.connection.deliver_challenge(connection, key)
            multiprocessing.connection.answer_challenge(connection, key)
            number, pid = connection.recv()
            asked_for = self._cache.pop(number, None)
            if asked_for is not None:
                send, close = asked_for
                try:
                    send(connection, pid)
                finally:
                    close()


sharer = Sharer()


def redeem(ticket: Ticket, name: str) -> int:
    """Return the descriptor from the sharer of the sender."""
    try:
        return _asked_for(ticket)
    except RuntimeError as error:  # the descriptor was cut off
        raise OSError(
            errno.EMFILE,
            f"{os.strerror(errno.EMFILE)}: no descriptor is left for memfd {name!r}",
        ) from error
    # No thread can be had, and what signal handlers like to raise.
    except (BlockingIOError, TimeoutError):
        raise
    # Whoever took the address of a sender that is gone says what he likes, and some
    # versions of multiprocessing take it with an assertion, or an OSError without errno.
    except (
        AssertionError,
        EOFError,
        OSError,  # guard: answer that is cut off
        multiprocessing.ProcessError,
    ) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise ConnectionError(
            f"memfd {name!r} cannot be received: the process that sent it is gone, or "
            "this message was received before, or waited for too long; a sender has to "
            "live until its message is read"
        ) from error


def _asked_for(ticket: Ticket) -> int:
    """Return the descriptor that a ticket is for, asked for at its address."""
    address, number = ticket
    key = _key_of(address, process.current_process().authkey)
    with socket.socket(socket.AF_UNIX) as asked:
        _connect(asked, address)
        with _connection(asked, _ANSWER) as connection:
            multiprocessing.connection.answer_challenge(connection, key)
            multiprocessing.connection.deliver_challenge(connection, key)
            connection.send((number, os.getpid()))
            return reduction.recv_handle(connection)


def _connect(sock: socket.socket, address: bytes) -> None:
    """Connect, and wait where many do: not in the kernel, which has no deadline there."""
    end = time.monotonic() + _ANSWER
    sock.setblocking(False)
    while True:
        try:
            sock.connect(address)
            break
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise ConnectionError(error.errno, str(error)) from error
            time.sleep(_REST)
    sock.setblocking(True)


@contextlib.contextmanager
def _connection(sock: socket.socket, seconds: float) -> Iterator[Any]:
    """Yield a connection of multiprocessing over a socket, which is shut in the end.

    Strangers can be at both ends, and say nothing, or little at a time.
    """
    talking = _thread.allocate_lock()
    talking.acquire()
    with multiprocessing.connection.Connection(os.dup(sock.fileno())) as connection:
        ref = _weakref.ref(sock)  # who is interrupted drops it
        if not _core.start_daemon(_hang_up, ref, seconds, talking):
            raise BlockingIOError(
                errno.EAGAIN, "no thread can be started to end waiting"
            )
        try:
            yield connection
        finally:
            talking.release()


def _hang_up(
    ref: _weakref.ref[socket.socket], seconds: float, talking: _thread.LockType
) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    sock = None if talking.acquire(timeout=seconds) else ref()
    if sock is not None:
        with contextlib.suppress(OSError):  # it was answered meanwhile
            sock.shutdown(socket.SHUT_RDWR)


def _key_of(address: bytes, authkey: bytes) -> bytes:
    """Return the key for one address, whose owner may be gone, and another user there.

    Who passes on there what is asked and answered gets nowhere at another address.
    """
    import hmac  # as late as multiprocessing does, since few ever come with a ticket

    return hmac.digest(authkey, address, "sha256")  # guard: key -> return authkey
