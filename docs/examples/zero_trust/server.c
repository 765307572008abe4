/* Sum the columns of arrays that strangers send; the same service as server.py.
 *
 *   cc -O2 -o server server.c array.c wire.c
 *   ./server SOCKET
 */
#define _GNU_SOURCE
#include "wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *answer(int client, const struct array *array)
{
    struct array sums = {array->dimensions - 1, array->columns, 1, NULL, NULL, 0};
    double *data = calloc(sums.rows, sizeof *data);
    const char *reason;

    if (!data)
        return "no memory";
    for (size_t row = 0; row < array->rows; ++row)
        for (size_t column = 0; column < array->columns; ++column)
            data[column] += array->data[row * array->columns + column];
    sums.data = data;
    reason = send_array(client, &sums);
    free(data);
    return reason;
}

static const char *serve(int client)
{
    struct array array;
    const char *reason = set_deadline(client);

    if (!reason)
        reason = receive_array(client, &array);
    if (reason)
        return reason;
    reason = array.dimensions ? answer(client, &array) : "the array has no dimension";
    release_array(&array);
    return reason;
}

int main(int argc, char **argv)
{
    const char *reason = argc == 2 ? NULL : "the path of a socket is needed";
    int listener = -1;

    if (!reason)
        reason = listen_at(argv[1], &listener);
    if (reason) {
        fprintf(stderr, "server: %s\n", reason);
        return 1;
    }
    printf("listening at %s\n", argv[1]);
    fflush(stdout);
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (client == -1) {
            perror("accept4");
            return 1;
        }
        if ((reason = serve(client)))
            fprintf(stderr, "refused: %s\n", reason);
        close(client);
    }
}
