"""The system calls: memfd_create, seals, size."""

import errno
import fcntl
import os
import pathlib
import stat

import pytest

import memfd
from memfd import Seal


@pytest.fixture
def fd():
    """A raw, sealable descriptor of 4096 bytes."""
    fd = memfd.memfd_create("raw", memfd.MFD_CLOEXEC | memfd.MFD_ALLOW_SEALING)
    memfd.set_size(fd, 4096)
    yield fd
    os.close(fd)


def link(fd):
    return os.readlink(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        pytest.param("plain", b"plain", id="str"),
        pytest.param("", b"", id="empty"),
        pytest.param(b"\xff\xfe", b"\xff\xfe", id="bytes that are no UTF-8"),
        pytest.param("a/b\nc", b"a/b\nc", id="slash and newline"),
        pytest.param("é" * 124, "é".encode() * 124, id="not ASCII"),
        pytest.param(pathlib.Path("some") / "path", b"some/path", id="path"),
        pytest.param("n" * 249, b"n" * 249, id="longest"),
    ],
)
def test_name_is_the_label_of_the_file(name, label):
    """Every name that the kernel takes arrives there, byte for byte."""
    fd = memfd.memfd_create(name)

    try:
        assert os.readlink(b"/proc/self/fd/%d" % fd) == b"/memfd:%s (deleted)" % label
    finally:
        os.close(fd)


@pytest.mark.parametrize("create", [memfd.memfd_create, memfd.create])
@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        pytest.param("n" * 250, ValueError, "at most 249 bytes, got 250", id="long"),
        pytest.param("€" * 125, ValueError, "at most 249 bytes, got 375", id="encoded"),
        pytest.param("a\0b", ValueError, r"null byte, got 'a\\x00b'", id="null"),
        pytest.param(b"a\0b", ValueError, "null byte", id="null in bytes"),
        pytest.param(7, TypeError, "name must be str.*not int", id="int"),
        pytest.param(None, TypeError, "not NoneType", id="None"),
    ],
)
def test_bad_name_is_refused_before_the_call(create, name, error, words):
    """A name that the kernel would refuse is an error that names it."""
    with pytest.raises(error, match=words):
        create(name)


@pytest.mark.parametrize("flags", [-1, 1 << 32, 1 << 64, -(1 << 70)])
def test_flags_are_never_truncated(flags):
    """Flags beyond an unsigned int are an OverflowError with the value."""
    with pytest.raises(OverflowError, match=str(flags)):
        memfd.memfd_create("x", flags)


@pytest.mark.parametrize("flags", [1.0, "1", None])
def test_flags_of_wrong_type(flags):
    """Flags are an int."""
    with pytest.raises(TypeError, match="flags must be an int"):
        memfd.memfd_create("x", flags)


@pytest.mark.parametrize("flags", [0x20, 0x100, 0x80000000, 0xFFFFFFFF])
def test_unknown_flags_reach_the_kernel(flags):
    """memfd_create passes exactly the flags it was given: no fallback, no retry."""
    with pytest.raises(OSError, match=f"flags {flags:#x}") as caught:
        memfd.memfd_create("x", flags)

    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("flags", "seals", "mode"),
    [
        pytest.param(0, Seal.SEAL, None, id="none"),
        pytest.param(memfd.MFD_ALLOW_SEALING, Seal(0), None, id="sealing"),
        pytest.param(memfd.MFD_NOEXEC_SEAL, Seal.EXEC, 0o666, id="noexec"),
        pytest.param(memfd.MFD_EXEC, Seal.SEAL, 0o777, id="exec"),
        pytest.param(
            memfd.MFD_EXEC | memfd.MFD_ALLOW_SEALING, Seal(0), 0o777, id="exec, sealing"
        ),
    ],
)
def test_flags_decide_seals_and_mode(flags, seals, mode):
    """The kernel gives each flag its seals and mode bits."""
    try:
        fd = memfd.memfd_create("x", flags)
    except OSError as error:
        pytest.skip(f"this kernel refuses flags {flags:#x}: {error}")

    try:
        assert memfd.get_seals(fd) & ~(Seal.EXEC if not mode else 0) == seals
        if mode:
            assert stat.S_IMODE(os.fstat(fd).st_mode) == mode
    finally:
        os.close(fd)


def test_cloexec_is_the_default_and_can_be_left_out():
    """Only without MFD_CLOEXEC is the descriptor inheritable."""
    closed, open_ = memfd.memfd_create("x"), memfd.memfd_create("x", 0)

    try:
        assert not os.get_inheritable(closed)
        assert os.get_inheritable(open_)
    finally:
        os.close(closed)
        os.close(open_)


@pytest.mark.parametrize(
    "name", [n for n in dir(memfd) if n.startswith("MFD_HUGE_") and n.endswith("B")]
)
def test_huge_page_flags(name):
    """Each size of huge pages is had or refused by name, never something else."""
    flags = memfd.MFD_HUGETLB | getattr(memfd, name)
    try:
        fd = memfd.memfd_create("x", flags)
    except OSError as error:
        assert error.errno in (errno.ENODEV, errno.ENOENT, errno.ENOSYS)  # noqa: PT017
        return
    try:
        unit = {"K": 10, "M": 20, "G": 30}[name[-2]]
        size = int(name.removeprefix("MFD_HUGE_")[:-2]) << unit
        assert os.fstat(fd).st_blksize == size
    finally:
        os.close(fd)


def test_constants_are_the_kernel_s():
    """The numbers agree with those that this Python knows, and with the kernel ABI."""
    for module in (os, fcntl):
        for name in dir(module):
            if name.startswith(("MFD_", "F_SEAL_", "F_ADD_SEALS", "F_GET_SEALS")):
                assert getattr(memfd, name) & 0xFFFFFFFF == (
                    getattr(module, name) & 0xFFFFFFFF
                ), name
    assert (memfd.MFD_NOEXEC_SEAL, memfd.MFD_EXEC) == (8, 16)
    assert (memfd.F_SEAL_FUTURE_WRITE, memfd.F_SEAL_EXEC) == (16, 32)
    assert memfd.MFD_HUGE_16GB == 34 << 26


def test_add_seals_returns_all_seals(fd):
    """add_seals returns what is set now, not only what was added."""
    assert memfd.add_seals(fd, Seal.GROW) == Seal.GROW
    assert memfd.add_seals(fd, Seal.SHRINK) == Seal.GROW | Seal.SHRINK
    assert memfd.get_seals(fd) == Seal.GROW | Seal.SHRINK


def test_seals_are_shared_by_every_descriptor(fd):
    """A duplicate and a re-opened descriptor see and add the same seals."""
    duplicate = os.dup(fd)
    reopened = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        memfd.add_seals(duplicate, Seal.SHRINK)
        memfd.add_seals(reopened, Seal.GROW)

        assert memfd.get_seals(fd) == Seal.SHRINK | Seal.GROW
    finally:
        os.close(duplicate)
        os.close(reopened)


@pytest.mark.parametrize(
    ("seal", "forbidden"),
    [
        pytest.param(Seal.GROW, lambda fd: memfd.set_size(fd, 4097), id="grow"),
        pytest.param(Seal.SHRINK, lambda fd: memfd.set_size(fd, 4095), id="shrink"),
        pytest.param(Seal.WRITE, lambda fd: os.pwrite(fd, b"x", 0), id="write"),
        pytest.param(Seal.FUTURE_WRITE, lambda fd: os.pwrite(fd, b"x", 0), id="future"),
        pytest.param(Seal.SEAL, lambda fd: memfd.add_seals(fd, Seal.GROW), id="seal"),
    ],
)
def test_seal_forbids_its_change(fd, seal, forbidden):
    """A seal refuses the change it names and leaves the memfd as it was."""
    memfd.add_seals(fd, seal)

    with pytest.raises(PermissionError):
        forbidden(fd)

    assert os.pread(fd, 8192, 0) == bytes(4096)
    assert memfd.get_seals(fd) == seal


def test_sealed_seals_say_so(fd):
    """EPERM for want of Seal.SEAL and for a read-only descriptor are told apart."""
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    try:
        with pytest.raises(PermissionError, match="open for reading only"):
            memfd.add_seals(reader, Seal.GROW)
        memfd.add_seals(fd, Seal.SEAL)
        with pytest.raises(PermissionError, match=r"Seal\.SEAL is set"):
            memfd.add_seals(fd, Seal.GROW)
    finally:
        os.close(reader)


def test_unknown_seal_changes_nothing(fd):
    """A seal that the kernel does not know is EINVAL, and none is added."""
    with pytest.raises(OSError, match="0x4002 are unknown") as caught:
        memfd.add_seals(fd, 0x4000 | Seal.SHRINK)

    assert caught.value.errno == errno.EINVAL
    assert memfd.get_seals(fd) == 0


@pytest.mark.parametrize("seals", [-1, 1 << 32])
def test_seals_beyond_an_unsigned_int(fd, seals):
    """Seals are never truncated."""
    with pytest.raises(OverflowError, match=f"seals .* got {seals}"):
        memfd.add_seals(fd, seals)


def test_seal_keeps_bits_it_does_not_know():
    """A bit of a newer kernel survives in Seal."""
    assert int(Seal(0x1000 | Seal.WRITE)) == 0x1008
    assert Seal(0x1000 | Seal.WRITE) & Seal.WRITE == Seal.WRITE
    assert Seal.IMMUTABLE == Seal.SHRINK | Seal.GROW | Seal.WRITE


@pytest.mark.parametrize("path", ["/", "/dev/null", "/dev/zero", __file__])
def test_get_seals_of_something_else(path):
    """What is no memfd is an error that says so."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=f"descriptor {fd} is no memfd"):
            memfd.get_seals(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "call", [memfd.get_seals, memfd.get_size, lambda fd: memfd.set_size(fd, 0)]
)
def test_closed_descriptor(call):
    """A closed descriptor is EBADF, a negative one a ValueError, other types TypeError."""
    fd = memfd.memfd_create("x")
    os.close(fd)

    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        call(fd)
    with pytest.raises(ValueError, match="negative"):
        call(-1)
    with pytest.raises(TypeError, match="fileno"):
        call("fd")

    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 40, (1 << 63) - 1])
def test_size_is_what_was_set(fd, size):
    """Every size that off_t can hold can be set and read."""
    memfd.set_size(fd, size)

    assert memfd.get_size(fd) == size


@pytest.mark.parametrize(
    ("size", "error", "words"),
    [
        (-1, ValueError, "size must not be negative, got -1"),
        (-(1 << 80), ValueError, "size must not be negative, got -1208"),
        (1 << 63, OverflowError, "size must be below .* got 9223372036854775808"),
        (1.5, TypeError, "size must be an int, not float"),
        ("1", TypeError, "size must be an int, not str"),
    ],
)
def test_bad_size(fd, size, error, words):
    """A size that cannot be is an error that names it, and changes nothing."""
    with pytest.raises(error, match=words):
        memfd.set_size(fd, size)
    with pytest.raises(error, match=words):
        memfd.create(size=size)

    assert memfd.get_size(fd) == 4096


def test_size_beyond_the_limit_of_files(run):
    """RLIMIT_FSIZE is an OSError, not a signal, and create leaks nothing."""
    run("""
        import errno, os, resource
        import memfd
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        before = os.listdir("/proc/self/fd")
        for make in (lambda: memfd.create(size=8193),
                     lambda: memfd.from_bytes(bytes(8193))):
            try:
                make()
            except OSError as error:
                assert error.errno == errno.EFBIG, error
            else:
                raise SystemExit("no error")
        assert os.listdir("/proc/self/fd") == before
    """)


def test_too_many_descriptors(run):
    """EMFILE is an OSError that names the limit, and leaks nothing."""
    run("""
        import errno, os, resource
        import memfd
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        held = []
        try:
            while True:
                held.append(memfd.create())
        except OSError as error:
            assert error.errno == errno.EMFILE, error
            assert "RLIMIT_NOFILE" in str(error)
        held.pop().close()
        memfd.create().close()
    """)


def test_raw_mapping_by_address(fd):
    """map gives the address of the file's bytes; unmap takes them away."""
    os.pwrite(fd, b"hello", 0)
    address = memfd.map(fd, 4096)

    try:
        import ctypes

        assert ctypes.string_at(address, 5) == b"hello"
    finally:
        memfd.unmap(address, 4096)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0,), ValueError, "size must be positive"),
        ((-1,), ValueError, "size must not be negative"),
        ((4096, False, 1), OSError, "Invalid argument"),
        ((4096, False, -1), ValueError, "offset must not be negative"),
        ((1 << 62,), OSError, "Cannot allocate memory"),
    ],
)
def test_raw_mapping_refused(fd, arguments, error, words):
    """map names the argument, or carries mmap's errno."""
    with pytest.raises(error, match=words):
        memfd.map(fd, *arguments)


INJECTED = """
    import os, sys
    import memfd
    number = int(sys.argv[1])
    before = os.listdir("/proc/self/fd")
    try:
        memfd.create("x", size=4096)
    except OSError as error:
        assert error.errno == number, error
        print(error)
    else:
        raise SystemExit("no error")
    assert os.listdir("/proc/self/fd") == before
"""


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        pytest.param("memfd_create", "ENOSYS", "seccomp", id="create ENOSYS"),
        pytest.param("memfd_create", "EPERM", "seccomp", id="create EPERM"),
        pytest.param("memfd_create", "ENFILE", "file-max", id="create ENFILE"),
        pytest.param("memfd_create", "EACCES", "vm.memfd_noexec", id="create EACCES"),
        pytest.param("memfd_create", "ENOMEM", "", id="create ENOMEM"),
        pytest.param("fchmod", "EPERM", "", id="fchmod EPERM"),
        pytest.param("ftruncate", "ENOMEM", "", id="ftruncate ENOMEM"),
    ],
)
def test_injected_error_leaks_nothing(run, strace, call, error, words):
    """Whatever call fails in create, its errno arrives and no descriptor is left."""
    inject = strace(f"{call}:error={error}")

    assert words in run(INJECTED, str(getattr(errno, error)), wrapper=inject)


def test_old_kernel_gets_a_second_try_without_the_exec_flags(run, strace):
    """EINVAL once: created without the exec flags, and the x bits taken off."""
    inject = strace("memfd_create:error=EINVAL:when=1")

    run(
        """
        import os
        import memfd
        with memfd.create("x") as f:
            assert os.fstat(f.fileno()).st_mode & 0o777 == 0o644
            assert f.seals == 0, f.seals
        with memfd.create("y", executable=True) as f:
            assert os.fstat(f.fileno()).st_mode & 0o777 == 0o755
        """,
        wrapper=inject,
    )


def test_einval_twice_is_an_error(run, strace):
    """There is no third try."""
    inject = strace("memfd_create:error=EINVAL:when=1..2")

    run(INJECTED, str(errno.EINVAL), wrapper=inject)


@pytest.mark.parametrize(
    ("level", "executable", "outcome"),
    [
        (0, True, "ok"),
        (1, True, "ok"),
        (1, False, "ok"),
        (2, False, "ok"),
        (2, True, "no"),
    ],
)
def test_noexec_policy(run, namespace, level, executable, outcome):
    """Under every vm.memfd_noexec create works, but for executable files at 2."""
    if not os.path.exists("/proc/sys/vm/memfd_noexec"):
        pytest.skip("no vm.memfd_noexec before Linux 6.3")
    wrapper = namespace("-pf", "--mount-proc")
    answer = run(
        """
        import os, sys
        fd = os.open("/proc/sys/vm/memfd_noexec", os.O_WRONLY)
        os.write(fd, sys.argv[1].encode())
        import memfd
        try:
            with memfd.create("x", executable=sys.argv[2] == "True") as f:
                assert bool(os.fstat(f.fileno()).st_mode & 0o111) == (sys.argv[2] == "True")
            print("ok")
        except PermissionError as error:
            assert "vm.memfd_noexec is 2" in str(error), error
            print("no")
        """,
        str(level),
        str(executable),
        wrapper=wrapper,
    )
    assert answer.strip() == outcome
