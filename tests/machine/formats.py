"""What is in the files of the package's formats, and where their arrays begin."""

import io
import json

import numpy as np

MARK = b"the array begins here"  # in a dumped object; the byte after it says its length


def places_of(shape, start):
    count = int(np.prod(shape))
    return np.arange(start, start + count).reshape(shape)


def npy_header(shape):
    """Return what numpy.save writes before the data of bytes."""
    head = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(head, fields)
    return head.getvalue()


def table_of(data):
    """Return the places of the arrays in a safetensors file, all of bytes."""
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(bytes(data[8 : 8 + length]))
    table = {}
    for name, entry in entries.items():
        assert entry["dtype"] == "U8"
        begin, end = entry["data_offsets"]
        places = places_of(entry["shape"], 8 + length + begin)
        assert places.size == end - begin
        assert end + 8 + length <= len(data)
        table[name] = places
    return table
