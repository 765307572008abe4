"""The file: `Memfd` owns one descriptor of a memfd and adopts foreign ones after checks."""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os

from memfd import _core, _descriptors, _fill, _foreign, _mapping, _position

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Literal, NoReturn, SupportsIndex

    from typing_extensions import Buffer

    from memfd._descriptors import Descriptors
    from memfd._info import Info
    from memfd._seal import Seal
    from memfd._types import Huge, Mode, Name

# guard: sealed for ever -> _SEALED = _core.IMMUTABLE
_SEALED = _core.IMMUTABLE | _core.F_SEAL_SEAL
_FLAGS = _core.MFD_ALLOW_SEALING | _core.MFD_NOEXEC_SEAL
_FLAGS |= _core.MFD_CLOEXEC  # guard: close-on-exec of what is created
_COPY_STEP = 256 << 10

_HUGETLB_SIZES = {
    64 << 10: _core.MFD_HUGE_64KB,
    512 << 10: _core.MFD_HUGE_512KB,
    1 << 20: _core.MFD_HUGE_1MB,
    2 << 20: _core.MFD_HUGE_2MB,
    8 << 20: _core.MFD_HUGE_8MB,
    16 << 20: _core.MFD_HUGE_16MB,
    32 << 20: _core.MFD_HUGE_32MB,
    256 << 20: _core.MFD_HUGE_256MB,
    512 << 20: _core.MFD_HUGE_512MB,
    1 << 30: _core.MFD_HUGE_1GB,
    2 << 30: _core.MFD_HUGE_2GB,
    16 << 30: _core.MFD_HUGE_16GB,
}


def create(
    name: Name = "",
    size: SupportsIndex = 0,
    *,
    sealable: bool = True,
    inheritable: bool = False,
    executable: bool = False,
    hugetlb: bool | int | None = None,
) -> Memfd:
    """Create an anonymous file in memory.

    Parameters
    ----------
    name : str, bytes or os.PathLike, optional
        A label of at most 249 encoded bytes; not unique, and visible to others in /proc.
    size : int, optional
        Size in bytes.  The bytes are zero and take no memory until they are touched.
    sealable : bool, optional
        Whether seals can be added.
    inheritable : bool, optional
        Whether programs started from here inherit the descriptor.
    executable : bool, optional
        Whether the file may be executed.  Asks for ``MFD_EXEC``; else the executable
        bits are off and (since Linux 6.3) sealed off.
    hugetlb : bool or int, optional
        Take pages from the hugetlb pool: True for its default size, or the size of a
        page in bytes.  `size` is then a multiple of it, and the file can be mapped but
        not written.

    Returns
    -------
    Memfd
        Open for reading and writing, at offset 0, with mode 0644 (0755 if executable).

    Raises
    ------
    ValueError
        `name` is too long or contains a null byte, `size` is negative, `hugetlb` is no
        size of huge pages.
    OSError
        ``EACCES``: `executable` although ``vm.memfd_noexec`` is 2.
        ``EMFILE``, ``ENFILE``: too many open files.  ``EFBIG``: beyond RLIMIT_FSIZE.
        ``ENODEV``: no huge pages of this size.
        ``ENOSYS``, ``EPERM``: Linux before 3.17, or a seccomp filter.

    See Also
    --------
    memfd_create : the system call as it is.

    Examples
    --------
    >>> import memfd
    >>> with memfd.create("notes") as f:
    ...     f.write(b"nobody else sees this")
    21
    """
    flags = _FLAGS
    if executable:
        flags ^= _core.MFD_NOEXEC_SEAL | _core.MFD_EXEC
    if not sealable:
        flags ^= _core.MFD_ALLOW_SEALING
    if inheritable:
        flags ^= _core.MFD_CLOEXEC
    if hugetlb is not None and hugetlb is not False:
        flags |= _core.MFD_HUGETLB
        if hugetlb is not True:
            if hugetlb not in _HUGETLB_SIZES:
                raise ValueError(
                    f"hugetlb must be True or one of {sorted(_HUGETLB_SIZES)} bytes, "
                    f"got {hugetlb!r}"
                )
            flags |= _HUGETLB_SIZES[hugetlb]
    mode = 0o755 if executable else 0o644
    return _core.new(Memfd, name, size, flags, mode, sealable)


def from_bytes(
    data: Buffer,
    name: Name = "",
    *,
    huge: Huge = "auto",
    threads: SupportsIndex = 1,
) -> Memfd:
    """Create a memfd that holds `data`, for ever: sealed, at offset 0.

    Parameters
    ----------
    data : bytes-like
        A C-contiguous buffer.
    name : str, bytes or os.PathLike, optional
        A label, as for `create`.
    huge : {"auto", "always", "never"}, optional
        Copy into huge pages: where they are quicker; wherever they can be had; or not.
    threads : int, optional
        Threads that copy, each at least 16 MiB.

    Returns
    -------
    Memfd
        With ``Seal.IMMUTABLE`` and ``Seal.SEAL``: nobody can change it any more.

    Raises
    ------
    TypeError
        `data` is no buffer.
    ValueError
        `huge` is unknown, or `threads` is below 1.
    OSError
        As for `create`; ``EFBIG``: beyond RLIMIT_FSIZE.

    Examples
    --------
    >>> import memfd
    >>> memfd.from_bytes(b"anonymous").read()
    b'anonymous'
    """
    huge, threads = _fill.check(huge, threads)

    def fill(f: Memfd, huge: Huge) -> None:
        _fill.fill(f, data, huge=huge, threads=threads)

    return filled(name, fill, huge)


def filled(
    name: Name,
    fill: Callable[[Memfd, Huge], None],
    huge: Huge,
    seals: int = _SEALED,
) -> Memfd:
    """Return a new memfd that ``fill(memfd, huge)`` filled, sealed."""
    f = create(name)
    try:
        fill(f, huge)
        _core.add_seal_bits(f, seals)
    except BaseException as error:
        f.close()
        # A child that was forked in C meanwhile may hold what we copied through.
        if getattr(error, "errno", None) != errno.EBUSY or huge == "never":
            raise
    else:
        return f
    return filled(name, fill, "never", seals)


def opened(
    x: Memfd | SupportsIndex | Name,
    mode: Mode,
    require: int | None,
    max_size: SupportsIndex | None,
    dense: bool,
) -> Memfd:
    """Return a Memfd that was given, or a new one for a descriptor or a path, checked."""
    require, max_size = _core.check_requirements(require, max_size)
    if isinstance(x, Memfd):
        _core.keeping(_foreign.check_seals, x, require)  # guard: opened Memfd
        return x
    if isinstance(x, (str, bytes, os.PathLike)):
        access = os.O_RDWR if mode == "r+" else os.O_RDONLY
        descriptors = _descriptors.opened(x, access)
    # Integers of NumPy are descriptors, too; an array of one is none, and has a length.
    elif hasattr(x, "__index__") and not hasattr(x, "__len__") and type(x) is not bool:
        descriptors = _descriptors.duplicate(x.__index__())
    else:
        hint = ""
        if hasattr(type(x), "memfd"):
            hint = "; memfd.attach() takes it"
        elif hasattr(x, "__array__"):
            hint = "; memfd.share() copies arrays into a memfd"
        raise TypeError(
            f"x must be a Memfd, a descriptor or a path, not {type(x).__name__}{hint}"
        )
    return adopt_owned(descriptors, require, max_size, dense, copy=False)


class _Name:
    """The name of a memfd that came from elsewhere, asked for when it is first needed."""

    def __get__(self, f: Memfd | None, cls: type[Memfd]) -> str:
        if f is None or f.closed:
            return ""
        try:
            f.name = name = _core.keeping(_label, f)
        except ValueError:  # closed meanwhile
            return ""
        return name


def _label(f: Memfd) -> str:
    return _foreign.label(f.fileno())


class Memfd(io.FileIO):
    """An anonymous file in memory, and the one owner of its descriptor.

    It is an unbuffered binary file with everything that `io.FileIO` offers.  Make one
    with `create`, `from_bytes` or `Memfd.from_fd`.  The memory goes with its last user:
    descriptor, mapping or array, in any process.

    Attributes
    ----------
    name : str
        The label given at creation.

    Notes
    -----
    One thread may close it while others use it: their calls succeed or raise ValueError,
    and never reach a file that got the number of the descriptor after that.  It is closed
    silently when nothing refers to it any more.

    Examples
    --------
    >>> import memfd
    >>> with memfd.create("log", size=2) as f:
    ...     print(f.size, f.seals & memfd.Seal.SHRINK)
    2 0
    """

    # Not kept from being set: FileIO and `create` do so.
    if TYPE_CHECKING:
        name: str
    else:
        name = _Name()

    # A received descriptor shares its offset with the sender until it is re-opened; where
    # that is not possible, this is its own one.
    _foreign: bool | str = False
    _position = 0

    # What tells a frame in a block that is used again from later ones.
    _mark: tuple[int, bytes] | None = None

    # A weak reference to what is kept for processes that it was sent to.
    _loan: Any = None

    # FileIO knows the number of the descriptor, and this owns it; see `_core.keep`.
    _descriptor: _core.Descriptor | None = None

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError(
            "use memfd.create(), memfd.from_bytes() or Memfd.from_fd(), not Memfd()"
        )

    # The descriptor goes with its owner.
    if TYPE_CHECKING:

        def __del__(self) -> None: ...
    else:
        __del__ = io.FileIO.close

    def _dealloc_warn(self, source: object) -> None:
        """Keep a dropped BufferedReader over this file from warning."""

    def __repr__(self) -> str:
        name = getattr(self, "name", "")
        try:
            fd, size, seals = self.fileno(), self.size, _foreign.describe(self.seals)
        except ValueError:
            return f"<memfd.Memfd {name!r} closed>"
        return (
            f"<memfd.Memfd {name!r} fd={fd} size={size} ({readable(size)}) "
            f"seals={seals}>"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            "a Memfd can only be pickled on its way to another process "
            "(multiprocessing); pickle its contents instead: f.read()"
        )

    @classmethod
    def from_fd(
        cls,
        fd: SupportsIndex,
        *,
        require: Seal | int | None = _core.IMMUTABLE,
        max_size: SupportsIndex | None = None,
        dense: bool = True,
        copy: bool = False,
        hugetlb: bool = False,
    ) -> Memfd:
        """Adopt a descriptor that came from somebody else, after checking it.

        On success the Memfd owns `fd`; on failure `fd` is still the caller's, unchanged.

        Parameters
        ----------
        fd : int
            A descriptor of a memfd, open for reading.
        require : Seal or None, optional
            Seals that must be there.  The default, ``Seal.IMMUTABLE``, proves that neither
            data nor size can ever change.  None: I trust the sender; only what `fd` is
            gets checked.
        max_size : int, optional
            Largest size in bytes to accept.  By default none for a dense file, else half
            of what physical memory and the memory cgroup allow.
        dense : bool, optional
            Refuse a file with holes: reading a hole through a mapping takes memory of
            the reader, so a sparse file can exhaust it.  Not checked without `require`.
        copy : bool, optional
            If the seals are missing, copy the contents into a new, sealed memfd instead
            of refusing; a sparse file is refused all the same, where the kernel tells.
            That takes as long and as much memory as `max_size` allows.
        hugetlb : bool, optional
            Accept a file made of pages of the hugetlb pool.

        Returns
        -------
        Memfd
            Not inheritable, reading from 0, sharing no offset with the sender: it is
            re-opened at the first read or seek, and keeps an offset of its own where
            that is not possible.  Programs that get its descriptor before that, as
            their standard input for one, read where the sender's offset is.

        Raises
        ------
        SealError
            Required seals are missing (``.missing``, ``.present``), or the executable
            bits say that they may be forged.
        ValueError
            `fd` is not open for reading, no memfd, too large, sparse, or hugetlb; or it
            cannot be told whether it is sparse: before Linux 6.5, or of another user's
            file that is read-only, where it cannot be opened again or others can write.
        OSError
            ``EBADF``: `fd` is closed, or ``O_PATH``.  ``EMFILE``: no descriptor is left;
            before Linux 6.5 looking for holes takes one more.

        Notes
        -----
        Seals are looked at before the size, since only a sealed size stays.  From Linux
        6.3 until mid-2026 (fixed in 7.0.12 and the stable kernels of that time)
        ``F_SEAL_EXEC`` on a file with executable bits reported ``F_SEAL_WRITE`` without
        checking for writable mappings; such files are refused.

        Examples
        --------
        >>> import memfd, os
        >>> sent = memfd.from_bytes(b"data")
        >>> memfd.Memfd.from_fd(os.dup(sent.fileno())).read()
        b'data'
        >>> sent = memfd.create(size=4)
        >>> memfd.Memfd.from_fd(sent.fileno())
        Traceback (most recent call last):
        ...
        memfd.SealError: fd ... lacks seals SHRINK|GROW|WRITE (it has ...)
        """
        fd = _core.check_size(fd, "fd")
        require, max_size = _core.check_requirements(require, max_size)
        size, _, must_copy = _foreign.check(fd, require, max_size, dense, copy, hugetlb)
        if must_copy:
            f = _copy(fd, size)
            os.close(fd)
            return f
        return adopt(fd, cls)

    def close(self) -> None:
        """Close the file.  Closing twice does nothing.

        The memory goes with its last user.  Methods that other threads are in the middle
        of end as if they had come before, or raise ValueError; the number of the
        descriptor is not used again before they have.

        Raises
        ------
        OSError
            ``EBADF``: somebody else has closed the descriptor; the file is closed now.
        """
        io.FileIO.close(self)
        _core.release(self)

    @property
    def size(self) -> int:
        """int: Size in bytes, as the kernel has it now."""
        return _core.get_size(self)

    @property
    def seals(self) -> Seal:
        """Seal: All seals, as the kernel has them now."""
        return _core.get_seals(self)

    def info(self) -> Info:
        """Ask the kernel how much memory the file takes.

        Returns
        -------
        tuple
            Named: ``size``, of the file; ``resident``, the memory that it takes, without
            its holes and with what a last huge page has past the end; ``huge``, how much
            of that a mapping gets in huge pages, or None where the kernel does not tell.
            All in bytes.

        Notes
        -----
        ``resident`` counts swapped pages, too.  For ``huge`` the file is mapped for a
        moment and ``ShmemPmdMapped`` read from /proc/self/smaps, which takes
        milliseconds in a large process; it needs Linux 5.14.

        Examples
        --------
        >>> import memfd
        >>> memfd.create(size=1 << 20).info()
        Info(size=1048576, resident=0, huge=0)
        """
        from memfd import _info

        return _core.keeping(_info.info, self)

    @property
    def path(self) -> str:
        """str: ``/proc/self/fd/N``, for code that wants a path.

        Opening it gives a description of its own, with its own offset.  A child that was
        given the descriptor (``pass_fds``, ``inheritable=True``) opens the same path.
        """
        return f"/proc/self/fd/{self.fileno()}"

    def seal(self, seals: Seal | int = _SEALED, /) -> Seal:
        """Forbid changes, for good, to everyone who holds the file.

        Parameters
        ----------
        seals : Seal, optional
            Seals to add: by default ``Seal.IMMUTABLE | Seal.SEAL``, and no further ones.

        Returns
        -------
        Seal
            All seals now set.  Seals that are there already are no error.

        Raises
        ------
        BufferError
            This process maps it writable; nothing was sealed.
        PermissionError
            ``EPERM``: the descriptor is open for reading only, or ``Seal.SEAL`` is set.
        OSError
            ``EBUSY``: another process maps it writable (the message names those that
            can be seen), or the kernel still sends its pages somewhere.
            ``EINVAL``: this kernel lacks one of `seals`.

        See Also
        --------
        freeze : seal an array that is still in use.

        Examples
        --------
        >>> import memfd
        >>> f = memfd.create(size=4096)
        >>> f.seal(memfd.Seal.SHRINK) & memfd.Seal.IMMUTABLE
        <Seal.SHRINK: 2>
        """
        return _core.keeping(_seal, self, seals)

    def truncate(self, size: SupportsIndex | None = None, /) -> int:
        """Change the size; new bytes are zero.

        Parameters
        ----------
        size : int, optional
            New size in bytes; the current position by default.

        Returns
        -------
        int
            The new size.

        Raises
        ------
        BufferError
            It would shrink while this process maps it: memory beyond the end would
            answer with SIGBUS.  Nothing has changed.
        ValueError
            `size` is negative, or the file is closed.
        PermissionError
            ``EPERM``: sealed against this.
        OSError
            ``EINVAL``: the descriptor is open for reading only.
            ``EFBIG``: beyond RLIMIT_FSIZE.

        Examples
        --------
        >>> import memfd
        >>> memfd.create().truncate(4096)
        4096
        """
        if size is not None:
            size = _core.check_size(size)
        return _core.keeping(_truncate, self, size)

    def reopen(self, mode: Literal["r", "r+"] = "r") -> Memfd:
        """Open the same file again, with an offset and access mode of its own.

        Parameters
        ----------
        mode : {"r", "r+"}, optional
            For reading only, or for reading and writing.

        Returns
        -------
        Memfd
            At offset 0.

        Raises
        ------
        PermissionError
            ``EACCES``: the mode of the file forbids it to this user.
        FileNotFoundError
            ``ENOENT``: /proc is not mounted.

        Notes
        -----
        A read-only descriptor is a convenience and no protection: the same user can
        re-open it for writing.  Only seals protect.

        Examples
        --------
        >>> import memfd
        >>> memfd.from_bytes(b"data").reopen().read()
        b'data'
        """
        if mode not in ("r", "r+"):
            raise ValueError(f'mode must be "r" or "r+", got {mode!r}')
        access = os.O_RDONLY if mode == "r" else os.O_RDWR
        return _core.keeping(_reopened, self, access, mode + "b")

    def mmap(
        self,
        mode: Mode = "r",
        offset: SupportsIndex = 0,
        size: SupportsIndex | None = None,
    ) -> mmap.mmap:
        """Map the file and return the standard library's object.

        Parameters
        ----------
        mode : {"r", "r+", "c"}, optional
            Read-only; shared and writable; or private copy-on-write.
        offset : int, optional
            Where to begin, in bytes; a multiple of the page size.
        size : int, optional
            Bytes to map, to the end of the file by default.

        Returns
        -------
        mmap.mmap
            It keeps a duplicate of the descriptor until it is closed.

        Raises
        ------
        ValueError
            `mode` is none of the three, the file is empty, `offset` is not at a page
            boundary, or the part reaches past the end of the file.
        PermissionError
            "r+" of a memfd sealed against writing, or of a read-only descriptor.

        See Also
        --------
        Mapping : holds no descriptor and cannot be closed under an array.

        Examples
        --------
        >>> import memfd
        >>> with memfd.from_bytes(b"data").mmap() as m:
        ...     m[:2]
        b'da'
        """
        _mapping.check_mode(mode)
        return _core.keeping(_mapped, self, mode, offset, size)

    def write(self, data: Buffer, /) -> int:
        """Write all of `data` at the current position, or raise.

        Parameters
        ----------
        data : bytes-like
            A C-contiguous buffer.

        Returns
        -------
        int
            The number of bytes in `data`.

        Raises
        ------
        PermissionError
            ``EPERM``: sealed with ``Seal.WRITE`` or ``Seal.FUTURE_WRITE``, or with
            ``Seal.GROW`` and `data` reaches past the end (some of what fits may be
            written).
        OSError
            ``EFBIG``: beyond RLIMIT_FSIZE.  ``EINVAL``: a hugetlb memfd, which can only
            be mapped.

        Examples
        --------
        >>> import memfd
        >>> memfd.create().write(b"data")
        4
        """
        return _core.keeping(_write, self, data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes from the current position, all by default."""
        if self._foreign and not _descriptors.leave_description(self):
            return _core.keeping(_position.read, self, size)
        return _core.keeping(io.FileIO.read, self, size)

    def readall(self) -> bytes:
        """Read everything from the current position to the end."""
        if self._foreign and not _descriptors.leave_description(self):
            return _core.keeping(_position.readall, self)
        return _core.keeping(io.FileIO.readall, self)

    def readinto(self, buffer: Buffer, /) -> int:
        """Read into a writable buffer and return the number of bytes."""
        if self._foreign and not _descriptors.leave_description(self):
            return _core.keeping(_position.readinto, self, buffer)
        return _core.keeping(io.FileIO.readinto, self, buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the current position and return it."""
        if self._foreign and not _descriptors.leave_description(self):
            return _core.keeping(_position.seek, self, offset, whence)
        return _core.keeping(io.FileIO.seek, self, offset, whence)

    def tell(self) -> int:
        """Return the current position."""
        if self._foreign and not _descriptors.leave_description(self):
            return self._position
        return _core.keeping(io.FileIO.tell, self)


# --- what needs a descriptor several times: called through `_core.keeping` -------------


def _seal(f: Memfd, seals: int) -> Seal:
    if _core.seal_bits(f) & seals != seals:
        add_seals(f, seals)
    return f.seals


def _truncate(f: Memfd, size: int | None) -> int:
    if size is None:
        size = f.tell()
    status = os.fstat(f.fileno())
    if size < status.st_size and not _core.seal_bits(f) & _core.F_SEAL_SHRINK:
        mapped = _mapping.live(status.st_dev, status.st_ino)
        if mapped:  # guard: size under a mapping
            raise BufferError(
                f"cannot shrink from {status.st_size} to {size} bytes: mapped "
                f"{len(mapped)} times here; close the mappings and arrays first"
            )
    _core.set_size(f, size)
    return size


def _reopened(f: Memfd, access: int, mode: str) -> Memfd:
    again = _descriptors.opened(f.path, access).take(Memfd, mode)
    again.name = f.name
    return again


def _mapped(
    f: Memfd, mode: Mode, offset: SupportsIndex, size: SupportsIndex | None
) -> mmap.mmap:
    status = os.fstat(f.fileno())
    offset, size = _mapping.extent(status.st_size, offset, size)
    flags = mmap.MAP_SHARED if mode == "r+" else mmap.MAP_PRIVATE
    prot = mmap.PROT_READ if mode == "r" else mmap.PROT_READ | mmap.PROT_WRITE
    mapped = mmap.mmap(f.fileno(), size, flags, prot, offset=offset)
    _mapping.remember(mapped, status.st_dev, status.st_ino)  # guard: mmap objects, too
    return mapped


def _write(f: Memfd, data: Buffer) -> int:
    write: Callable[[Memfd, Buffer], int] = io.FileIO.write
    if f._foreign and not _descriptors.leave_description(f):
        write = _position.write
    with memoryview(data) as view:
        size = view.nbytes
        large = 0 < _mapping.HUGE_PAGE_SIZE <= size
        if large and _write_huge(f, data, size):
            return size
        wrote = write(f, data)
        if wrote == size:
            return size
        flat = view.cast("B")
        while wrote < size:
            wrote += write(f, flat[wrote:])
    return size


def _write_huge(f: Memfd, data: Buffer, size: int) -> bool:
    """Write all of `data` into new huge pages, or nothing where there are pages."""
    # guard: opened for appending -> if not f.writable():
    if not f.writable() or fcntl.fcntl(f, fcntl.F_GETFL) & os.O_APPEND:
        return False
    start, status = f.tell(), os.fstat(f.fileno())
    # Pages that are there are quicker to write to than to replace.
    if status.st_blocks * 512 > start + status.st_blksize:
        return False
    # First the position: who writes meanwhile, here or in a child, writes elsewhere.
    try:
        start = f.seek(size, os.SEEK_CUR) - size
    except OSError:  # past 2**63
        return False
    try:
        _fill.fill(f, data, start, alone=False)
    except BaseException:
        f.seek(-size, os.SEEK_CUR)  # guard: position after a failed write -> pass
        raise
    return True


# --- descriptors that were there before ------------------------------------------------


def adopt(fd: int, cls: type[Memfd] = Memfd) -> Memfd:
    """Own a descriptor that was checked, or that comes from this very program."""
    access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    os.set_inheritable(fd, False)  # guard: not inheritable
    return _descriptors.adopt(cls, fd, "rb" if access == os.O_RDONLY else "r+b")


def adopt_owned(
    descriptors: Descriptors,
    require: int | None,
    max_size: int | None,
    dense: bool,
    copy: bool,
    hugetlb: bool = False,
) -> Memfd:
    """Own the one descriptor there is after the checks of `from_fd`, or close it."""
    try:
        fd = descriptors[0]
        size, is_writable, must_copy = _foreign.check(
            fd, require, max_size, dense, copy, hugetlb
        )
        if must_copy:
            return _copy(fd, size)
        f = descriptors.take(Memfd, "r+b" if is_writable else "rb")
    finally:
        descriptors.close()
    del f.name
    f._foreign = True  # guard: offset of what came
    return f


def add_seals(f: Memfd, seals: int) -> None:
    """Add seals, or raise what says who is in the way."""
    try:
        _core.add_seal_bits(f, seals)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise busy(f) from None


def busy(f: Memfd, pids: list[int] | None = None) -> OSError | BufferError:
    """Return the exception for a memfd that others map writable, `pids` if known."""
    status = os.fstat(f.fileno())
    ours = [
        mapping
        for mapping in _mapping.live(status.st_dev, status.st_ino)
        if getattr(mapping, "mode", "r+") == "r+"
    ]
    if pids is None:
        pids = sharing_pids(f)
    # The standard library's mappings do not tell whether they are private.
    if os.getpid() in pids or (ours and not pids):  # guard: mapped by this process
        what = f"{len(ours)} mappings of it" if ours else "a mapping that is not ours"
        return BufferError(
            f"cannot seal {f!r} against writing: {what} in this process can write; "
            "close the mappings and drop the arrays, or memfd.freeze() the array"
        )
    who = ", ".join(map(str, pids)) if pids else "a process that cannot be seen"
    return OSError(
        errno.EBUSY,
        f"{os.strerror(errno.EBUSY)}: mapped writable by {who} (or its pages are still "
        "being sent); they have to close it first",
    )


def sharing_pids(f: Memfd, besides: Iterable[int] = ()) -> list[int]:
    """Return who is seen to map a memfd shared, but for some addresses of this process."""
    status = os.fstat(f.fileno())
    try:
        from memfd import _proc  # with typing and re, which take a while

        return _proc.sharing_pids(status.st_dev, status.st_ino, besides)
    except (ImportError, OSError):  # nothing left to read it with
        return []


def readable(size: float) -> str:
    """Return a size in bytes as a person would write it."""
    if size < 1024:
        return f"{size} B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):  # noqa: B007 (used after the loop)
        size /= 1024
        if size < 1024:
            break
    return f"{size:.4g} {unit}"


def _copy(fd: int, size: int) -> Memfd:
    """Return a sealed Memfd with the first `size` bytes of `fd`, read without mapping."""

    def fill(f: Memfd, huge: Huge) -> None:
        _core.set_size(f, size)
        buffer = bytearray(min(_COPY_STEP, size))
        done = 0
        with _fill.Filler(f, 0, size, huge) as filler:
            while done < size:
                got = os.preadv(fd, [buffer], done)
                if not got:  # guard: copy of what shrinks
                    raise ValueError(
                        f"fd {fd} shrank from {size} bytes while it was copied"
                    )
                got = min(got, size - done)  # guard: copy of what grows
                filler.write(buffer, done, 0, got)
                done += got

    # A file of a tmpfs may have a longer one.
    name = os.fsencode(_foreign.label(fd))[: _core.NAME_MAX]
    return filled(name, fill, "auto")
