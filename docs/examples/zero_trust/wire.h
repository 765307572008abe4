/* Arrays of float64 that pass between programs that do not trust each other. */
#ifndef WIRE_H
#define WIRE_H

#include <stddef.h>

#define MAX_SIZE ((size_t)1 << 26) /* of a file, in bytes */
#define DEADLINE 5                 /* in seconds */

struct array {
    int dimensions;       /* 0, 1 or 2 */
    size_t rows, columns; /* 1 where there is no such dimension; never 0 */
    const double *data;
    void *memory; /* what was mapped, by receive_array() */
    size_t size;
};

/* What returns a text returns NULL, or the reason why not. */

/* What errno means. */
const char *why(void);

/* Open a Unix stream socket: listening at a path, or connected to who listens there. */
const char *listen_at(const char *path, int *sock);
const char *connect_to(const char *path, int *sock);

/* Let no call on a socket wait longer than DEADLINE. */
const char *set_deadline(int sock);

/* Send a descriptor in a frame, or receive one: it is then the caller's, even where the
 * message is refused for another reason. */
const char *send_file(int sock, int fd);
const char *receive_file(int sock, int *fd);

/* Close what a stranger sent.  A file whose file system is theirs can still keep this
 * waiting; a server that shall bear that has a process for each client. */
void close_file(int fd);

/* Put an array into a sealed memfd and send that. */
const char *send_array(int sock, const struct array *array);

/* Receive an array that nobody can change any more; release_array() gives it back. */
const char *receive_array(int sock, struct array *array);
void release_array(struct array *array);

#endif
