"""Handing over: memfds that were sent through multiprocessing and wait to be fetched.

Every message carries a slip, with which a process of the same user fetches the memfd
through /proc, and a ticket for all others.
"""

from __future__ import annotations

import _thread
import _weakref
import contextlib
import errno
import functools
import multiprocessing.connection
import os
import resource
import select
import signal
import threading
import time
from multiprocessing import context, process, reduction, util

from memfd import _core, _file, _loan, _ticket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from memfd._file import Memfd
    from memfd._ticket import Ticket

_MAX_AGE = 600.0  # seconds after which a message may be given up
_LINGER = 10.0  # seconds that a child waits at its end for its messages to be read
_PAUSE = 0.02  # seconds between two looks at the pipe, where nothing is sent meanwhile
_FEW = 16  # messages for which the pipe need not be looked at: the thread does so soon
_MANY, _MOST = 64, 1024  # messages that may wait in any case, and for _MAX_AGE only
_MOST_ARGUMENTS = 200  # that a process inherits; a fork server passes on few more

# The number of each slip that was not given back, oldest first: what is kept for it, since
# when, and the key of its ticket.
_pending: dict[int, list[Any]] = {}

# The processes that were being started last, each with what is kept for it until it is.
_starting: list[_weakref.ref[Any]] = []

# The descriptors that this process got when it was started, as they are taken.
_inherited: set[int] = set()
_desk: _loan.Desk | None = None
_opening = _thread.RLock()  # a signal handler may send, too
_is_staying = False  # whether a thread lingers


def give(memfd: Memfd) -> tuple[bytes | None, Any, str]:
    """Return what another process calls `take` with."""
    if memfd.closed:  # guard: closed memfd
        raise ValueError(f"{memfd!r} cannot be sent to another process")
    popen: Any = context.get_spawning_popen()
    if popen is not None:
        # An argument of a process that is being started, which inherits it, once.
        known = popen.__dict__.get("_memfd")
        if known is None:
            _release_arguments()
            known = popen._memfd = {}
            _starting.append(_weakref.ref(popen))
        loan = _loan_of(memfd)
        if loan not in known and len(known) < _MOST_ARGUMENTS:
            known[loan] = reduction.DupFd(loan.fileno())
        if loan in known:
            return None, known[loan], memfd.name
    return *_lend(memfd), memfd.name


def take(slip: bytes | None, ticket: Any, name: str) -> Memfd:
    """Return the memfd that another process gave, and tell it so."""
    if slip is None:
        fd = ticket.detach()
        if fd in _inherited:
            return _adopted(os.dup(fd), name)
        _inherited.add(fd)
        return _adopted(fd, name)
    try:
        memfd = _loan.fetch(_file.Memfd, slip)
        if memfd is not None:
            memfd.name = name
            give_back(slip, ticket)  # guard: given back
            return memfd
    except BaseException:
        # The message is lost, the memory need not be.
        _loan.give_back(slip)  # guard: given back by who fails
        raise
    fd = _ticket.redeem(ticket, name)
    if not _loan.is_numbered(slip, fd):  # guard: ticket for another file
        os.close(fd)
        raise ConnectionError(
            f"memfd {name!r} cannot be received: its sender handed out another file"
        )
    return _adopted(fd, name)


def give_back(slip: bytes, ticket: Ticket) -> None:
    """Tell the sender that what it keeps for this message is not needed any more."""
    if not _loan.give_back(slip):  # guard: given back by ticket
        # The ticket does as well, unless the sender is gone, or knows it.
        with contextlib.suppress(OSError, RuntimeError, multiprocessing.ProcessError):
            os.close(_ticket.redeem(ticket, ""))


def collect() -> None:
    """Forget what was given back."""
    global _desk
    if _starting:
        _release_arguments()
    desk = _desk
    if desk is not None:
        for entry in desk.read(_pending):
            _drop(entry)
        if desk.fileno() == -1:  # somebody closed it
            _desk = None


def given_back() -> int:
    """Return a descriptor that can be read when something was given back, or -1."""
    desk = _desk
    return -1 if desk is None else desk.fileno()


def pending() -> int:
    """Return how many messages of this process with memfds were not received yet.

    What was sent through multiprocessing is kept for its receiver, memory included, until
    that has unpickled it.

    Returns
    -------
    int
        Messages with an Array or a Memfd that nobody has unpickled yet; one with several
        memfds counts once for each.

    Notes
    -----
    Messages that waited for ten minutes are given up, oldest first, as soon as more wait
    than 1024, or than a quarter of RLIMIT_NOFILE; who receives one after that gets a
    ConnectionError.

    Examples
    --------
    >>> import memfd
    >>> from multiprocessing import Pipe
    >>> here, there = Pipe()
    >>> here.send(memfd.from_bytes(b"data"))
    >>> memfd.pending()
    1
    >>> there.recv().read()
    b'data'
    >>> memfd.pending()
    0
    """
    collect()
    return len(_pending)


def _lend(memfd: Memfd) -> tuple[bytes, Ticket]:
    desk = _desk
    if desk is None or not desk.is_kept:
        desk = _core.locked(_opening, _open_desk)
    if len(_pending) >= _FEW:
        collect()
        if len(_pending) >= _MANY:
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # -1: none
            most = min(soft // 4, _MOST) if soft >= 0 else _MOST
            if len(_pending) > most:
                _give_up()  # guard: bound -> pass
    loan = _loan_of(memfd)
    number, slip = desk.write(loan, memfd)
    entry = _pending[number] = [loan, time.monotonic(), None]
    ticket = _ticket.sharer.register(
        functools.partial(_send, number), functools.partial(_forget, number)
    )
    entry[2] = ticket[1]
    if util.is_exiting():
        _core.locked(_opening, _stay)
    return slip, ticket


def _release_arguments() -> None:
    """Forget what is kept for processes that are started by now."""
    for ref in list(_starting):
        popen = ref()
        if popen is None or hasattr(popen, "pid"):
            with contextlib.suppress(ValueError):  # another thread did it
                _starting.remove(ref)
            if popen is not None:
                popen._memfd.clear()


def _loan_of(memfd: Memfd) -> _loan.Loan:
    """Return the one duplicate for all messages with this memfd."""
    loan: _loan.Loan | None = None if memfd._loan is None else memfd._loan()
    if loan is None:
        loan = _duplicate(memfd)
        memfd._loan = _weakref.ref(loan)
    return loan


def _duplicate(memfd: Memfd) -> _loan.Loan:
    try:
        return _loan.Loan(memfd)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    collect()
    _give_up()
    try:
        return _loan.Loan(memfd)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno)}: a memfd cannot be sent while {len(_pending)} "
            "messages wait to be received (RLIMIT_NOFILE)",
        ) from None


def _send(number: int, connection: Any, pid: int) -> None:
    """Answer a ticket; called in the thread of the sharer."""
    loan = _pending[number][0]
    reduction.send_handle(connection, loan.fileno(), pid)


def _forget(number: int) -> None:
    _drop(_pending.pop(number, None))


def _drop(entry: list[Any] | None) -> None:
    if entry is not None:
        entry[0] = None  # without a GIL, the list belongs to the thread that made it
        _ticket.sharer.forget(entry[2])


def _give_up() -> None:
    """Forget what has waited for too long."""
    before = time.monotonic() - _MAX_AGE
    for number, (_, since, _) in list(_pending.items()):
        if since > before:  # guard: given up too early
            break
        _forget(number)


def _adopted(fd: int, name: str) -> Memfd:
    try:
        memfd = _file.adopt(fd)
    except BaseException:
        os.close(fd)
        raise
    memfd.name = name
    return memfd


# --- while nothing is sent ------------------------------------------------------------


def _open_desk() -> _loan.Desk:
    global _desk
    if _desk is None:
        desk = _loan.Desk()
        _desk = _desk or desk  # a signal handler may have been quicker
    desk = _desk
    # Where one raises before this, the next message begins the thread; two do no harm.
    if not desk.is_kept:
        desk.is_kept = _core.start_daemon(_keep_collecting, desk)
    return desk


def _keep_collecting(desk: _loan.Desk) -> None:
    """Release what was given back to a process that sends nothing more; a thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    poll = select.poll()
    poll.register(desk.fileno(), select.POLLIN)
    while desk.fileno() != -1:
        with contextlib.suppress(OSError):  # no memory: look all the same
            poll.poll()
        # One look for many, and none where each new message looks itself.
        time.sleep(_PAUSE)
        collect()  # guard: idle sender


def linger() -> bool:
    """Wait, in a child that ends, until what it has sent was received; return whether."""
    parent = process.parent_process()
    if parent is None:  # the main program waits for nobody
        return False
    end = time.monotonic() + _LINGER
    # loky does not tell how to wait for its parent.
    ends: list[Any] = [parent.sentinel] * (parent.sentinel is not None)
    if not _ticket.sharer.is_served():
        ends.append(_ticket.sharer.listener)
    while pending():
        left = end - time.monotonic()
        pipe = given_back()
        if pipe == -1:  # somebody closed it, and nobody can give back
            return False
        if left <= 0:  # guard: end of waiting
            return False
        # In short pieces: the thread may take from the pipe what this waits for.
        ready = multiprocessing.connection.wait([*ends, pipe], min(left, 0.1))
        if parent.sentinel in ready:
            return False  # nobody is left
        if _ticket.sharer.listener in ready:
            with contextlib.suppress(Exception):
                _ticket.sharer.answer()
    return True


def _stay() -> None:
    """Linger in a thread, which is waited for: at the end, somebody still sends."""
    global _is_staying
    if _is_staying or process.parent_process() is None:
        return
    thread = threading.Thread(target=_keep_lingering, daemon=False)
    _is_staying = True
    try:
        # Where no thread begins any more, `linger` is still to come.
        with contextlib.suppress(RuntimeError):
            thread.start()
    finally:
        _is_staying = thread.is_alive()


def _keep_lingering() -> None:
    while _core.locked(_opening, _has_to_stay, linger()):
        pass


def _has_to_stay(received_all: bool) -> bool:
    global _is_staying
    # What is sent from now on begins anew, what was sent before is seen here.
    _is_staying = received_all and pending() > 0
    return _is_staying


def _begin_anew() -> None:
    """Start empty in a forked child: the parent keeps what it sent."""
    global _desk, _opening, _is_staying
    _opening = _thread.RLock()  # a thread of the parent may have had it
    _is_staying = False
    _starting.clear()
    _ticket.sharer.begin_anew()  # guard: tickets of a parent
    _pending.clear()
    if _desk is not None:
        _desk.close()
        _desk = None


os.register_at_fork(after_in_child=_begin_anew)
