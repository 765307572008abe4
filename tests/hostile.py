"""A program for test_hostile.py: a peer that sends what nobody should accept.

    python hostile.py KIND FD

FD is its end of a Unix stream socket.  It sends one message, prints what it made, and waits
until the other side has closed the socket.
"""

import array
import contextlib
import ctypes
import os
import socket
import struct
import sys
import tempfile
import threading
import time

import numpy as np

import memfd
from memfd import Seal

FILE = b"\xfeMFD\x01\x00\x00\x00\x00\x00\x00\x00"


def text(header, data=b""):
    """Return a .npy file with this text as its header."""
    header = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def file(data=b"", seals=Seal.IMMUTABLE | Seal.SEAL, size=None, **options):
    f = memfd.create("hostile", **options)
    f.write(data)
    if size is not None:
        f.truncate(size)
    if seals:
        f.seal(seals)
    return f.fileno(), f


def opened(path, flags):
    fd = os.open(path, flags)
    return fd, None


def fifo():
    path = os.path.join(tempfile.mkdtemp(), "fifo")
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    return fd, None


def tmpfs_file():
    with tempfile.TemporaryFile(dir="/dev/shm") as f:
        f.write(bytes(4096))
        f.flush()
        return os.dup(f.fileno()), None


def forged():
    """Sparse, but with as many blocks as if it were not: they lie past the end."""
    f = memfd.create(size=1 << 20)
    keep_size = 1
    size = ctypes.c_long(1 << 20)
    assert ctypes.CDLL(None).fallocate(f.fileno(), keep_size, size, size) == 0
    f.seal()
    return f.fileno(), f


def write_only():
    _, f = file(bytes(4096))
    return opened(f.path, os.O_WRONLY)


def lingering():
    """A TCP socket whose data nobody takes, and which waits for that when it is closed."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            client.send(bytes(1 << 16))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    return client.detach(), (listener, listener.accept())


def waiting():
    """A file of a file system of our own, which does not let others close it for long."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, private = 0x00020000, 0x00044000
    folder = tempfile.mkdtemp()
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if (
            libc.unshare(new_mounts)
            or libc.mount(b"none", b"/", None, private, None)
            or libc.mount(b"none", folder.encode(), b"fuse", 0, options.encode())
        ):
            raise OSError(ctypes.get_errno(), "cannot mount")
    except OSError as error:
        print(f"skipped: no file system in user space: {error}", flush=True)
        sys.exit()
    threading.Thread(target=answer_fuse, args=(device,), daemon=True).start()
    return opened(os.path.join(folder, "file"), os.O_RDONLY)


def answer_fuse(device):
    """Answer what is asked about one file; FLUSH, for which close(2) waits, much later."""
    lookup, getattr_, open_, release, flush, init = 1, 3, 14, 18, 25, 26

    def status(node):
        mode = 0o40755 if node == 1 else 0o100644
        return struct.pack("<6Q10I", node, *[0] * 8, mode, 1, *[0] * 5)

    answers = {
        init: lambda node: struct.pack("<4I2H10I", 7, 31, 0, 0, 1, 1, 4096, *[0] * 9),
        lookup: lambda node: struct.pack("<4Q2I", 2, 0, 99, 99, 0, 0) + status(2),
        getattr_: lambda node: struct.pack("<Q2I", 99, 0, 0) + status(node),
        open_: lambda node: struct.pack("<Q2I", 1, 0, 0),
        release: lambda node: b"",
        flush: lambda node: b"",
    }
    while True:
        request = os.read(device, 1 << 17)
        _, what, number, node, _, _, pid = struct.unpack_from("<2I2Q3I", request)
        if what in answers:
            answer = answers[what](node)
            answer = struct.pack("<IiQ", 16 + len(answer), 0, number) + answer
            if what == flush and pid != os.getpid():
                threading.Timer(20, os.write, (device, answer)).start()
            else:
                os.write(device, answer)


def executable():
    return file(good(), Seal.IMMUTABLE | Seal.EXEC, executable=True)


def mode_0000():
    fd, f = file(good())
    os.fchmod(fd, 0)
    return fd, f


def another_owner():
    if os.getuid():
        print("skipped: only root can make itself another user", flush=True)
        sys.exit()
    os.setgid(65534)
    os.setuid(65534)
    return file(good())


def flipped():
    """Its size goes back and forth until it is sealed, at some time."""
    f = memfd.create()
    f.write(good())
    size = f.size

    def flip():
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            memfd.set_size(f, 0)
            memfd.set_size(f, 8 * size)
        f.seal()

    thread = threading.Thread(target=flip)
    thread.start()
    return f.fileno(), (f, thread)


def good():
    return text("{'descr': '<f8', 'fortran_order': False, 'shape': (4,)}",
                np.arange(4.0).tobytes())  # fmt: skip


FILES = {
    "directory": lambda: opened("/", os.O_RDONLY),
    "FIFO": fifo,
    "device": lambda: opened("/dev/null", os.O_RDWR),
    "socket": lambda: (socket.socket(socket.AF_UNIX).detach(), None),
    "socket that lingers": lingering,
    "file system that waits": waiting,
    "O_PATH": lambda: opened("/", os.O_PATH),
    "write-only": write_only,
    "tmpfs file": tmpfs_file,
    "unsealed": lambda: file(good(), seals=0),
    "partly sealed": lambda: file(good(), seals=Seal.SHRINK | Seal.WRITE),
    "FUTURE_WRITE only": lambda: file(
        good(), seals=Seal.SHRINK | Seal.GROW | Seal.FUTURE_WRITE
    ),
    "shorter than announced": lambda: file(
        text("{'descr': '<f8', 'fortran_order': False, 'shape': (5,)}", bytes(32))
    ),
    "enormous": lambda: file(good(), size=1 << 50),
    "sparse": lambda: file(good(), size=1 << 20),
    "sparse, forged blocks": forged,
    "executable": executable,
    "objects": lambda: file(
        text("{'descr': '|O', 'fortran_order': False, 'shape': (4,)}", bytes(32))
    ),
    "overflow": lambda: file(
        text(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {(2**62, 8)}}}", b"x")
    ),
    "no header": lambda: file(bytes(200)),
    "mode 0000": mode_0000,
    "another owner": another_owner,
    "flipped": flipped,
}


def send(sock, data, fds):
    rights = array.array("i", fds)
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def drip(sock, data, fd):
    """Send one byte at a time, for ever."""
    send(sock, data[:1], [fd])
    for byte in data[1:] * 1000:
        time.sleep(0.05)
        sock.send(bytes([byte]))


def messages(sock, kind):
    fd, keep = file(good())
    head = b"\xfeMFD\x01\x01\x00\x00\x20\x00\x00\x00"
    if kind == "no descriptor":
        sock.send(FILE)
    elif kind == "two descriptors":
        send(sock, FILE, [fd, fd])
    elif kind == "200 descriptors":
        send(sock, FILE, [fd] * 200)
    elif kind == "half a head, then the end":
        send(sock, FILE[:5], [fd])
        sock.shutdown(socket.SHUT_WR)
    elif kind == "half a message, then the end":
        send(sock, head + b"{'descr'", [fd])
        sock.shutdown(socket.SHUT_WR)
    elif kind == "half a message":
        send(sock, head + b"{'descr'", [fd])
    elif kind == "one byte at a time":
        drip(sock, head + b" ", fd)
    elif kind == "a descriptor in the middle":
        send(sock, head, [fd])
        send(sock, b"{'descr'", [fd])
    else:
        assert kind == "silence", kind
    return keep


def main():
    kind, sock = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    if kind in FILES:
        fd, keep = FILES[kind]()
        send(sock, FILE, [fd])
        if kind == "file system that waits":
            os.close(fd)  # who ends and has it open would wait for itself
    else:
        keep = messages(sock, kind)
    print("sent", flush=True)
    sock.recv(1)
    del keep


if __name__ == "__main__":
    # The other side may have had enough.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        main()
