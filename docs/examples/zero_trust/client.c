/* Send an array to server.c or server.py and print its sums; the same as client.py.
 *
 *   cc -O2 -o client client.c array.c wire.c
 *   ./client SOCKET ROWS [COLUMNS]
 */
#include "wire.h"

#include <stdio.h>
#include <stdlib.h>

static const char *ask(const char *path, const struct array *array)
{
    struct array sums;
    int server = -1; /* closed when the program ends */
    const char *reason = connect_to(path, &server);

    if (!reason)
        reason = send_array(server, array);
    if (!reason)
        reason = receive_array(server, &sums);
    if (reason)
        return reason;
    if (sums.dimensions != array->dimensions - 1 || sums.rows != array->columns)
        return "the answer has another shape";
    for (size_t i = 0; i < sums.rows; ++i)
        printf("%.17g\n", sums.data[i]);
    release_array(&sums);
    return NULL;
}

int main(int argc, char **argv)
{
    struct array array = {argc - 2, 1, 1, NULL, NULL, 0};
    double *data;
    const char *reason;

    if (argc == 3 || argc == 4) {
        array.rows = strtoul(argv[2], NULL, 10);
        array.columns = argc == 4 ? strtoul(argv[3], NULL, 10) : 1;
    }
    if (argc < 3 || argc > 4 || !array.rows || !array.columns ||
        array.columns > MAX_SIZE / sizeof(double) / array.rows) {
        fprintf(stderr, "client SOCKET ROWS [COLUMNS]\n");
        return 2;
    }
    data = malloc(array.rows * array.columns * sizeof *data);
    if (!data)
        return 2;
    for (size_t i = 0; i < array.rows * array.columns; ++i)
        data[i] = i;
    array.data = data;
    reason = ask(argv[1], &array);
    free(data);
    if (reason)
        fprintf(stderr, "refused: %s\n", reason);
    return reason ? 1 : 0;
}
