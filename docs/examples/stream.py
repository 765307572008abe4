"""Send the frames of a camera to two processes: python stream.py [--kill] [--check]"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import socket
import sys
import time
from multiprocessing.connection import wait

import numpy as np

import memfd

SHAPE = 1080, 1920, 3
AHEAD = 2  # frames that a consumer may be behind with


def consume(frames, answers, check):
    """Say of each frame whether it is whole; the main of a consumer."""
    answers.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            # A frame of a pool is not immutable, so this trusts the camera.
            frame = memfd.recv_array(frames, require=memfd.Seal.SHRINK)
            words = frame.reshape(-1).view(np.uint64)
            number = int(words[0])
            seen = words if check else words[::512]  # all of them, or one of each page
            is_whole = bool((seen == number).all() and words[-1] == number)
            answers.send((number, is_whole, time.monotonic()))


class Consumer:
    """A process that gets frames, as the camera sees it."""

    def __init__(self, context, check):
        # What is in a socket when its reader dies, the kernel drops.
        self.frames, theirs = socket.socketpair()
        self.pipe, answers = context.Pipe()
        arguments = theirs, answers, check
        self.process = context.Process(target=consume, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        answers.close()
        self.starts, self.latencies = {}, []  # of frames that it was sent, and has seen
        self.skipped = self.broken = 0

    def send(self, number, start, frame):
        # A camera cannot wait, and must not keep what nobody has time for: who is behind
        # misses this frame, and gets a newer one as soon as it answers.
        if len(self.starts) == AHEAD:
            self.skipped += 1
        else:
            with contextlib.suppress(BrokenPipeError):  # it has died
                memfd.send(self.frames, frame)
            self.starts[number] = start

    def receive(self):
        with contextlib.suppress(EOFError):
            number, is_whole, end = self.pipe.recv()
            self.latencies.append(end - self.starts.pop(number))
            self.broken += not is_whole

    def bury(self):
        # A process that was forked later may have it, too.
        self.frames.shutdown(socket.SHUT_RDWR)
        self.frames.close()
        self.process.join()


def listen(consumers, deadline):
    """Hear what consumers say until the next frame is due, and forget who has died."""
    while True:
        objects = [c.pipe for c in consumers] + [c.process.sentinel for c in consumers]
        ready = wait(objects, max(0, deadline - time.monotonic()))
        if not ready:
            return
        for consumer in list(consumers):
            if consumer.process.sentinel in ready:
                consumer.bury()
                consumers.remove(consumer)
            elif consumer.pipe in ready:
                consumer.receive()


def report(when, pool):
    stats, sizes = pool.stats(), {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:"):
                file = os.stat(f"/proc/self/fd/{name}")
                sizes[file.st_ino] = file.st_blocks * 512
    print(f"{when}: {stats}, {sum(sizes.values())} bytes of memfds")


def film(arguments, consumers, pool):
    """Send frames until the time is over."""
    begin = time.monotonic()
    half, end = begin + arguments.seconds / 2, begin + arguments.seconds
    for number in itertools.count():
        listen(consumers, begin + number / arguments.rate)
        start = time.monotonic()
        if start > end:
            break
        # All of it is written before anybody sees it: what is there need not go first.
        frame = pool.empty(SHAPE, np.uint8, clear=False)
        frame.reshape(-1).view(np.uint64)[:] = number
        for consumer in consumers:
            consumer.send(number, start, frame)
        del frame
        if arguments.kill and start > half and len(consumers) == 2:
            report("before the kill", pool)
            consumers[-1].process.kill()
            consumers.pop().bury()
            report("after the kill", pool)
            print(f"seen by the other until then: {len(consumers[0].latencies)}")
    while any(consumer.starts for consumer in consumers):
        listen(consumers, time.monotonic() + 0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=60, help="frames a second")
    parser.add_argument("--kill", action="store_true", help="kill one at half time")
    parser.add_argument("--check", action="store_true", help="look at every byte")
    parser.add_argument("--start", default="spawn", help="or fork, or forkserver")
    arguments = parser.parse_args()
    context = multiprocessing.get_context(arguments.start)
    everyone = [Consumer(context, arguments.check) for _ in range(2)]
    for consumer in everyone:
        consumer.pipe.recv()  # it is ready
    # What each is behind with and what it looked at last, and the one that is filled.
    blocks = len(everyone) * (AHEAD + 1) + 1
    with memfd.BufferPool(max_blocks=blocks, when_full="wait") as pool:
        consumers = list(everyone)
        film(arguments, consumers, pool)
        for consumer in consumers:
            consumer.bury()
        for consumer in everyone:
            count = len(consumer.latencies)
            p50, p99 = np.percentile(consumer.latencies, (50, 99)) * 1e3
            print(
                f"process {consumer.process.pid}: {count} frames, "
                f"{count / arguments.seconds:.1f} a second, {consumer.broken} broken, "
                f"{consumer.skipped} skipped, latency p50 {p50:.2f} ms, p99 {p99:.2f} ms, "
                f"exit code {consumer.process.exitcode}"
            )
        report("at the end", pool)
    report("closed", pool)
    return any(consumer.broken for consumer in everyone)


if __name__ == "__main__":
    sys.exit(main())
