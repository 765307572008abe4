/* What the kernel takes for a .npy file in a sealed memfd, without Python: the limits.
 *
 *   cc -O2 -shared -fPIC -pthread -o fill.so fill.c
 *
 * compare.py compiles and calls this, in its own process and on its own source, so that
 * limits and peers take turns.
 *
 * Every way of fill() does all that memfd.share() has to do: create with a mode that
 * keeps others from writing, fill with a header and the data, map privately for the
 * caller, seal, unmap, close.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_PAGE ((size_t)2 << 20)
#define HEADER 128
#define MOST_THREADS 16
#define MOST_WORKERS 16
/* A rest that does not fill a huge page gets one all the same if it has so many bytes
 * and no more than a quarter of the file is wasted. */
#define LEAST_REST ((size_t)256 << 10)

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)

enum way { MAP, WRITE, HUGE };

static char header[HEADER];

/* Bytes [begin, end) of a file that is mapped at `at`. */
struct part {
    int fd;
    char *at;
    const char *source;
    size_t begin, end, size;
    int error;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int write_part(const struct part *part, size_t done)
{
    while (done < part->end) {
        ssize_t wrote;
        if (done == 0) {
            struct iovec both[2] = {
                {header, HEADER}, {(char *)part->source, part->end - HEADER}};
            wrote = pwritev(part->fd, both, 2, 0);
            if (wrote >= 0 && wrote < HEADER)
                return EIO;
        } else {
            wrote = pwrite(part->fd, part->source + done - HEADER, part->end - done,
                           done);
        }
        if (wrote <= 0)
            return wrote ? errno : EIO;
        done += wrote;
    }
    return 0;
}

static void copy_part(const struct part *part, size_t begin, size_t end)
{
    if (begin == 0) {
        memcpy(part->at, header, HEADER);
        begin = HEADER;
    }
    memcpy(part->at + begin, part->source + begin - HEADER, end - begin);
}

/* Make one huge page; it answers EINVAL while no page is there at all. */
static int collapse(char *at)
{
    /* Not volatile, the compiler would drop it. */
    *(volatile char *)at = 0;
    if (madvise(at, HUGE_PAGE, MADV_COLLAPSE) == 0)
        return 0;
    return errno == EAGAIN ? madvise(at, HUGE_PAGE, MADV_COLLAPSE) : -1;
}

static void *fill_part(void *given)
{
    struct part *part = given;
    size_t done = part->begin;
    while (done < part->end) {
        size_t left = part->end - done;
        size_t size = left < HUGE_PAGE ? left : HUGE_PAGE;
        int worth = size == HUGE_PAGE ||
                    (size >= LEAST_REST && HUGE_PAGE - size <= part->size / 4);
        if (!worth || collapse(part->at + done))
            break;
        copy_part(part, done, done + size);
        done += size;
    }
    part->error = write_part(part, done);
    return NULL;
}

static int fill_huge(struct part *whole, int threads)
{
    size_t pages = (whole->size + HUGE_PAGE - 1) / HUGE_PAGE;
    struct part parts[MOST_THREADS];
    pthread_t others[MOST_THREADS];
    int error = 0, running = 1;
    if (threads > MOST_THREADS)
        return EINVAL;
    for (int i = 0; i < threads; i++) {
        parts[i] = *whole;
        parts[i].begin = pages * i / threads * HUGE_PAGE;
        parts[i].end = pages * (i + 1) / threads * HUGE_PAGE;
        if (parts[i].end > whole->size)
            parts[i].end = whole->size;
    }
    while (running < threads && !error) {
        error = pthread_create(&others[running], NULL, fill_part, &parts[running]);
        if (!error)
            running++;
    }
    fill_part(&parts[0]);
    for (int i = 0; i < running; i++) {
        if (i > 0)
            pthread_join(others[i], NULL);
        if (!error)
            error = parts[i].error;
    }
    return error;
}

/* A sealed memfd, and where the caller maps it. */
struct made {
    int fd;
    char *at, *whole;
    size_t size, reserved;
};

static void drop(struct made *made)
{
    if (made->whole)
        munmap(made->whole, made->reserved);
    else if (made->at)
        munmap(made->at, made->size);
    close(made->fd);
}

static int make(struct made *made, enum way way, const char *source, size_t size,
                int threads)
{
    struct part part = {.source = source, .size = HEADER + size, .end = HEADER + size};
    size_t reach = (part.size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    int error = 0, fixed = 0;
    *made = (struct made){.size = part.size};
    part.fd = made->fd = memfd_create("fill", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (part.fd == -1)
        return errno;
    /* Small files need no boundary, and less address space is less work. */
    if (part.size >= LEAST_REST) {
        made->reserved = reach + HUGE_PAGE;
        made->whole = mmap(NULL, made->reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
                           -1, 0);
        if (made->whole == MAP_FAILED) {
            made->whole = NULL;
            goto failed;
        }
        part.at = (char *)(((uintptr_t)made->whole + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
        fixed = MAP_FIXED;
    }
    /* The mode, which else lets everybody open the file for writing through /proc. */
    if (fchmod(part.fd, 0644) == -1)
        goto failed;
    if (way == WRITE) {
        error = write_part(&part, 0);
    } else {
        size_t length = way == HUGE && made->whole ? reach : part.size;
        if (ftruncate(part.fd, part.size) == -1)
            goto failed;
        part.at = mmap(part.at, length, PROT_READ | PROT_WRITE, MAP_SHARED | fixed,
                       part.fd, 0);
        if (part.at == MAP_FAILED)
            goto failed;
        made->at = part.at;
        fixed = MAP_FIXED;
        if (way == HUGE)
            error = fill_huge(&part, threads);
        else
            copy_part(&part, 0, part.size);
    }
    if (error) {
        drop(made);
        return error;
    }
    /* Over the writable mapping, which would keep the file from being sealed. */
    part.at = mmap(part.at, part.size, PROT_READ, MAP_PRIVATE | fixed, part.fd, 0);
    if (part.at == MAP_FAILED)
        goto failed;
    made->at = part.at;
    /* What of the writable mapping reaches past the end of the file. */
    size_t last = (part.size + 4095) & ~(size_t)4095;
    if (way == HUGE && made->whole && reach > last)
        munmap(part.at + last, reach - last);
    if (fcntl(part.fd, F_ADD_SEALS, SEALS) == 0)
        return 0;
failed:
    error = errno;
    drop(made);
    return error;
}

/* Return the seconds that one fill takes, of `count`; or -errno. */
double fill(int way, const char *source, size_t size, int threads, int count)
{
    double start = now();
    for (int i = 0; i < count; i++) {
        struct made made;
        int error = make(&made, way, source, size, threads);
        if (error)
            return -error;
        drop(&made);
    }
    return (now() - start) / count;
}

/* Return the seconds that it takes to unmap `size` bytes whose pages were all touched,
 * or, to freeze them: to lay a private mapping over, to map them for reading, and to
 * seal; or -errno.  With `huge`, the pages are huge ones. */
double give_up(size_t size, int freeze, int huge)
{
    int error = 0;
    double seconds = 0;
    char *at = MAP_FAILED, *kept = MAP_FAILED, *whole;
    int fd = memfd_create("give up", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd == -1)
        return -errno;
    whole = mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (whole != MAP_FAILED && ftruncate(fd, size) == 0) {
        at = (char *)(((uintptr_t)whole + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
        at = mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    }
    if (at == MAP_FAILED) {
        error = errno;
    } else {
        for (size_t done = 0; huge && done < size; done += HUGE_PAGE)
            collapse(at + done);
        for (size_t done = 0; done < size; done += 4096)
            *(volatile char *)(at + done) = 1;
        double start = now();
        if (!freeze) {
            munmap(at, size);
        } else {
            kept = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
            at = mmap(at, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, 0);
            if (kept == MAP_FAILED || at == MAP_FAILED ||
                fcntl(fd, F_ADD_SEALS, SEALS) == -1)
                error = errno;
        }
        seconds = now() - start;
    }
    if (kept != MAP_FAILED)
        munmap(kept, size);
    if (whole != MAP_FAILED)
        munmap(whole, size + HUGE_PAGE);
    close(fd);
    return error ? -error : seconds;
}

/* Return the seconds that it takes to map a filled memfd, touch every page, or read
 * every byte, and unmap it; or -errno.  `way` says what kind of pages it has. */
double look(int way, const char *source, size_t size, int every)
{
    struct part part = {.source = source, .size = HEADER + size, .end = HEADER + size};
    size_t reach = (part.size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    uint64_t sum = 0;
    double seconds = 0;
    int error;
    part.fd = memfd_create("look", MFD_CLOEXEC);
    if (part.fd == -1)
        return -errno;
    char *whole = mmap(NULL, reach + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
                       -1, 0);
    char *at = (char *)(((uintptr_t)whole + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
    error = whole == MAP_FAILED || ftruncate(part.fd, part.size) == -1 ? errno : 0;
    if (!error && way == HUGE) {
        part.at = mmap(at, reach, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                       part.fd, 0);
        error = part.at == MAP_FAILED ? errno : fill_huge(&part, 1);
    } else if (!error) {
        error = write_part(&part, 0);
    }
    if (whole != MAP_FAILED)
        munmap(whole, reach + HUGE_PAGE);
    if (!error) {
        double start = now();
        whole = mmap(NULL, reach + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0);
        at = (char *)(((uintptr_t)whole + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
        at = mmap(at, reach, PROT_READ, MAP_PRIVATE | MAP_FIXED, part.fd, 0);
        if (at == MAP_FAILED)
            error = errno;
        else if (every)
            for (size_t i = 0; i < part.size / 8; i++)
                sum += ((const uint64_t *)at)[i];
        else
            for (size_t i = 0; i < part.size; i += 4096)
                sum += *(const volatile char *)(at + i);
        munmap(whole, reach + HUGE_PAGE);
        seconds = now() - start;
    }
    close(part.fd);
    /* The sum is used, so that the compiler keeps it. */
    return error ? -error : seconds + (sum == 1) * 1e-12;
}

/* Map what comes through a socket and touch a byte every `step`, until the socket ends. */
static void serve(int socket, size_t size, size_t step)
{
    size_t reach = (HEADER + size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    char byte, room[CMSG_SPACE(sizeof(int))];
    struct iovec data = {&byte, 1};
    for (;;) {
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1,
                                 .msg_control = room, .msg_controllen = sizeof room};
        int fd;
        if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 ||
            !CMSG_FIRSTHDR(&message))
            return;
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        char *whole = mmap(NULL, reach + HUGE_PAGE, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *at = (char *)(((uintptr_t)whole + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
        if (whole == MAP_FAILED || mmap(at, reach, PROT_READ, MAP_PRIVATE | MAP_FIXED,
                                        fd, 0) == MAP_FAILED)
            return;
        for (size_t i = 0; i < HEADER + size; i += step)
            *(const volatile char *)(at + i);
        close(fd);
        if (write(socket, &byte, 1) != 1)
            return;
        munmap(whole, reach + HUGE_PAGE);
    }
}

static int send_file(int socket, int fd)
{
    char room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec data = {"f", 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1,
                             .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(control), &fd, sizeof fd);
    return sendmsg(socket, &message, MSG_NOSIGNAL) == 1 ? 0 : errno;
}

/* Return the seconds from before a memfd is made until `count` running processes have
 * touched a byte of it every `step`, and it was dropped; the best of `times`; or -errno. */
double share(int way, const char *source, size_t size, int threads, int count,
             size_t step, int times)
{
    int sockets[MOST_WORKERS], children[MOST_WORKERS], running = 0, error = 0;
    double best = 1e9;
    if (count > MOST_WORKERS)
        return -EINVAL;
    while (running < count && !error) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == -1) {
            error = errno;
            break;
        }
        children[running] = fork();
        if (children[running] == 0) {
            for (int i = 0; i < running; i++)
                close(sockets[i]);
            close(pair[0]);
            serve(pair[1], size, step);
            _exit(0);
        }
        close(pair[1]);
        sockets[running] = pair[0];
        if (children[running] == -1) {
            error = errno;
            close(pair[0]);
        } else {
            running++;
        }
    }
    for (int i = 0; i < times && !error; i++) {
        struct made made;
        char byte;
        double start = now();
        error = make(&made, way, source, size, threads);
        if (error)
            break;
        for (int j = 0; j < running && !error; j++)
            error = send_file(sockets[j], made.fd);
        for (int j = 0; j < running && !error; j++)
            error = read(sockets[j], &byte, 1) == 1 ? 0 : EPIPE;
        drop(&made);
        double seconds = now() - start;
        if (seconds < best)
            best = seconds;
    }
    for (int i = 0; i < running; i++) {
        close(sockets[i]);
        waitpid(children[i], NULL, 0);
    }
    return error ? -error : best;
}
