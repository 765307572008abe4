"""Sum the columns of arrays that strangers send: python server.py SOCKET"""

import socket
import sys

import memfd


def check(array):
    """Raise unless this is an array that takes no more work than its file is large."""
    if not isinstance(array, memfd.Array):
        raise ValueError("several arrays")
    if array.dtype != "<f8" or array.ndim not in (1, 2):
        raise ValueError(f"{array.ndim} dimensions of {array.dtype}")
    # A view may repeat its bytes, and no rows may have endless columns.
    if array.size == 0 or not array.flags.c_contiguous:
        raise ValueError(f"shape {array.shape}, strides {array.strides}")


def serve(client):
    array = memfd.recv_array(client, max_size=1 << 26)
    check(array)
    memfd.send(client, memfd.share(array.sum(axis=0)).memfd)


with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("listening at", sys.argv[1], flush=True)
    while True:
        client, _ = listener.accept()
        with client:
            client.settimeout(5)
            try:
                serve(client)
            except (ValueError, EOFError, OSError) as error:
                print("refused:", error, file=sys.stderr, flush=True)
