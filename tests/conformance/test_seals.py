"""Seals: who may add them, to what, and what is in the way of Seal.WRITE."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import tempfile

import pytest

import memfd
from memfd import Mapping, Memfd, Seal, SealError


def kernel_add(file, seals):
    """Add seals by the system call."""
    fcntl.fcntl(file, memfd.F_ADD_SEALS, int(seals))


def seals_of(file):
    """Return the seals, which all ways of asking agree on."""
    seals = fcntl.fcntl(file, memfd.F_GET_SEALS)
    assert memfd.get_seals(file) == seals
    if isinstance(file, Memfd):
        assert file.seals == seals
    return Seal(seals)


ways = pytest.mark.parametrize(
    "add",
    [
        pytest.param(kernel_add, id="kernel"),
        pytest.param(memfd.add_seals, id="add_seals"),
        pytest.param(Memfd.seal, id="seal"),
    ],
)
calls = pytest.mark.parametrize(
    "add",
    [
        pytest.param(kernel_add, id="kernel"),
        pytest.param(memfd.add_seals, id="add_seals"),
    ],
)


@contextlib.contextmanager
def refused(number, file=None):
    """Expect an OSError with this number; the seals of the file stay as they are."""
    before = None if file is None else seals_of(file)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        yield
    assert caught.value.errno == number
    if file is not None:
        assert seals_of(file) == before


@contextlib.contextmanager
def busy(add, file):
    """Expect what adding says while this process maps the file; the seals stay."""
    if add is not Memfd.seal:
        with refused(errno.EBUSY, file):
            yield
        return
    before = seals_of(file)
    with pytest.raises(BufferError, match="in this process can write"):
        yield
    assert seals_of(file) == before


# --- adding ----------------------------------------------------------------------------

NOT_SEALABLE = [
    Seal(0),
    Seal.SHRINK,
    Seal.GROW,
    Seal.WRITE,
    Seal.FUTURE_WRITE,
    Seal.SEAL,
    Seal.IMMUTABLE,
]


@pytest.mark.row(24, "created not sealable", "seal SEAL; adding any seal is EPERM")
@pytest.mark.parametrize("seals", NOT_SEALABLE, ids=str)
@calls
def test_not_sealable(add, seals):
    """What was not made to be sealed is sealed against seals, also against none."""
    with memfd.create("x", size=8192, sealable=False) as f:
        assert seals_of(f) & ~Seal.EXEC == Seal.SEAL
        with refused(errno.EPERM, f):
            add(f, seals)
        os.pwrite(f.fileno(), b"written", 0)
        f.truncate(100)


@pytest.mark.row(24, "created not sealable", "seal SEAL; adding any seal is EPERM")
def test_not_sealable_says_so():
    """Memfd.seal says that no seal can be added, and is content with what is there."""
    with memfd.create("x", sealable=False) as f:
        with pytest.raises(PermissionError, match=r"Seal\.SEAL is set"):
            f.seal()
        assert f.seal(Seal.SEAL) & ~Seal.EXEC == Seal.SEAL


@pytest.mark.row(25, "created sealable", "no seals, but for EXEC")
@pytest.mark.parametrize(
    "flags", [memfd.MFD_ALLOW_SEALING, memfd.MFD_ALLOW_SEALING | memfd.MFD_CLOEXEC]
)
@pytest.mark.parametrize("call", [os.memfd_create, memfd.memfd_create])
def test_sealable(owned, call, flags):
    """What can be sealed is not sealed yet."""
    fd = owned(call("x", flags))
    assert seals_of(fd) & ~Seal.EXEC == 0
    kernel_add(fd, 0)
    assert seals_of(fd) & ~Seal.EXEC == 0


@pytest.mark.row(25, "created sealable", "no seals, but for EXEC")
def test_sealable_by_default(f):
    """create makes what can be sealed, and seals nothing but the x bits."""
    assert seals_of(f) & ~Seal.EXEC == 0


@pytest.mark.row(26, "SHRINK and WRITE, twice", "both times fine, the same seals")
@ways
def test_adding_again(f, add):
    """To add what is there changes nothing and is no error."""
    born = seals_of(f)
    for _ in range(2):
        add(f, Seal.SHRINK | Seal.WRITE)
        assert seals_of(f) == born | Seal.SHRINK | Seal.WRITE


@pytest.mark.row(27, "SEAL, then GROW, then none", "EPERM, EPERM")
@ways
def test_sealed_against_seals(f, add):
    """After SEAL nothing can be added, not even nothing."""
    add(f, Seal.SHRINK)
    add(f, Seal.SEAL)
    assert seals_of(f) & ~Seal.EXEC == Seal.SHRINK | Seal.SEAL
    with refused(errno.EPERM, f):
        add(f, Seal.GROW)
    for call in (kernel_add, memfd.add_seals):
        for seals in (Seal(0), Seal.SHRINK, Seal.SEAL):
            with refused(errno.EPERM, f):
                call(f, seals)


@pytest.mark.row(28, "a seal that no kernel knows", "EINVAL, and no seal is added")
@pytest.mark.parametrize("unknown", [0x40, 0x4000, 0x40000000])
@ways
def test_unknown_seal(f, add, unknown):
    """A seal that cannot be kept is refused, with all that were asked for with it."""
    with refused(errno.EINVAL, f):
        add(f, unknown)
    with refused(errno.EINVAL, f):
        add(f, unknown | Seal.IMMUTABLE)


@pytest.mark.row(29, "one seal after the other", "each time all that were added so far")
@ways
def test_seals_add_up(f, add):
    """A seal joins those that are there and takes none off."""
    expected = seals_of(f)
    for seal in (Seal.FUTURE_WRITE, Seal.GROW, Seal.SHRINK, Seal.WRITE, Seal.SEAL):
        answer = add(f, seal)
        expected |= seal
        assert seals_of(f) == expected
        assert answer in (None, expected)


# --- who adds --------------------------------------------------------------------------


@pytest.mark.row(30, "a duplicate of the descriptor", "the same seals, SEAL for both")
@calls
def test_duplicate(f, owned, add):
    """Seals are those of the file, not of the descriptor."""
    duplicate = owned(os.dup(f.fileno()))
    add(duplicate, Seal.GROW)
    assert Seal.GROW in seals_of(f)
    add(f, Seal.SHRINK)
    assert seals_of(duplicate) == seals_of(f)
    add(duplicate, Seal.SEAL)
    for file in (f, duplicate):
        with refused(errno.EPERM, f):
            add(file, Seal.WRITE)


@pytest.mark.row(31, "opened again for writing", "the same seals, added by either")
@ways
def test_opened_again(f, add):
    """A description of its own has the same seals, and may add."""
    with f.reopen("r+") as again:
        add(again, Seal.GROW)
        add(f, Seal.SHRINK)
        assert seals_of(again) == seals_of(f)
        assert seals_of(f) & ~Seal.EXEC == Seal.GROW | Seal.SHRINK
        add(again, Seal.SEAL)
        for file in (f, again):
            with refused(errno.EPERM, f):
                add(file, Seal.WRITE)


@pytest.mark.row(32, "a read-only descriptor", "its seals can be read; adding is EPERM")
@ways
def test_read_only_descriptor(f, add):
    """Who may only read may look at the seals and not add any."""
    with f.reopen() as reader:
        for seals in (Seal.GROW, Seal.WRITE, Seal.SEAL):
            with refused(errno.EPERM, f):
                add(reader, seals)
        with refused(errno.EPERM, f):
            kernel_add(reader, 0)
        add(f, Seal.GROW)
        assert seals_of(reader) == seals_of(f)
        assert Seal.GROW in seals_of(reader)


@pytest.mark.row(32, "a read-only descriptor", "its seals can be read; adding is EPERM")
def test_write_only_descriptor(f, owned):
    """Who may only write may do both."""
    fd = owned(os.open(f.path, os.O_WRONLY))
    assert Seal.GROW in memfd.add_seals(fd, Seal.GROW)
    assert seals_of(fd) == seals_of(f)


@pytest.mark.row(33, "SEAL added after a fork", "the child has it, too")
def test_forked_child(run):
    """Seals hold in every process, from the moment they are added."""
    run("""
        import os, sys
        import memfd
        from memfd import Seal

        f = memfd.create("x", size=10)
        there, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(tell)
            os.read(there, 1)
            assert f.seals & ~Seal.EXEC == Seal.SEAL, f.seals
            try:
                memfd.add_seals(f, Seal.GROW)
            except PermissionError:
                sys.exit()
            sys.exit("added")
        f.seal(Seal.SEAL)
        os.close(tell)
        assert os.waitpid(pid, 0)[1] == 0
    """)


# --- to what ---------------------------------------------------------------------------


@pytest.mark.row(34, "a file of a tmpfs", "seal SEAL; adding is EPERM")
def test_tmpfs_file():
    """An ordinary file of a tmpfs answers as a memfd that was not made to be sealed."""
    try:
        file = tempfile.TemporaryFile(dir="/dev/shm")
    except OSError as error:
        pytest.skip(f"no file in /dev/shm: {error}")
    with file:
        file.write(bytes(4096))
        file.flush()
        assert seals_of(file) == Seal.SEAL
        for seals in (Seal.GROW, Seal.WRITE, Seal(0)):
            for add in (kernel_add, memfd.add_seals):
                with refused(errno.EPERM, file):
                    add(file, seals)
        with pytest.raises(SealError) as caught:
            Memfd.from_fd(file.fileno())
        assert caught.value.missing == Seal.IMMUTABLE


def secret():
    """Return a descriptor of memfd_secret(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(447, 0)
    if fd == -1:
        pytest.skip(f"no memfd_secret(2): {os.strerror(ctypes.get_errno())}")
    return fd


def pipe_end(end):
    fds = list(os.pipe())
    fd = fds.pop(end)
    os.close(fds.pop())
    return fd


def eventfd():
    return os.eventfd(0)


OTHERS = [
    pytest.param(lambda: os.open(__file__, os.O_RDONLY), id="file"),
    pytest.param(lambda: os.open("/proc/self/status", os.O_RDONLY), id="file of /proc"),
    pytest.param(lambda: os.open("/", os.O_RDONLY), id="folder"),
    pytest.param(lambda: os.open("/dev/zero", os.O_RDWR), id="/dev/zero"),
    pytest.param(lambda: os.open("/dev/null", os.O_RDWR), id="/dev/null"),
    pytest.param(lambda: pipe_end(0), id="pipe to read"),
    pytest.param(lambda: pipe_end(1), id="pipe to write"),
    pytest.param(lambda: socket.socket(socket.AF_UNIX).detach(), id="socket"),
    pytest.param(eventfd, id="eventfd"),
    pytest.param(secret, id="memfd_secret"),
]


@pytest.mark.row(
    35, "what is no memfd: file, folder, pipe, socket, device", "EINVAL; says so"
)
@pytest.mark.parametrize("make", OTHERS)
def test_no_memfd(owned, make):
    """Only memfds and files of a tmpfs have seals at all."""
    fd = owned(make())
    with refused(errno.EINVAL):
        fcntl.fcntl(fd, memfd.F_GET_SEALS)
    with pytest.raises(OSError, match=f"descriptor {fd} is no memfd") as caught:
        memfd.get_seals(fd)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match=f"fd {fd} is not a memfd"):
        Memfd.from_fd(fd)
    writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    for add in (kernel_add, memfd.add_seals):
        with refused(errno.EINVAL if writable else errno.EPERM):
            add(fd, Seal.GROW)


@pytest.mark.row(36, "O_PATH, a closed descriptor", "EBADF")
@pytest.mark.parametrize("kind", ["O_PATH", "closed"])
def test_no_open_descriptor(f, owned, kind):
    """A descriptor that is not open for reading or writing has no seals to tell."""
    fd = os.open(f.path, os.O_PATH)
    if kind == "closed":
        os.close(fd)
    else:
        owned(fd)
    for ask in (
        lambda: fcntl.fcntl(fd, memfd.F_GET_SEALS),
        lambda: kernel_add(fd, Seal.GROW),
        lambda: memfd.get_seals(fd),
        lambda: memfd.add_seals(fd, Seal.GROW),
        lambda: Memfd.from_fd(fd),
    ):
        with refused(errno.EBADF, f):
            ask()


# --- what is in the way of Seal.WRITE --------------------------------------------------

MAPPED = [
    pytest.param(lambda f: mmap.mmap(f.fileno(), 0), id="kernel"),
    pytest.param(lambda f: Mapping(f, "r+"), id="Mapping"),
    pytest.param(lambda f: f.mmap("r+"), id="mmap"),
]
shared = pytest.mark.parametrize("map_it", MAPPED)


@pytest.mark.row(37, "WRITE while mapped shared and writable", "EBUSY, no seal added")
@shared
@ways
def test_mapped_writable(f, add, map_it):
    """A file that can be written through a mapping cannot be sealed against that."""
    with map_it(f):
        with busy(add, f):
            add(f, Seal.WRITE)
    add(f, Seal.WRITE)
    assert Seal.WRITE in seals_of(f)


@pytest.mark.row(37, "WRITE while mapped shared and writable", "EBUSY, no seal added")
@ways
def test_part_mapped_writable_without_a_descriptor(f, add):
    """A page is enough, and the descriptor it was mapped through may be gone."""
    with f.reopen("r+") as again:
        m = Mapping(again, "r+", offset=mmap.PAGESIZE, size=1)
    with m, busy(add, f):
        add(f, Seal.WRITE)


@pytest.mark.row(38, "WRITE and GROW while mapped writable", "EBUSY, neither is added")
@shared
@ways
def test_all_or_nothing(f, add, map_it):
    """Of seals asked for together all are added, or none."""
    with map_it(f):
        for seals in (Seal.WRITE | Seal.GROW, Seal.IMMUTABLE | Seal.SEAL):
            with busy(add, f):
                add(f, seals)
        f.truncate(3 * mmap.PAGESIZE)


@pytest.mark.row(39, "SHRINK while mapped writable", "added")
@pytest.mark.parametrize(
    "seals", [Seal.SHRINK, Seal.GROW, Seal.FUTURE_WRITE, Seal.SEAL], ids=str
)
@shared
@ways
def test_other_seals_of_what_is_mapped(f, add, map_it, seals):
    """Every seal but WRITE can be added to a file that is mapped writable."""
    with map_it(f) as m, memoryview(m) as view:
        add(f, seals)
        assert seals in seals_of(f)
        view[0] = 1
    assert os.pread(f.fileno(), 1, 0) == b"\x01"


@pytest.mark.row(
    40, "WRITE while mapped shared, read-only, by a writable descriptor", "EBUSY"
)
@ways
def test_mapped_read_only_by_a_writable_descriptor(f, add):
    """A shared mapping counts as writable if it could be made so."""
    with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ):
        with busy(add, f):
            add(f, Seal.WRITE)
    add(f, Seal.WRITE)
    assert Seal.WRITE in seals_of(f)


@pytest.mark.row(
    41, "WRITE while mapped shared by a read-only descriptor", "added, still mapped"
)
@ways
def test_mapped_by_a_read_only_descriptor(f, add):
    """A mapping that can never be written does not count."""
    f.write(b"data")
    with (
        f.reopen() as reader,
        mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ) as m,
    ):
        add(f, Seal.WRITE)
        assert Seal.WRITE in seals_of(f)
        assert m[:5] == b"data\0"


@pytest.mark.row(42, "WRITE while mapped private, clean or written to", "added")
@pytest.mark.parametrize(
    "map_it",
    [
        pytest.param(
            lambda f: mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE), id="kernel"
        ),
        pytest.param(lambda f: Mapping(f, "c"), id="Mapping"),
        pytest.param(lambda f: f.mmap("c"), id="mmap"),
    ],
)
@pytest.mark.parametrize("dirty", [False, True])
@ways
def test_mapped_private(f, add, map_it, dirty):
    """What a private mapping writes is not of the file."""
    with map_it(f) as m, memoryview(m) as view:
        if dirty:
            view[:4] = b"mine"
        add(f, Seal.WRITE)
        assert Seal.WRITE in seals_of(f)
        assert view[:4] == (b"mine" if dirty else bytes(4))
        assert os.pread(f.fileno(), 4, 0) == bytes(4)


@pytest.mark.row(42, "WRITE while mapped private, clean or written to", "added")
@ways
def test_read_by_our_mappings(f, add):
    """Who reads through a Mapping or Memfd.mmap does not keep others from sealing."""
    with Mapping(f) as m, f.mmap() as n:
        assert bytes(m) == n[:] == bytes(8192)
        add(f, Seal.WRITE)
        assert Seal.WRITE in seals_of(f)


@pytest.mark.row(43, "WRITE after the mapping is gone", "added; what was stored stays")
@shared
@ways
def test_unmapped(f, add, map_it):
    """What was stored through a mapping is in the file when it is sealed."""
    with map_it(f) as m, memoryview(m) as view:
        view[4096:4100] = b"data"
    add(f, Seal.WRITE)
    assert Seal.WRITE in seals_of(f)
    assert os.pread(f.fileno(), 5, 4096) == b"data\0"


@pytest.mark.row(
    44, "WRITE while a forked child has it mapped", "EBUSY, until the child has ended"
)
@pytest.mark.parametrize("kind", ["Mapping", "mmap"])
def test_mapped_by_a_forked_child(run, kind):
    """A child inherits the mapping, and keeps the parent from sealing."""
    run(
        """
        import errno, mmap, os, sys
        import memfd
        from memfd import Seal

        f = memfd.create("x", size=8192)
        if sys.argv[1] == "Mapping":
            m = memfd.Mapping(f, "r+")
        else:
            m = mmap.mmap(f.fileno(), 0)
        memoryview(m)[0] = 1
        end, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(tell)
            os.read(end, 1)
            os._exit(0)
        m.close()
        for add in (memfd.add_seals, memfd.Memfd.seal):
            try:
                add(f, Seal.IMMUTABLE)
            except OSError as error:
                assert error.errno == errno.EBUSY, error
                message = str(error)
            else:
                raise SystemExit("sealed")
        assert f"mapped writable by {pid}" in message, message
        assert f.seals & ~Seal.EXEC == 0, f.seals
        os.close(tell)
        assert os.waitpid(pid, 0)[1] == 0
        f.seal()
        assert f.read(2) == bytes([1, 0])
        """,
        kind,
    )


@pytest.mark.row(
    45, "WRITE while a page waits in a pipe or socket", "EBUSY, until it was read"
)
@pytest.mark.parametrize("way", ["splice", "sendfile"])
@calls
def test_page_on_its_way(f, owned, add, way):
    """A page that was sent without a copy is still the page of the file."""
    f.write(b"page" * 1024)
    if way == "splice":
        read, write = map(owned, os.pipe())
        assert os.splice(f.fileno(), write, 4096, offset_src=0) == 4096
    else:
        ours, theirs = socket.socketpair()
        read, write = owned(ours.detach()), owned(theirs.detach())
        assert os.sendfile(write, f.fileno(), 0, 4096) == 4096
    with refused(errno.EBUSY, f):
        add(f, Seal.WRITE)
    with pytest.raises(OSError, match="its pages are still being sent"):
        f.seal()
    assert os.read(read, 4096) == b"page" * 1024
    f.seal()
    assert Seal.IMMUTABLE in seals_of(f)


RECEIVER = """
    import errno, os, sys
    import memfd
    from memfd import Memfd, Seal

    fd, expected = map(int, sys.argv[1:])
    if os.geteuid() == 0:  # seals are no matter of who owns the file
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    f = Memfd.from_fd(fd, require=None)
    try:
        f.seal(Seal.IMMUTABLE)
    except OSError as error:
        assert error.errno == expected, error
    else:
        assert expected == 0
        assert Seal.IMMUTABLE in f.seals
"""


@pytest.mark.row(
    46,
    "another process, another user, seals what it was given",
    "added; EBUSY if we map it writable, EPERM after SEAL",
)
def test_sealed_by_who_was_given_it(f, run):
    """Who has a writable descriptor can seal the file, whoever made it."""
    arguments = RECEIVER, str(f.fileno())
    with Mapping(f, "r+"):
        run(*arguments, str(errno.EBUSY), pass_fds=[f.fileno()])
    assert seals_of(f) & Seal.IMMUTABLE == 0
    run(*arguments, "0", pass_fds=[f.fileno()])
    assert Seal.IMMUTABLE in seals_of(f)
    with refused(errno.EPERM, f):
        os.pwrite(f.fileno(), b"x", 0)


@pytest.mark.row(
    46,
    "another process, another user, seals what it was given",
    "added; EBUSY if we map it writable, EPERM after SEAL",
)
def test_not_sealed_by_who_was_given_it(f, run):
    """Seal.SEAL keeps others from sealing what we want to go on writing."""
    f.seal(Seal.SEAL)
    run(RECEIVER, str(f.fileno()), str(errno.EPERM), pass_fds=[f.fileno()])
    assert f.write(b"still ours") == 10


SLOW_FILE = """
    import ctypes, errno, fcntl, os, struct, sys, tempfile, threading
    import memfd
    from memfd import Seal

    PAGE = 4096
    DATA = b"late" * (PAGE // 4)
    MS_NOSUID, MS_NODEV = 2, 4
    LOOKUP, FORGET, GETATTR, OPEN, READ, INIT, INTERRUPT, FORGETS = (
        1, 2, 3, 14, 15, 26, 36, 42)
    DIRECT_IO = 1  # into the pages of who reads

    libc = ctypes.CDLL(None, use_errno=True)
    libc.read.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    libc.read.restype = ctypes.c_ssize_t
    asked, go = threading.Event(), threading.Event()

    def status(node):
        mode = 0o40755 if node == 1 else 0o100644
        size = 0 if node == 1 else PAGE
        owner = 0, 0
        return struct.pack("<6Q10I", node, size, *[0] * 7, mode, 1, *owner, *[0] * 3)

    def serve(device):
        while True:
            try:
                request = os.read(device, 1 << 17)
            except OSError as error:
                assert error.errno == errno.ENODEV, error
                return  # it is mounted no more
            _, what, number, node = struct.unpack_from("<2I2Q", request)
            answer, error = b"", 0
            if what == INIT:
                answer = struct.pack("<4I2H11I", 7, 31, 0, 0, 1, 1, PAGE, *[0] * 10)
            elif what == LOOKUP:
                answer = struct.pack("<4Q2I", 2, 0, 99, 99, 0, 0) + status(2)
            elif what == GETATTR:
                answer = struct.pack("<Q2I", 99, 0, 0) + status(node)
            elif what == OPEN:
                answer = struct.pack("<Q2I", 1, DIRECT_IO, 0)
            elif what == READ:
                asked.set()
                go.wait()
                answer = DATA
            elif what in (FORGET, FORGETS, INTERRUPT):
                continue
            else:
                error = -errno.ENOSYS
            os.write(device, struct.pack("<IiQ", 16 + len(answer), error, number) + answer)

    with tempfile.TemporaryDirectory() as folder:
        try:
            device = os.open("/dev/fuse", os.O_RDWR)
        except OSError as error:
            sys.exit(print("skipped:", error))
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
        if libc.mount(b"none", folder.encode(), b"fuse", MS_NOSUID | MS_NODEV,
                      options.encode()):
            sys.exit(print("skipped: mount:", os.strerror(ctypes.get_errno())))
        server = threading.Thread(target=serve, args=(device,), daemon=True)
        server.start()
        slow = os.open(os.path.join(folder, "file"), os.O_RDONLY)

        f = memfd.create("x", size=PAGE)
        address = memfd.map(f, PAGE, True)
        got = []
        reader = threading.Thread(
            target=lambda: got.append(libc.read(slow, address, PAGE)))
        reader.start()
        asked.wait()
        memfd.unmap(address, PAGE)

        def sealed(add):
            try:
                add(f, Seal.WRITE)
            except OSError as error:
                assert error.errno == errno.EBUSY, error
                return False
            return True

        try:
            assert not sealed(memfd.add_seals)
            assert not sealed(memfd.Memfd.seal)
            assert f.seals & Seal.WRITE == 0
        finally:
            go.set()
            reader.join()
        assert got == [PAGE], got
        assert sealed(memfd.Memfd.seal)
        assert f.read() == DATA

        os.close(slow)
        assert libc.umount2(folder.encode(), 2) == 0
        server.join()  # it may not print while the interpreter ends
"""


@pytest.mark.row(
    47,
    "WRITE while a read from a slow file goes into its pages, unmapped since",
    "EBUSY; added when the data is there",
)
def test_read_into_its_pages(run, namespace):
    """What the kernel still writes into a page comes before the seal, or never."""
    user = [] if os.geteuid() == 0 else ["-r"]
    said = run(SLOW_FILE, wrapper=namespace(*user, "-m"))
    if said.startswith("skipped: "):
        pytest.skip(f"no file system in user space: {said[9:].strip()}")


@pytest.mark.row(48, "300 times: stored through a mapping, unmapped, WRITE", "added")
@shared
def test_never_busy_without_a_reason(map_it):
    """A mapping that is gone is never in the way, not even for a moment."""
    for turn in range(300):
        with memfd.create("x", size=1 << 16) as f:
            with map_it(f) as m, memoryview(m) as view:
                view[:: mmap.PAGESIZE] = bytes([turn % 256]) * (
                    len(view) // mmap.PAGESIZE
                )
            add = (kernel_add, memfd.add_seals, Memfd.seal)[turn % 3]
            add(f, Seal.IMMUTABLE)
            assert os.pread(f.fileno(), 1, mmap.PAGESIZE) == bytes([turn % 256])
