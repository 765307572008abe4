/* What the kernel takes for one small memfd, without Python: microseconds a round.
 *
 *   cc -O2 -o small small.c && ./small ROUNDS
 *
 * Prints two numbers: memfd_create + close; and create, ftruncate to 4096 bytes, mmap
 * shared, touch, munmap, close.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

int measure(int rounds, double *microseconds)
{
    double start = now();
    for (int i = 0; i < rounds; i++)
        close(memfd_create("small", MFD_CLOEXEC));
    double middle = now();
    for (int i = 0; i < rounds; i++) {
        int fd = memfd_create("small", MFD_CLOEXEC);
        if (fd == -1 || ftruncate(fd, 4096) == -1)
            return 1;
        char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED)
            return 1;
        *(volatile char *)at = 1;
        munmap(at, 4096);
        close(fd);
    }
    microseconds[0] = (middle - start) / rounds;
    microseconds[1] = (now() - middle) / rounds;
    return 0;
}

int main(int argc, char **argv)
{
    double microseconds[2];
    if (measure(argc > 1 ? atoi(argv[1]) : 1000, microseconds))
        return 1;
    printf("%.3f %.3f\n", microseconds[0], microseconds[1]);
    return 0;
}
