/* What the kernel takes for a .npy file in a sealed memfd, without Python: the limits.
 *
 *   cc -O2 -shared -fPIC -pthread -o fill.so fill.c
 *
 * compare.py compiles and calls this, in its own process and on its own source, so that
 * limits and peers take turns.
 *
 * Every way of fill() does all that memfd.share() has to do: create, fill with a header
 * and the data, map privately for the caller, seal, unmap, close.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_PAGE ((size_t)2 << 20)
#define HEADER 128
#define MOST_THREADS 16
/* A rest that does not fill a huge page gets one all the same if it has so many bytes
 * and no more than a quarter of the file is wasted. */
#define LEAST_REST ((size_t)256 << 10)

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

static int fill_once(enum way way, const char *source, size_t size, int threads)
{
    struct part part = {.source = source, .size = HEADER + size, .end = HEADER + size};
    size_t reach = (part.size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1), reserved;
    int error = 0;
    part.fd = memfd_create("fill", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (part.fd == -1)
        return errno;
    /* Small files need no boundary, and less address space is less work. */
    reserved = part.size < LEAST_REST ? 0 : reach + HUGE_PAGE;
    char *whole = NULL;
    if (reserved) {
        whole = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (whole == MAP_FAILED) {
            error = errno;
            close(part.fd);
            return error;
        }
        part.at = (char *)(((uintptr_t)whole + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
    }
    int fixed = reserved ? MAP_FIXED : 0;
    if (way == WRITE) {
        error = write_part(&part, 0);
    } else {
        size_t length = way == HUGE && reserved ? reach : part.size;
        if (ftruncate(part.fd, part.size) == -1)
            error = errno;
        else
            part.at = mmap(part.at, length, PROT_READ | PROT_WRITE, MAP_SHARED | fixed,
                           part.fd, 0);
        if (!error && part.at == MAP_FAILED)
            error = errno;
        else if (!error && way == HUGE)
            error = fill_huge(&part, threads);
        else if (!error)
            copy_part(&part, 0, part.size);
        fixed = MAP_FIXED;
    }
    if (!error) {
        /* Over the writable mapping, which would keep the file from being sealed. */
        part.at = mmap(part.at, part.size, PROT_READ, MAP_PRIVATE | fixed, part.fd, 0);
        int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
        if (part.at == MAP_FAILED)
            error = errno;
        else {
            if (reserved && way == HUGE && reach > part.size) {
                /* What of the writable mapping reaches past the end of the file. */
                size_t last = (part.size + 4095) & ~(size_t)4095;
                if (reach > last)
                    munmap(part.at + last, reach - last);
            }
            if (fcntl(part.fd, F_ADD_SEALS, seals) == -1)
                error = errno;
        }
    }
    if (reserved)
        munmap(whole, reserved);
    else if (part.at && part.at != MAP_FAILED)
        munmap(part.at, part.size);
    close(part.fd);
    return error;
}

/* Return the seconds that one fill takes, of `count`; or -errno. */
double fill(int way, const char *source, size_t size, int threads, int count)
{
    double start = now();
    for (int i = 0; i < count; i++) {
        int error = fill_once(way, source, size, threads);
        if (error)
            return -error;
    }
    return (now() - start) / count;
}

/* Return the seconds that it takes to unmap `size` bytes whose pages were all touched;
 * or -errno. */
double unmap(size_t size)
{
    int error = 0;
    double seconds = 0;
    int fd = memfd_create("unmap", MFD_CLOEXEC);
    if (fd == -1)
        return -errno;
    char *at = MAP_FAILED;
    if (ftruncate(fd, size) == 0)
        at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        error = errno;
    } else {
        for (size_t done = 0; done < size; done += 4096)
            *(volatile char *)(at + done) = 1;
        double start = now();
        munmap(at, size);
        seconds = now() - start;
    }
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
