/* An array in a sealed memfd: made for strangers, and received from them. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the arrays are little-endian, and used as they are"
#endif

#define IMMUTABLE (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define PREFIX 10 /* of a .npy file: magic, version, length of the text */
#define MAX_TEXT 1024

static int write_all(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size) {
        ssize_t wrote = write(fd, at, size);
        if (wrote == -1)
            return -1;
        at += wrote;
        size -= wrote;
    }
    return 0;
}

static int write_array(int fd, const struct array *array)
{
    char header[128], text[sizeof header - PREFIX], shape[48] = "";
    int length;

    if (array->dimensions == 1)
        snprintf(shape, sizeof shape, "%zu,", array->rows);
    if (array->dimensions == 2)
        snprintf(shape, sizeof shape, "%zu, %zu", array->rows, array->columns);
    length = snprintf(text, sizeof text,
        "{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }", shape);
    /* The text ends with a newline, where the data begins at a multiple of 64. */
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\1\0", 8);
    header[8] = sizeof text;
    header[9] = 0;
    memcpy(header + PREFIX, text, length);
    header[sizeof header - 1] = '\n';
    if (write_all(fd, header, sizeof header))
        return -1;
    return write_all(fd, array->data, array->rows * array->columns * sizeof(double));
}

const char *send_array(int sock, const struct array *array)
{
    const unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    const char *reason;
    int fd = memfd_create("array", flags | MFD_NOEXEC_SEAL);

    if (fd == -1 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create("array", flags);
    if (fd == -1)
        return why();
    if (write_array(fd, array) || fcntl(fd, F_ADD_SEALS, IMMUTABLE | F_SEAL_SEAL))
        reason = why();
    else
        reason = send_file(sock, fd);
    close(fd);
    return reason;
}

/* To read a hole takes memory of ours. */
static const char *check_holes(int fd, off_t size)
{
    char path[32];
    off_t hole;
    int own;

    /* Not through the sender's description: they could keep it busy for ever. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    own = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (own == -1)
        return "the memfd cannot be opened again";
    hole = lseek(own, 0, SEEK_HOLE);
    close(own);
    return hole == size ? NULL : "the memfd has holes";
}

/* Say why the memory of a file is not to be touched. */
static const char *check_file(int fd, size_t *size)
{
    int access = fcntl(fd, F_GETFL) & O_ACCMODE;
    int seals = fcntl(fd, F_GET_SEALS);
    struct stat status;
    struct statfs system;

    if (access != O_RDONLY && access != O_RDWR)
        return "the descriptor is not open for reading";
    if (seals == -1)
        return "the descriptor is no memfd";
    /* Not compared as a whole: there may be more seals, which only forbid more. */
    if ((seals & IMMUTABLE) != IMMUTABLE)
        return "the memfd lacks seals";
    /* After the seals: a size that was seen before them could have changed. */
    if (fstat(fd, &status) || !S_ISREG(status.st_mode))
        return "the descriptor is no file";
    /* Some kernels report F_SEAL_WRITE of executable files, and it does not hold.  The
     * seal that comes along tells, where the file is not executable any more. */
    if (seals & F_SEAL_EXEC && (status.st_mode & 0111 || seals & F_SEAL_FUTURE_WRITE))
        return "the memfd is executable, its seals may be forged";
    if (fstatfs(fd, &system) || system.f_type != TMPFS_MAGIC)
        return "the memfd has pages of the hugetlb pool";
    if (status.st_size <= 0 || (size_t)status.st_size > MAX_SIZE)
        return "the memfd is empty or too large";
    *size = status.st_size;
    return check_holes(fd, status.st_size);
}

static int take(const char **at, const char *expected)
{
    size_t length = strlen(expected);

    if (strncmp(*at, expected, length))
        return 0;
    *at += length;
    return 1;
}

static int take_number(const char **at, size_t *number)
{
    if (**at < '1' || **at > '9')
        return 0;
    for (*number = 0; **at >= '0' && **at <= '9'; ++*at) {
        if (*number > MAX_SIZE) /* before it overflows */
            return 0;
        *number = *number * 10 + (size_t)(**at - '0');
    }
    return 1;
}

/* Read the header of a .npy file, which is what numpy.save() writes and nothing else. */
static const char *read_header(struct array *array)
{
    const unsigned char *prefix = array->memory;
    char text[MAX_TEXT + 1];
    const char *at = text;
    size_t length, room;

    if (array->size < PREFIX || memcmp(prefix, "\x93NUMPY\1\0", 8))
        return "the memfd is no .npy file of version 1";
    length = prefix[8] | (size_t)prefix[9] << 8;
    if (length > MAX_TEXT || length > array->size - PREFIX)
        return "the header is too long";
    if ((PREFIX + length) % sizeof(double))
        return "the data is not aligned";
    memcpy(text, prefix + PREFIX, length);
    text[length] = 0;

    array->dimensions = 0;
    array->rows = array->columns = 1;
    if (!take(&at, "{'descr': '<f8', 'fortran_order': False, 'shape': ("))
        return "the header is not that of float64 in C order";
    if (take_number(&at, &array->rows)) {
        array->dimensions = 1;
        if (!take(&at, ","))
            return "the shape is not valid";
        if (take(&at, " ")) {
            array->dimensions = 2;
            if (!take_number(&at, &array->columns))
                return "the shape is not valid";
        }
    }
    if (!take(&at, "), }"))
        return "the shape is not valid";
    at += strspn(at, " ");
    if (*at != '\n' || at + 1 != text + length)
        return "the header has no end";
    /* Divided, since a product could overflow. */
    room = (array->size - PREFIX - length) / sizeof(double);
    if (array->columns > room / array->rows)
        return "the shape promises more than the file holds";
    array->data = (const double *)(prefix + PREFIX + length);
    return NULL;
}

const char *receive_array(int sock, struct array *array)
{
    int fd = -1;
    const char *reason = receive_file(sock, &fd);

    if (!reason)
        reason = check_file(fd, &array->size);
    if (!reason) {
        array->memory = mmap(NULL, array->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (array->memory == MAP_FAILED)
            reason = why();
        else if ((reason = read_header(array)))
            release_array(array);
    }
    if (fd != -1)
        close_file(fd);
    return reason;
}

void release_array(struct array *array)
{
    munmap(array->memory, array->size);
}
