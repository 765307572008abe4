import io
import socket

from memfd._descriptors import Descriptors

def unix_type(sock: socket.socket, /) -> int | None: ...
def send(sock: socket.socket, data: bytes, file: io.FileIO | None, /) -> int: ...
def receive(
    sock: socket.socket, size: int, /
) -> tuple[bytes, Descriptors | None, bool] | None: ...
