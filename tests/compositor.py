"""As much of a Wayland compositor as a window of shared memory needs: compositor.py SOCKET

It serves one client after the other, and maps what a client draws as libwayland does:
shared and writable.  Of each picture that was shown it prints the size and the bytes of
some pixels, and whether the file that it lies in can shrink.
"""

import contextlib
import mmap
import os
import socket
import struct
import sys

import memfd

GLOBALS = {1: "wl_compositor", 2: "wl_shm", 3: "xdg_wm_base"}
# The interface of the object that a request makes; its number comes first.
NEW = {
    ("wl_display", 0): "wl_callback",
    ("wl_display", 1): "wl_registry",
    ("wl_compositor", 0): "wl_surface",
    ("wl_shm", 0): "wl_shm_pool",
    ("wl_shm_pool", 0): "wl_buffer",
    ("wl_surface", 3): "wl_callback",
    ("xdg_wm_base", 2): "xdg_surface",
    ("xdg_surface", 1): "xdg_toplevel",
}


class Client:
    """One connection, until it ends."""

    def __init__(self, connection):
        self.connection, self.kinds = connection, {1: "wl_display"}
        self.pools, self.buffers, self.acknowledged = {}, {}, False
        self.attached = self.frame = None

    def tell(self, thing, opcode, data=b""):
        head = struct.pack("=II", thing, (8 + len(data)) << 16 | opcode)
        self.connection.sendall(head + data)

    def take(self, size):
        """Read so many bytes, and keep the descriptors that come with them."""
        data = b""
        while len(data) < size:
            part, fds, _, _ = socket.recv_fds(self.connection, size - len(data), 4)
            self.fds += fds
            if not part:
                raise EOFError
            data += part
        return data

    def serve(self):
        self.fds = []
        while True:
            thing, word = struct.unpack("=II", self.take(8))
            data = self.take((word >> 16) - 8)
            self.answer(thing, (self.kinds[thing], word & 0xFFFF), data)

    def answer(self, thing, request, data):
        numbers = struct.unpack(f"={len(data) // 4}I", data)
        if request in NEW:
            self.kinds[numbers[0]] = NEW[request]
        match request:
            case "wl_display", 0:
                self.tell(numbers[0], 0, struct.pack("=I", 0))
            case "wl_display", 1:
                for name, interface in GLOBALS.items():
                    text = interface.encode() + b"\0"
                    text += bytes(-len(text) % 4)
                    said = struct.pack("=II", name, len(interface) + 1) + text
                    self.tell(numbers[0], 0, said + struct.pack("=I", 1))
            case "wl_registry", 0:
                self.kinds[numbers[-1]] = GLOBALS[numbers[0]]
                if GLOBALS[numbers[0]] == "xdg_wm_base":
                    self.tell(numbers[-1], 0, struct.pack("=I", 77))  # ping
            case "xdg_wm_base", 3:
                assert numbers == (77,)
            case "wl_shm", 0:
                self.pools[numbers[0]] = self.fds.pop(0), numbers[1]
            case "wl_shm_pool", 0:
                self.buffers[numbers[0]] = (*self.pools[thing], *numbers[1:])
            case "wl_surface", 1:
                assert self.acknowledged, "a buffer before the first configure"
                self.attached = numbers[0]
            case "wl_surface", 3:
                self.frame = numbers[0]
            case "wl_surface", 6:
                self.commit()
            case "xdg_surface", 4:
                assert numbers == (78,)
                self.acknowledged = True

    def commit(self):
        if self.attached is None:
            (window,) = (n for n, kind in self.kinds.items() if kind == "xdg_surface")
            self.tell(window, 0, struct.pack("=I", 78))  # configure
            return
        fd, size, offset, width, height, stride, _ = self.buffers[self.attached]
        with mmap.mmap(fd, size) as pool:
            corners = [
                pool[offset + y * stride + 4 * x :][:4].hex()
                for y in (0, height - 1)
                for x in (0, width - 1)
            ]
        shrinks = not memfd.get_seals(fd) & memfd.Seal.SHRINK
        print(f"{width}x{height}", *corners, "shrinks" if shrinks else "", flush=True)
        self.tell(self.attached, 0)  # release
        self.tell(self.frame, 0, struct.pack("=I", 0))


with socket.socket(socket.AF_UNIX) as listener:
    path = os.path.join(os.environ.get("XDG_RUNTIME_DIR", ""), sys.argv[1])
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)  # who sees it can connect
    while True:
        connection, _ = listener.accept()
        client = Client(connection)
        with connection:
            with contextlib.suppress(EOFError, ConnectionResetError):
                client.serve()
            for fd, _ in client.pools.values():
                os.close(fd)
