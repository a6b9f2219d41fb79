/* event JOB TRANSPORT ADDRESS: the echo server with libevent, its bufferevents and its listener. */

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { BACKLOG = 4096 };

/* A client that does not read is not read from while so many bytes wait for it. */
enum { MOST_WAITING = 256 * 1024 };

static int echo_once;

static void fail(const char *address) {
    fprintf(stderr, "event: %s: %s\n", address, strerror(errno));
    exit(1);
}

static void close_when_drained(struct bufferevent *client, void *argument) {
    (void)argument;
    bufferevent_free(client);
}

static void on_event(struct bufferevent *client, short what, void *argument);

/* Closes, once all is sent that waits to be. */
static void finish(struct bufferevent *client) {
    bufferevent_disable(client, EV_READ);
    if (evbuffer_get_length(bufferevent_get_output(client)) == 0)
        bufferevent_free(client);
    else
        bufferevent_setcb(client, NULL, close_when_drained, on_event, NULL);
}

static void on_read(struct bufferevent *client, void *argument) {
    (void)argument;
    struct evbuffer *output = bufferevent_get_output(client);
    evbuffer_add_buffer(output, bufferevent_get_input(client));
    if (echo_once)
        finish(client);
    else if (evbuffer_get_length(output) >= MOST_WAITING)
        bufferevent_disable(client, EV_READ);
}

static void on_drained(struct bufferevent *client, void *argument) {
    (void)argument;
    if (!(bufferevent_get_enabled(client) & EV_READ))
        bufferevent_enable(client, EV_READ);
}

static void on_event(struct bufferevent *client, short what, void *argument) {
    (void)argument;
    if (what & BEV_EVENT_ERROR)
        bufferevent_free(client);
    else if (what & BEV_EVENT_EOF)
        finish(client);
}

static void on_connection(struct evconnlistener *listener, evutil_socket_t socket, struct sockaddr *peer, int length,
                          void *argument) {
    (void)peer, (void)length, (void)argument;
    struct event_base *base = evconnlistener_get_base(listener);
    struct bufferevent *client = bufferevent_socket_new(base, socket, BEV_OPT_CLOSE_ON_FREE);
    if (!client) {
        evutil_closesocket(socket);
        return;
    }
    bufferevent_setcb(client, on_read, on_drained, on_event, NULL);
    /* Writing is enabled from the start. */
    bufferevent_enable(client, EV_READ);
}

static void listen_again(evutil_socket_t socket, short what, void *listener) {
    (void)socket, (void)what;
    evconnlistener_enable(listener);
}

/* Too many descriptors, most likely: trying again at once would be a busy loop. */
static void on_accept_error(struct evconnlistener *listener, void *argument) {
    (void)argument;
    struct timeval pause = {.tv_usec = 10 * 1000};
    evconnlistener_disable(listener);
    event_base_once(evconnlistener_get_base(listener), -1, EV_TIMEOUT, listen_again, listener, &pause);
}

static void on_datagrams(evutil_socket_t socket, short what, void *argument) {
    (void)what, (void)argument;
    static char bytes[64 * 1024];
    for (;;) {
        struct sockaddr_storage sender;
        socklen_t size = sizeof sender;
        ssize_t length = recvfrom(socket, bytes, sizeof bytes, 0, (struct sockaddr *)&sender, &size);
        if (length < 0)
            return;
        /* What the socket does not take is lost, as datagrams may be. */
        (void)sendto(socket, bytes, length, 0, (struct sockaddr *)&sender, size);
    }
}

static void serve_datagrams(struct event_base *base, struct sockaddr *address, int size, const char *text) {
    evutil_socket_t datagrams = socket(address->sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (datagrams < 0 || bind(datagrams, address, size) < 0)
        fail(text);
    struct event *event = event_new(base, datagrams, EV_READ | EV_PERSIST, on_datagrams, NULL);
    if (!event || event_add(event, NULL) < 0)
        fail(text);
}

static void serve_streams(struct event_base *base, struct sockaddr *address, int size, const char *text) {
    unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE;
    struct evconnlistener *listener =
        evconnlistener_new_bind(base, on_connection, NULL, flags, BACKLOG, address, size);
    if (!listener)
        fail(text);
    evconnlistener_set_error_cb(listener, on_accept_error);
    /* Accepted sockets inherit it. */
    if (address->sa_family != AF_UNIX)
        setsockopt(evconnlistener_get_fd(listener), IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

int main(int count, char **words) {
    if (count != 4) {
        fputs("usage: event echo|echo-once tcp|unix|udp ADDRESS\n", stderr);
        return 2;
    }
    const char *transport = words[2], *text = words[3];
    echo_once = !strcmp(words[1], "echo-once");
    signal(SIGPIPE, SIG_IGN);

    union {
        struct sockaddr any;
        struct sockaddr_un unix_path;
        struct sockaddr_storage storage;
    } address = {.storage = {0}};
    int size = sizeof address;
    if (!strcmp(transport, "unix")) {
        size = sizeof address.unix_path;
        address.unix_path.sun_family = AF_UNIX;
        errno = ENAMETOOLONG;
        if (strlen(text) >= sizeof address.unix_path.sun_path)
            fail(text);
        strcpy(address.unix_path.sun_path, text);
    } else if (evutil_parse_sockaddr_port(text, &address.any, &size) < 0) {
        errno = EINVAL;
        fail(text);
    }

    struct event_base *base = event_base_new();
    if (!base)
        fail(text);
    if (!strcmp(transport, "udp"))
        serve_datagrams(base, &address.any, size, text);
    else
        serve_streams(base, &address.any, size, text);
    return event_base_dispatch(base) < 0;
}
