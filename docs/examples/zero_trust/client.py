"""Send an array and print its sums: python client.py SOCKET ROWS [COLUMNS]"""

import math
import socket
import sys

import numpy as np

import memfd

shape = tuple(map(int, sys.argv[2:]))
array = np.arange(float(math.prod(shape))).reshape(shape)

with socket.socket(socket.AF_UNIX) as server:
    server.settimeout(5)
    server.connect(sys.argv[1])
    memfd.send(server, memfd.share(array).memfd)
    try:
        sums = memfd.recv_array(server, max_size=1 << 26)
    except (ValueError, EOFError, OSError) as error:
        sys.exit(f"refused: {error}")
if not isinstance(sums, memfd.Array):
    sys.exit("refused: several arrays")
if sums.dtype != "<f8" or sums.shape != shape[1:]:
    sys.exit(f"refused: {sums.dtype} of shape {sums.shape}")
for number in sums.flat:
    print(f"{number:.17g}")
