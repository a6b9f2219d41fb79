/* uv JOB ADDRESS: the echo server with libuv.
 *
 * Answers are tried at once with uv_try_write; what the socket does not take is copied and queued, and nothing more is
 * read until it is gone. Stopped reading also means that the end of the client comes after the last answer. */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { BACKLOG = 4096 };

typedef struct {
    uv_write_t request;
    char bytes[];
} rest_t;

static int echo_once;
/* For reading, by all: what was read is written, or copied, before anything else is read. */
static char shared[64 * 1024];

static void check(int status, const char *what) {
    if (status < 0) {
        fprintf(stderr, "uv: %s: %s\n", what, uv_strerror(status));
        exit(1);
    }
}

static void *allocate(size_t size) {
    void *memory = malloc(size);
    check(memory ? 0 : UV_ENOMEM, "malloc");
    return memory;
}

static void lend_shared(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    (void)handle, (void)suggested;
    *buffer = uv_buf_init(shared, sizeof shared);
}

static void free_client(uv_handle_t *handle) {
    free(handle);
}

static void close_client(uv_stream_t *stream) {
    if (!uv_is_closing((uv_handle_t *)stream))
        uv_close((uv_handle_t *)stream, free_client);
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer);

static void on_written(uv_write_t *request, int status) {
    uv_stream_t *stream = request->handle;
    free(request);
    if (status < 0 || echo_once)
        close_client(stream);
    else
        uv_read_start(stream, lend_shared, on_read);
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer) {
    if (length < 0) {
        /* UV_EOF, or an error. */
        close_client(stream);
        return;
    }
    if (length == 0)
        return;

    uv_buf_t answer = uv_buf_init(buffer->base, length);
    int written = uv_try_write(stream, &answer, 1);
    if (written == UV_EAGAIN)
        written = 0;
    if (written < 0 || (written == length && echo_once)) {
        close_client(stream);
    } else if (written < length) {
        size_t left = length - written;
        rest_t *rest = allocate(sizeof *rest + left);
        memcpy(rest->bytes, buffer->base + written, left);
        uv_read_stop(stream);
        answer = uv_buf_init(rest->bytes, left);
        if (uv_write(&rest->request, stream, &answer, 1, on_written) < 0) {
            free(rest);
            close_client(stream);
        }
    }
}

static void on_connection(uv_stream_t *server, int status) {
    /* Without descriptors libuv itself accepts and closes. */
    if (status < 0)
        return;
    uv_tcp_t *client = allocate(sizeof *client);
    uv_tcp_init(server->loop, client);
    if (uv_accept(server, (uv_stream_t *)client) < 0) {
        close_client((uv_stream_t *)client);
        return;
    }
    uv_tcp_nodelay(client, 1);
    uv_read_start((uv_stream_t *)client, lend_shared, on_read);
}

static void on_datagram(uv_udp_t *socket, ssize_t length, const uv_buf_t *buffer, const struct sockaddr *sender,
                        unsigned flags) {
    (void)flags;
    if (length < 0 || !sender)
        return;
    /* Lost if there is no room for it, as datagrams are. */
    uv_buf_t answer = uv_buf_init(buffer->base, length);
    uv_udp_try_send(socket, &answer, 1, sender);
}

int main(int count, char **words) {
    static uv_tcp_t listener;
    static uv_udp_t datagrams;
    uv_loop_t *loop = uv_default_loop();
    char host[64];
    int port;
    struct sockaddr_in address;
    if (count != 3 || sscanf(words[2], "%63[^:]:%d", host, &port) != 2) {
        fputs("usage: uv echo|echo-once|datagrams ADDRESS\n", stderr);
        return 2;
    }
    check(uv_ip4_addr(host, port, &address), words[2]);
    echo_once = !strcmp(words[1], "echo-once");
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(words[1], "datagrams")) {
        uv_udp_init(loop, &datagrams);
        check(uv_udp_bind(&datagrams, (struct sockaddr *)&address, 0), words[2]);
        check(uv_udp_recv_start(&datagrams, lend_shared, on_datagram), words[2]);
    } else {
        /* libuv sets SO_REUSEADDR. */
        uv_tcp_init(loop, &listener);
        check(uv_tcp_bind(&listener, (struct sockaddr *)&address, 0), words[2]);
        check(uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection), words[2]);
    }
    return uv_run(loop, UV_RUN_DEFAULT);
}
