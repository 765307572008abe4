"""What a process has that no object stands for: it has to be none in the end."""

import os

UNRAISABLE = []  # what was raised where nobody catches it, such as a ResourceWarning


def open_descriptors():
    """Return what each open descriptor of this process refers to."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[entry] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:  # the one that lists
            continue
    return found


def memfd_mappings():
    """Return the lines of /proc/self/maps that map a memfd."""
    with open("/proc/self/maps", errors="replace") as maps:
        return sorted(line for line in maps if "/memfd:" in line)
