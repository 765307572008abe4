"""The C side: compiles fill.c and small.c, and calls them inside this process."""

import ctypes
import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).parent
MAP, WRITE, HUGE = range(3)


class Native:
    """Functions that return seconds, or raise OSError."""

    def __init__(self, folder):
        self._fill = _compiled("fill", folder)
        for name in ("fill", "look", "give_up", "share"):
            getattr(self._fill, name).restype = ctypes.c_double
        self._small = _compiled("small", folder)

    def fill(self, way, source, count=1, threads=1):
        """Return what one memfd of the array `source` takes, with its teardown."""
        address, size = ctypes.c_void_p(source.ctypes.data), source.nbytes
        return _checked(
            self._fill.fill(way, address, ctypes.c_size_t(size), threads, count)
        )

    def look(self, way, source, every):
        """Return what mapping such a memfd, looking at it and unmapping it takes."""
        address, size = ctypes.c_void_p(source.ctypes.data), source.nbytes
        return _checked(
            self._fill.look(way, address, ctypes.c_size_t(size), int(every))
        )

    def share(self, way, source, workers, threads=1, step=4096):
        """Return what it takes until `workers` processes touched a byte every `step`."""
        address, size = (
            ctypes.c_void_p(source.ctypes.data),
            ctypes.c_size_t(source.nbytes),
        )
        # The first time in new processes is not what is measured.
        step = ctypes.c_size_t(step)
        return _checked(self._fill.share(way, address, size, threads, workers, step, 2))

    def give_up(self, size, freeze=False, huge=False):
        """Return what unmapping, or freezing, memory takes whose pages were touched."""
        return _checked(self._fill.give_up(ctypes.c_size_t(size), freeze, huge))

    def small(self, count):
        """Return what create, size, map, touch, unmap, close take for 4 KiB."""
        microseconds = (ctypes.c_double * 2)()
        if self._small.measure(count, microseconds):
            raise OSError("small.c failed")
        return microseconds[1] / 1e6


def _compiled(name, folder):
    library = pathlib.Path(folder) / f"{name}.so"
    flags = ["-O2", "-shared", "-fPIC", "-pthread"]
    subprocess.run(["cc", *flags, "-o", library, HERE / f"{name}.c"], check=True)
    return ctypes.CDLL(str(library))


def _checked(seconds):
    if seconds < 0:
        number = int(-seconds)
        raise OSError(number, os.strerror(number))
    return seconds
