/* Unix sockets, and what docs/sockets.md calls the wire. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* Version 1, kind 0 (a file), nothing follows. */
static const unsigned char FRAME[12] = {0xFE, 'M', 'F', 'D', 1};

const char *why(void)
{
    return errno == EAGAIN ? "nothing came in time" : strerror(errno);
}

static const char *open_socket(const char *path, int *sock, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path)
        return "the path is too long";
    strcpy(address->sun_path, path);
    *sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return *sock == -1 ? why() : NULL;
}

const char *listen_at(const char *path, int *sock)
{
    struct sockaddr_un address;
    const char *reason = open_socket(path, sock, &address);

    if (reason)
        return reason;
    if (bind(*sock, (struct sockaddr *)&address, sizeof address) || listen(*sock, 16))
        return why();
    return NULL;
}

const char *connect_to(const char *path, int *sock)
{
    struct sockaddr_un address;
    const char *reason = open_socket(path, sock, &address);

    if (!reason)
        reason = set_deadline(*sock);
    if (reason)
        return reason;
    return connect(*sock, (struct sockaddr *)&address, sizeof address) ? why() : NULL;
}

const char *set_deadline(int sock)
{
    struct timeval limit = {.tv_sec = DEADLINE};

    if (setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) ||
        setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit))
        return why();
    return NULL;
}

const char *send_file(int sock, int fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec piece = {(void *)FRAME, sizeof FRAME};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1,
        .msg_control = &control, .msg_controllen = sizeof control};

    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    /* So few bytes go as a whole, as long as the other side reads its messages. */
    return sendmsg(sock, &message, MSG_NOSIGNAL) == sizeof FRAME ? NULL : why();
}

void close_file(int fd)
{
    const struct linger none = {0};

    /* It may be a socket that waits for its own peer when it is closed. */
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(fd);
}

const char *receive_file(int sock, int *fd)
{
    unsigned char frame[sizeof FRAME];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec piece = {frame, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1,
        .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header;
    int count = 0;

    /* One byte first: a longer read could take descriptors of later bytes for its. */
    ssize_t got = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
    if (got == -1)
        return why();
    for (header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        /* Room for one is, for the sake of alignment, room for two. */
        for (size_t at = CMSG_LEN(0); at < header->cmsg_len; at += sizeof(int)) {
            int one;
            memcpy(&one, (char *)header + at, sizeof one);
            if (count++ == 0)
                *fd = one;
            else
                close_file(one);
        }
    }
    if (got == 0)
        return "the other side has closed the socket";
    if (count != 1 || message.msg_flags & MSG_CTRUNC)
        return count ? "more than one descriptor came" : "no descriptor came";

    piece = (struct iovec){frame + 1, sizeof frame - 1};
    message = (struct msghdr){.msg_iov = &piece, .msg_iovlen = 1};
    got = recvmsg(sock, &message, MSG_WAITALL);
    if (got == -1)
        return why();
    if (message.msg_flags & MSG_CTRUNC)
        return "a descriptor came in the middle of a message";
    if (got != sizeof frame - 1)
        return "half a message came";
    return memcmp(frame, FRAME, sizeof frame) ? "the message is no frame of a file" : NULL;
}
