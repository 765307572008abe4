"""What a step has to raise, where it may not be done."""

import errno


class Refused(Exception):
    """What a step has to raise: the type, the errno, and the pids in the message."""

    def __init__(self, kind, number=None, pids=()):
        self.outcome = kind.__name__, number, sorted(pids)


def eperm():
    return Refused(PermissionError, errno.EPERM)
