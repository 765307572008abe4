"""Creation: names, flags, modes, what is inherited, and what the system forbids."""

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import stat
import textwrap

import pytest

import memfd
from memfd import Seal

POLICY = pathlib.Path("/proc/sys/vm/memfd_noexec")
POOLS = pathlib.Path("/sys/kernel/mm/hugepages")

calls = pytest.mark.parametrize(
    "call",
    [
        pytest.param(os.memfd_create, id="kernel"),
        pytest.param(memfd.memfd_create, id="memfd_create"),
    ],
)


@contextlib.contextmanager
def refused(number):
    """Expect an OSError with this number."""
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        yield
    assert caught.value.errno == number


def mode(file):
    """Return the permissions of a file or descriptor."""
    return stat.S_IMODE(os.stat(file if type(file) is int else file.fileno()).st_mode)


def label(fd):
    return os.readlink(b"/proc/self/fd/%d" % fd)


@pytest.fixture
def exec_flags():
    """Have a kernel that knows both exec flags, and leave to use them."""
    for flags in (memfd.MFD_EXEC, memfd.MFD_NOEXEC_SEAL):
        try:
            os.close(os.memfd_create("probe", flags))
        except OSError as error:
            pytest.skip(f"flags {flags:#x} of Linux 6.3: {error}")


@pytest.fixture
def no_policy():
    """Have a machine where flags are taken as they are given."""
    if POLICY.exists() and POLICY.read_text() != "0\n":
        pytest.skip(f"vm.memfd_noexec is {POLICY.read_text().strip()} here")


# --- names -----------------------------------------------------------------------------


@pytest.mark.row(1, "no name: a null pointer, None", "EFAULT, TypeError")
def test_no_name():
    """The kernel refuses a null pointer; our functions never pass one."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.memfd_create(None, 0) == -1
    assert ctypes.get_errno() == errno.EFAULT
    with pytest.raises(TypeError, match="name must be"):
        memfd.memfd_create(None)
    with pytest.raises(TypeError, match="name must be"):
        memfd.create(None)
    with pytest.raises(TypeError):
        memfd.memfd_create()


@pytest.mark.row(2, "name of 249 bytes", "created; the link in /proc shows it")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("n" * 249, id="ASCII"),
        pytest.param("€" * 83, id="83 characters of three bytes"),
        pytest.param(b"\xff" * 249, id="bytes"),
    ],
)
@calls
def test_longest_name(owned, call, name):
    """249 bytes are the longest name, counted as they are encoded."""
    expected = b"/memfd:%s (deleted)" % os.fsencode(name)
    assert label(owned(call(name))) == expected
    with memfd.create(name) as f:
        assert label(f.fileno()) == expected
        assert f.name == os.fsdecode(name)


@pytest.mark.row(3, "name of more than 249 bytes", "EINVAL; ValueError before the call")
@pytest.mark.parametrize("name", ["n" * 250, "€" * 125, "€" * 84, b"\xff" * 250])
def test_name_too_long(name):
    """One byte more than 249 is too much, however few characters these are."""
    with refused(errno.EINVAL):
        os.memfd_create(name)
    for create in (memfd.memfd_create, memfd.create):
        with pytest.raises(ValueError, match="at most 249 bytes"):
            create(name)


@pytest.mark.row(4, "name empty, not UTF-8, with a slash or newline", "created")
@pytest.mark.parametrize(
    "name", ["", b"\xff\xfe", "a/b", "/", "a\nb", " ", "(deleted)"]
)
@calls
def test_name_is_only_a_label(owned, call, name):
    """The name is no path and no text: it arrives byte for byte."""
    expected = b"/memfd:%s (deleted)" % os.fsencode(name)
    assert label(owned(call(name))) == expected
    with memfd.create(name) as f:
        assert label(f.fileno()) == expected


@pytest.mark.row(5, "name with a null byte", "ValueError before the call")
@pytest.mark.parametrize("name", ["a\0b", "\0", b"a\0"])
@pytest.mark.parametrize("create", [os.memfd_create, memfd.memfd_create, memfd.create])
def test_name_with_a_null_byte(create, name):
    """A name is never cut off at a null byte."""
    with pytest.raises(ValueError, match="null byte"):
        create(name)


# --- flags -----------------------------------------------------------------------------


@pytest.mark.row(6, "flags that no kernel knows", "EINVAL")
@pytest.mark.parametrize("flags", [0x20, 0x100, 0x80000000, 0xFFFFFFFF])
@calls
def test_unknown_flags(call, flags):
    """A flag that the kernel does not know is an error, not ignored."""
    with refused(errno.EINVAL):
        call("x", flags)
    with refused(errno.EINVAL):
        call("x", flags | memfd.MFD_ALLOW_SEALING)


@pytest.mark.row(7, "flags of more than 32 bits, or negative", "OverflowError")
@pytest.mark.parametrize("flags", [-1, -(1 << 31), 1 << 32, (1 << 32) + 1, 1 << 64])
def test_flags_are_not_cut_off(flags):
    """Flags that do not fit never become other flags."""
    with pytest.raises(OverflowError, match=f"flags must fit.*got {flags}"):
        memfd.memfd_create("x", flags)


@pytest.mark.row(8, "MFD_EXEC with MFD_NOEXEC_SEAL", "EINVAL")
@calls
def test_contradiction(exec_flags, call):
    """A memfd cannot be executable and not executable."""
    with refused(errno.EINVAL):
        call("x", memfd.MFD_EXEC | memfd.MFD_NOEXEC_SEAL)


@pytest.mark.row(9, "a size of huge pages without MFD_HUGETLB", "EINVAL")
@pytest.mark.parametrize("size", ["MFD_HUGE_64KB", "MFD_HUGE_2MB", "MFD_HUGE_1GB"])
@calls
def test_huge_size_of_ordinary_pages(call, size):
    """The size of huge pages means nothing without huge pages."""
    with refused(errno.EINVAL):
        call("x", getattr(memfd, size))


@pytest.mark.row(
    10, "each size of huge pages", "created if sysfs lists it, else ENODEV"
)
@pytest.mark.parametrize(
    "name", [n for n in dir(memfd) if n.startswith("MFD_HUGE_") and n.endswith("B")]
)
@calls
def test_huge_sizes(owned, call, name):
    """There are huge pages of the sizes that the machine lists, and of no other."""
    if not POOLS.exists():
        pytest.skip("no hugetlb in this kernel")
    flags = memfd.MFD_HUGETLB | getattr(memfd, name)
    size = 1 << (getattr(memfd, name) >> memfd.MFD_HUGE_SHIFT)
    if (POOLS / f"hugepages-{size >> 10}kB").exists():
        assert os.fstat(owned(call("x", flags))).st_blksize == size
        with memfd.create("x", hugetlb=size) as f:
            assert os.fstat(f.fileno()).st_blksize == size
        return
    with refused(errno.ENODEV):
        call("x", flags)
    with refused(errno.ENODEV):
        memfd.create("x", hugetlb=size)


# --- what is made ----------------------------------------------------------------------


@pytest.mark.row(
    11, "created by default", "an empty regular file, no links, not inheritable"
)
@calls
def test_new_file(owned, call):
    """A new memfd is an empty file that no folder has and no program inherits."""
    with memfd.create("x") as f:
        for fd in (owned(call("x")), f.fileno()):
            status = os.fstat(fd)
            assert stat.S_ISREG(status.st_mode)
            assert (status.st_size, status.st_nlink, status.st_blocks) == (0, 0, 0)
            assert status.st_uid == os.geteuid()
            assert not os.get_inheritable(fd)
            assert os.lseek(fd, 0, os.SEEK_CUR) == 0
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


@pytest.mark.row(12, "two created with the same name", "two descriptors, two files")
@calls
def test_same_name(owned, call):
    """A name is shared by as many files as like."""
    one, two = owned(call("same")), owned(call("same"))
    assert one != two
    assert not os.path.samestat(os.fstat(one), os.fstat(two))
    with memfd.create("same") as f, memfd.create("same") as g:
        f.write(b"only here")
        assert not os.path.samestat(os.fstat(f.fileno()), os.fstat(g.fileno()))
        assert g.size == os.fstat(one).st_size == 0


INHERITED = """
    import os, sys
    try:
        print(os.readlink("/proc/self/fd/" + sys.argv[1]))
    except FileNotFoundError:
        print("not there")
"""


@pytest.mark.row(
    13, "a program started from here", "has the descriptor only if that was asked for"
)
def test_inherited_by_programs(owned, run):
    """Without close-on-exec a program has the descriptor; by default it has not."""
    raw = owned(os.memfd_create("raw", 0))
    bare = owned(memfd.memfd_create("bare", 0))
    with memfd.create("ours", inheritable=True) as f:
        for fd, name in ((raw, "raw"), (bare, "bare"), (f.fileno(), "ours")):
            there = run(INHERITED, str(fd), close_fds=False)
            assert there == f"/memfd:{name} (deleted)\n"
            assert "memfd:" not in run(INHERITED, str(fd))


@pytest.mark.row(
    13, "a program started from here", "has the descriptor only if that was asked for"
)
def test_not_inherited_by_programs(owned, run):
    """By default a program has it only where it is passed by number."""
    raw, bare = owned(os.memfd_create("default")), owned(memfd.memfd_create("default"))
    with memfd.create("default") as f:
        for fd in (raw, bare, f.fileno()):
            assert "memfd:" not in run(INHERITED, str(fd), close_fds=False)
            passed = run(INHERITED, str(fd), pass_fds=[fd])
            assert passed == "/memfd:default (deleted)\n"


# --- errors ----------------------------------------------------------------------------


@pytest.mark.row(14, "RLIMIT_NOFILE reached", "EMFILE, and no descriptor is lost")
def test_no_descriptor_left(run):
    """At the limit nothing is made; one descriptor given back is one memfd again."""
    run("""
        import errno, os, resource
        import memfd
        calls = os.memfd_create, memfd.memfd_create, memfd.create
        resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))

        def refused(call):
            try:
                call("x")
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                return str(error)
            raise SystemExit(f"{call} made one more")

        held = []
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        for _ in range(40):
            for call in calls:
                refused(call)
        assert "RLIMIT_NOFILE" in refused(memfd.create)
        assert "RLIMIT_NOFILE" in refused(memfd.memfd_create)
        os.close(held.pop())
        with memfd.create("x"):
            for call in calls:
                refused(call)
        memfd.create("x").close()
    """)


FAILED = """
    import os, sys
    import memfd
    before = os.listdir("/proc/self/fd")
    for create in (memfd.memfd_create, memfd.create):
        try:
            create("x")
        except OSError as error:
            print(type(error).__name__, error.errno, error.strerror)
        else:
            raise SystemExit("no error")
    assert os.listdir("/proc/self/fd") == before
"""


@pytest.mark.row(
    15, "the kernel answers ENOSYS, EPERM, ENFILE, ENOMEM", "that OSError, with advice"
)
@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("ENOSYS", "OSError", "seccomp"),
        ("EPERM", "PermissionError", "seccomp filter or security module"),
        ("ENFILE", "OSError", "fs.file-max"),
        ("ENOMEM", "OSError", "Cannot allocate memory"),
    ],
)
def test_error_of_the_call(run, strace, name, kind, words):
    """What the kernel answers arrives as the OSError for it, and says what to do."""
    told = run(FAILED, wrapper=strace(f"memfd_create:error={name}")).splitlines()
    assert len(told) == 2
    for line in told:
        assert line.startswith(f"{kind} {getattr(errno, name)} ")
        assert words in line


@pytest.mark.row(
    16, "EINVAL for the exec flags of an old kernel", "created without them"
)
@pytest.mark.parametrize("executable", [False, True])
def test_old_kernel(no_policy, run, strace, executable):
    """create asks a second time without the exec flags, and sets the mode itself."""
    run(
        """
        import os, sys
        import memfd
        executable = sys.argv[1] == "True"
        with memfd.create("x", size=10, executable=executable) as f:
            mode = os.fstat(f.fileno()).st_mode & 0o7777
            assert mode == (0o755 if executable else 0o644), oct(mode)
            assert f.seals == 0, f.seals
            assert f.size == 10
            assert not os.get_inheritable(f.fileno())
            f.seal()
            assert f.seals == memfd.Seal.IMMUTABLE | memfd.Seal.SEAL
        """,
        str(executable),
        wrapper=strace("memfd_create:error=EINVAL:when=1"),
    )


@pytest.mark.row(
    16, "EINVAL for the exec flags of an old kernel", "created without them"
)
def test_old_kernel_not_sealable(no_policy, run, strace):
    """What is not to be sealed is not sealable there either."""
    run(
        """
        import memfd
        with memfd.create("x", sealable=False) as f:
            assert f.seals == memfd.Seal.SEAL, f.seals
        """,
        wrapper=strace("memfd_create:error=EINVAL:when=1"),
    )


@pytest.mark.row(17, "EINVAL a second time", "OSError EINVAL, no third call")
def test_no_third_call(run, strace):
    """create calls twice at most, memfd_create once."""
    run(
        """
        import errno
        import memfd

        def refused(call):
            try:
                call("x")
            except OSError as error:
                assert error.errno == errno.EINVAL, error
            else:
                raise SystemExit("made after all")

        refused(memfd.create)        # the first and the second call
        refused(memfd.memfd_create)  # the third
        with open(memfd.memfd_create("x"), "r+b", buffering=0):
            pass
        """,
        wrapper=strace("memfd_create:error=EINVAL:when=1..3"),
    )


# --- executable or not -----------------------------------------------------------------


@pytest.mark.row(18, "MFD_EXEC, sealable", "mode 0777, no seals")
@calls
def test_executable(exec_flags, owned, call):
    """An executable memfd has its x bits, and nothing keeps them from being changed."""
    fd = owned(call("x", memfd.MFD_EXEC | memfd.MFD_ALLOW_SEALING))
    assert (mode(fd), memfd.get_seals(fd)) == (0o777, 0)
    os.fchmod(fd, 0o600)
    os.fchmod(fd, 0o700)
    with memfd.create("x", executable=True) as f:
        # Not writable for others, who could open it again.
        assert (mode(f), f.seals) == (0o755, 0)


@pytest.mark.row(19, "MFD_NOEXEC_SEAL", "mode 0666, seal EXEC; chmod to 0777 is EPERM")
@calls
def test_not_executable(exec_flags, owned, call):
    """A memfd that is not executable does not become so, and can be sealed."""
    fd = owned(call("x", memfd.MFD_NOEXEC_SEAL))
    assert (mode(fd), memfd.get_seals(fd)) == (0o666, Seal.EXEC)
    with refused(errno.EPERM):
        os.fchmod(fd, 0o777)
    with refused(errno.EPERM):
        os.chmod(f"/proc/self/fd/{fd}", 0o667)
    os.fchmod(fd, 0o600)
    assert memfd.add_seals(fd, Seal.GROW) == Seal.EXEC | Seal.GROW


@pytest.mark.row(19, "MFD_NOEXEC_SEAL", "mode 0666, seal EXEC; chmod to 0777 is EPERM")
@pytest.mark.parametrize("sealable", [False, True])
def test_not_executable_by_default(exec_flags, sealable):
    """create makes what is not executable, readable for others and no more."""
    with memfd.create("x", sealable=sealable) as f:
        assert mode(f) == 0o644
        assert f.seals == Seal.EXEC | (0 if sealable else Seal.SEAL)
        with refused(errno.EPERM):
            os.fchmod(f.fileno(), 0o755)
        assert mode(f) == 0o644


@pytest.mark.row(20, "MFD_EXEC, not sealable", "seal SEAL; chmod to 0666 works")
@calls
def test_executable_not_sealable(exec_flags, owned, call):
    """Without MFD_ALLOW_SEALING the only seal is SEAL, which holds no mode."""
    fd = owned(call("x", memfd.MFD_EXEC))
    assert (mode(fd), memfd.get_seals(fd)) == (0o777, Seal.SEAL)
    os.fchmod(fd, 0o666)
    assert mode(fd) == 0o666
    with memfd.create("x", executable=True, sealable=False) as f:
        assert (mode(f), f.seals) == (0o755, Seal.SEAL)
        os.fchmod(f.fileno(), 0o666)
        assert mode(f) == 0o666


# --- vm.memfd_noexec -------------------------------------------------------------------

HELPERS = """
import errno, os, stat, subprocess, sys

assert os.getpid() == 1  # or it would be the policy of others

import memfd
from memfd import Seal

def policy(value=None):
    fd = os.open("/proc/sys/vm/memfd_noexec", os.O_RDONLY if value is None else os.O_WRONLY)
    try:
        if value is None:
            return int(os.read(fd, 100))
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)

def facts(file):
    fd = file if type(file) is int else file.fileno()
    return stat.S_IMODE(os.fstat(fd).st_mode), memfd.get_seals(fd)

def refused(number, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except OSError as error:
        assert error.errno == number, error
        return str(error)
    raise SystemExit(f"{function} {arguments} {options} was not refused")

"""


@pytest.fixture
def alone(no_policy, run, namespace):
    """Run a program as the first process of a namespace, with a policy of its own."""
    if not POLICY.exists():
        pytest.skip("no vm.memfd_noexec before Linux 6.3")
    user = [] if os.geteuid() == 0 else ["-r"]
    wrapper = namespace(*user, "-p", "-f", "--mount-proc")

    def alone(program, *arguments):
        return run(HELPERS + textwrap.dedent(program), *arguments, wrapper=wrapper)

    yield alone
    assert POLICY.read_text() == "0\n"


@pytest.mark.row(
    21, "vm.memfd_noexec 1, no exec flag", "mode 0666, seal EXEC; MFD_EXEC still works"
)
def test_policy_1(alone):
    """At 1 a memfd is not executable unless somebody asks for it."""
    alone("""
        policy(1)
        for flags in (0, memfd.MFD_CLOEXEC, memfd.MFD_ALLOW_SEALING):
            for call in (os.memfd_create, memfd.memfd_create):
                assert facts(call("x", flags)) == (0o666, Seal.EXEC), flags
        refused(errno.EPERM, os.fchmod, os.memfd_create("x"), 0o777)
        assert facts(os.memfd_create("x", memfd.MFD_EXEC)) == (0o777, Seal.SEAL)

        assert facts(memfd.create("x")) == (0o644, Seal.EXEC)
        assert facts(memfd.create("x", sealable=False)) == (0o644, Seal.EXEC | Seal.SEAL)
        assert facts(memfd.create("x", executable=True)) == (0o755, 0)
    """)


@pytest.mark.row(
    22, "vm.memfd_noexec 2, executable", "EACCES, and the message names the setting"
)
def test_policy_2(alone):
    """At 2 an executable memfd is refused, and all others are made."""
    alone("""
        policy(2)
        for flags in (memfd.MFD_EXEC, memfd.MFD_EXEC | memfd.MFD_ALLOW_SEALING):
            refused(errno.EACCES, os.memfd_create, "x", flags)
            message = refused(errno.EACCES, memfd.memfd_create, "x", flags)
            assert "vm.memfd_noexec is 2" in message, message
        message = refused(errno.EACCES, memfd.create, "x", executable=True)
        assert "vm.memfd_noexec is 2" in message, message

        assert facts(os.memfd_create("x", memfd.MFD_NOEXEC_SEAL)) == (0o666, Seal.EXEC)
        assert facts(memfd.create("x")) == (0o644, Seal.EXEC)
        assert memfd.from_bytes(b"data").read() == b"data"
    """)


NESTED = """
    def nested(program):
        command = ["unshare", "-p", "-f", "--mount-proc", sys.executable, "-c"]
        return subprocess.Popen([*command, sys.argv[1] + program], text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
"""


@pytest.mark.row(
    23,
    "vm.memfd_noexec of nested namespaces",
    "EINVAL to relax; the strictest one holds",
)
def test_policy_cannot_be_relaxed(alone):
    """What is stricter outside cannot be relaxed inside, nor does inside reach outside."""
    alone(
        textwrap.dedent(NESTED)
        + textwrap.dedent("""
        policy(1)
        policy(0)  # what this namespace chose itself it may take back
        policy(1)
        refused(errno.EINVAL, policy, 3)
        with nested('''if True:
            assert policy() == 1
            refused(errno.EINVAL, policy, 0)
            policy(2)
            refused(errno.EINVAL, policy, 0)
            assert policy() == 2
            refused(errno.EACCES, os.memfd_create, "x", memfd.MFD_EXEC)
            refused(errno.EACCES, memfd.create, "x", executable=True)
        ''') as inside:
            assert inside.wait() == 0
        assert policy() == 1
        os.memfd_create("x", memfd.MFD_EXEC)
        memfd.create("x", executable=True).close()
        """),
        HELPERS,
    )


@pytest.mark.row(
    23,
    "vm.memfd_noexec of nested namespaces",
    "EINVAL to relax; the strictest one holds",
)
def test_policy_of_the_outer_one_holds_inside(alone):
    """What becomes stricter outside is so inside at once."""
    alone(
        textwrap.dedent(NESTED)
        + textwrap.dedent("""
        with nested('''if True:
            os.memfd_create("x", memfd.MFD_EXEC)
            memfd.create("x", executable=True).close()
            print("made", flush=True)
            input()
            refused(errno.EACCES, os.memfd_create, "x", memfd.MFD_EXEC)
            refused(errno.EACCES, memfd.create, "x", executable=True)
            refused(errno.EINVAL, policy, 0)
            assert facts(memfd.create("x")) == (0o644, Seal.EXEC)
        ''') as inside:
            assert inside.stdout.readline() == "made\\n"
            policy(2)
            inside.communicate("now\\n")
            assert inside.returncode == 0
        """),
        HELPERS,
    )
