"""A process in which all is loaded and warm; each trial is a child that it forks.

    python template.py

Reads requests and prints answers, one line of JSON each.  The child has a filter for its
system calls, and this process is asked about each of them: it counts them, and lets one
fail.  No program is started, and nothing is traced.

A request names the ``operation``, the ``fault`` (null, or a call, its position and an
error), whether another thread ``forks`` meanwhile, and what the child told when it went
as ``usual`` (null: not known yet).  Instead of a fault there may be a ``condition``, a
name of conditions.py and its argument; nobody is asked then.  The answer has the ``calls``
that were made, and which of them the thread of the operation made on its ``own``, whether
the fault has ``fired``, what the ``child`` told, and how it ``ended``.
"""

import collections
import ctypes
import errno
import faulthandler
import fcntl
import gc
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import warnings

import calls
import conditions
import operations
import seccomp

CONTROL = 900  # a descriptor of the child, about which nobody is asked
DEADLINE = 60  # seconds for anything to happen
_NOTICE = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # ioctls of a listener
_ARENA = 64 << 20  # bytes, and their alignment, of the C library's memory for a thread
_DIE_WITH_PARENT = 1  # prctl
_GO_ON = 1  # let the call be made
_NUMBER = re.compile(r":\[\d+\]")  # of a pipe or a socket


def main():
    faulthandler.enable()
    warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads
    operations.warm()
    gc.collect()
    gc.freeze()  # children look for garbage of their own only
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = trial(**request)
        except seccomp.Unavailable as error:
            answer = {"unavailable": str(error)}
        print(json.dumps(answer), flush=True)


def trial(operation, fault=None, forks=False, usual=None, condition=None):
    """Do an operation in a child, and return what happened."""
    chosen = operations.OPERATIONS[operation]
    but = [call for call in calls.NOT_OURS if call != "munmap" or not chosen.unmaps]
    for call in but:
        seccomp.number(call)  # so that the child need not look
    seccomp.number("seccomp")
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        here.close()
        # Without the process that is asked, it would wait for ever.
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        code = 1
        try:
            os.dup2(there.fileno(), CONTROL)
            there.close()
            control = socket.socket(fileno=CONTROL)  # until this process ends
            Child(chosen, control, but, forks, usual, condition).live()
            code = 0
        except seccomp.Unavailable as error:
            os.write(CONTROL, json.dumps({"unavailable": str(error)}).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    there.close()
    with here:
        watched = Watched(pid, here, fault)
        try:
            watched.watch()
        finally:
            if watched.told is not None or watched.hung:
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            watched.close()
    code = os.waitstatus_to_exitcode(status)
    ended = f"ended with {code}" if code >= 0 else signal.Signals(-code).name
    if watched.told is not None:
        ended = "told"
    elif watched.hung:
        ended = "hung"
    return {
        "calls": watched.calls,
        "own": watched.own,
        "fired": watched.fired,
        "child": watched.told,
        "ended": ended,
        "unavailable": (watched.told or {}).get("unavailable"),
    }


class Watched:
    """A child whose system calls are counted and decided upon."""

    def __init__(self, pid, control, fault):
        self.pid, self.control = pid, control
        self.fault = None if fault is None else tuple(fault)
        self.listener = None
        self.calls, self.own, self.counts, self.threads = [], [], {}, {}
        self.told, self.fired, self.hung, self.is_counting = None, False, False, True

    def close(self):
        if self.listener is not None:
            os.close(self.listener)

    def watch(self):
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        end = time.monotonic() + DEADLINE
        while self.told is None:
            left = end - time.monotonic()
            ready = poll.poll(max(left, 0) * 1000)
            if not ready:
                self.hung = True
                return
            for fd, _ in ready:
                if fd == self.listener:
                    self.decide()
                    continue
                data, fds, _, _ = socket.recv_fds(self.control, 1 << 20, 1)
                if fds:
                    (self.listener,) = fds
                    poll.register(self.listener, select.POLLIN)
                elif data == b"end":
                    self.is_counting = False
                    self.control.send(b"go")
                elif data:
                    self.told = json.loads(data)
                else:
                    return

    def decide(self):
        """Answer one question."""
        notice = bytearray(_NOTICE.size)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, notice)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINTR):
                raise
            return  # a signal, or the end, came in between
        number, thread, _, call, _, _, *arguments = _NOTICE.unpack(notice)
        error, flags = 0, _GO_ON
        if self.is_counting and self.is_ours(thread):
            label = calls.label(call, arguments)
            if label is not None:
                self.calls.append(label)
                if thread == self.pid:
                    self.own.append(label)
                count = self.counts[label] = self.counts.get(label, 0) + 1
                if self.fault is not None and self.fault[:2] == (label, count):
                    error, flags = -getattr(errno, self.fault[2]), 0
                    self.fired = True
        try:
            fcntl.ioctl(self.listener, _SEND, _ANSWER.pack(number, 0, error, flags))
        except OSError as failed:
            if failed.errno != errno.ENOENT:
                raise

    def is_ours(self, thread):
        """Tell whether it is a thread of the child, and no process that this started."""
        found = self.threads.get(thread)
        if found is None:
            found = os.path.exists(f"/proc/{self.pid}/task/{thread}")
            self.threads[thread] = found
        return found


class Child:
    """What is done in the child."""

    def __init__(self, operation, control, but, forks, usual, condition):
        self.operation, self.control, self.but = operation, control, but
        self.condition = condition
        # For them the C library keeps addresses.
        self.has_threads = operation.threads or (
            condition is not None and condition[0] in conditions.OF_THREADS
        )
        self.forks, self.usual = forks, usual
        self.after = None if usual is None else usual["look"]
        self.problems = []

    def live(self):
        # The filter is of this thread only: another one looks at what has come of it, and
        # nobody is asked about that.
        self.is_done, begun = threading.Event(), threading.Event()
        observer = threading.Thread(target=self.observe, args=(begun,))
        observer.start()
        begun.wait()
        self.operation.prepare()
        gc.collect()
        self.before = self.belongings()
        given = self.operation.given()
        self.look_before = operations.look(given)
        forker = Forker() if self.forks else None
        gc.disable()
        self.found = [given, *self.under(given)]
        gc.enable()
        del given
        if forker is not None:
            forker.stop()
        self.is_done.set()
        observer.join()

    def observe(self, begun):
        """Wait until the operation is done, and tell what has come of it; a thread."""
        bytearray(100_000)  # so that the allocator has all it needs for this thread
        begun.set()
        self.is_done.wait()
        try:
            told = self.seen()
            self.control.send(json.dumps(told).encode())
            self.control.recv(1)  # until this is the end
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def seen(self):
        operation = self.operation
        given, result, error = self.found
        del self.found
        told = {"raised": None, "errno": None, "text": "", "look": None}
        if error is not None:
            told["raised"] = [kind.__name__ for kind in type(error).__mro__]
            told["errno"] = getattr(error, "errno", None)
            told["text"] = str(error)
            told["trace"] = "".join(traceback.format_exception(error))
            # What its frames hold is not leaked.
            while error is not None:
                traceback.clear_frames(error.__traceback__)
                error = error.__cause__ or error.__context__
        else:
            self.check(given, result)
        del result, error
        gc.collect()
        told["look"] = look = operations.look(given)
        if told["raised"] is None:
            if self.after is not None and look != self.after:
                self.problems.append(f"left {look}, not {self.after}")
        elif not (
            "Interrupted" in told["raised"]
            and operation.interrupted(self.look_before, look)
        ):
            self.again(given, self.look_before, look)
        del given
        gc.collect()
        operation.finish()
        # Without a GIL, each frees what only an object held that the one before has freed:
        # another thread made it, and waits.
        for _ in range(4):
            gc.collect()
        told["left"] = self.left(self.before)
        told["problems"] = self.problems
        return told

    def under(self, given):
        """Do the operation under the condition; return the result, or the exception."""
        result = error = None
        if self.condition is None:
            end = self.end_of_faults
            listener = seccomp.ask(self.but, CONTROL)
            socket.send_fds(self.control, [b"listener"], [listener])
            os.close(listener)
        else:
            name, argument = self.condition
            if name in conditions.OF_THREADS:
                return self.in_thread(given, conditions.OF_THREADS[name], argument)
            end = conditions.END[name]
        try:
            try:
                if self.condition is not None:
                    conditions.BEGIN[name](argument)
                result = self.operation.do(given)
            finally:
                end()
        except BaseException as raised:
            error = raised
            if self.condition is not None:
                end()  # a signal may have come before
        return result, error

    def end_of_faults(self):
        self.control.send(b"end")
        self.control.recv(2)

    def in_thread(self, given, begin, argument):
        """Do the operation in a thread, of which the condition is, and not of others."""
        found = []

        def run():
            try:
                begin(argument)
                found.extend((self.operation.do(given), None))
            except BaseException as raised:
                found.extend((None, raised))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        result, error = found
        if isinstance(error, seccomp.Unavailable):
            raise error
        return result, error

    def check(self, given, result):
        try:
            self.operation.right(given, result)
        except Exception:
            self.problems.append(f"wrong result: {traceback.format_exc(limit=-2)}")

    def again(self, given, before, now):
        """See that what failed left nothing half done, and works without the fault."""
        operation = self.operation
        if now == self.after and now != before:
            return
        if now != before and not operation.may_leave(before, self.after, now):
            self.problems.append(f"half done: {now}, before {before}")
            return
        try:
            operation.repeat(given)
            result = operation.do(given)
        except Exception:
            self.problems.append(
                f"the second go failed: {traceback.format_exc(limit=-3)}"
            )
            return
        self.check(given, result)

    def belongings(self):
        """Return how many there are of each kind of descriptor, mapping and thread."""
        # Threads come first: what one that has ended has closed is not there any more.
        count = collections.Counter(thread=len(os.listdir("/proc/self/task")))
        for entry in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{entry}")
            except FileNotFoundError:
                continue
            count["descriptor of " + _NUMBER.sub("", target)] += 1
        with open("/proc/self/maps", errors="replace") as maps:
            for line in maps:
                region, access, _, _, _, *path = line.split(maxsplit=5)
                if path and path[0].startswith("/memfd:"):
                    count[f"mapping {region} {access} of {path[0].strip()}"] += 1
                    continue
                # What ends there is what the allocator keeps for a thread.
                is_arena = int(region.partition("-")[2], 16) % _ARENA == 0
                if not (path or is_arena or self.has_threads) and access == "---p":
                    count[f"reserved {region}"] += 1
        return count

    def left(self, before):
        """Return what was not there before."""
        end = time.monotonic() + DEADLINE / 2
        lasting = 0
        if self.operation.lasting:
            lasting = 2 if self.usual is None else self.usual["left"]["thread"]
        while True:
            left = self.belongings() - before
            # A thread that has done its work may still be about to end.
            if left["thread"] <= lasting or time.monotonic() > end:
                return dict(left)
            time.sleep(0.01)


class Forker:
    """A thread that forks all the time; the filter is not its own."""

    def __init__(self):
        self.ends, self.count = threading.Event(), 0
        begun = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(begun,), daemon=True)
        self.thread.start()
        begun.wait()

    def run(self, begun):
        while not self.ends.is_set():
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            self.count += 1
            begun.set()

    def stop(self):
        self.ends.set()
        self.thread.join()


if __name__ == "__main__":
    main()
