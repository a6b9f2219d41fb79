/* uv JOB TRANSPORT ADDRESS: the echo server with libuv.
 *
 * Answers are tried at once with uv_try_write; what the socket does not take is copied and queued, and nothing more is
 * read until it is gone. Stopped reading also means that the end of the client comes after the last answer. */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { BACKLOG = 4096 };

/* A libuv handle is one of these; the union makes room for either. */
typedef union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
} client_t;

typedef struct {
    uv_write_t request;
    char bytes[];
} rest_t;

typedef struct {
    uv_udp_send_t request;
    char bytes[];
} datagram_t;

static int echo_once;
/* For reading, by all: what was read is written, or copied, before anything else is read. */
static char shared[64 * 1024];

static void check(int status, const char *address) {
    if (status < 0) {
        fprintf(stderr, "uv: %s: %s\n", address, uv_strerror(status));
        exit(1);
    }
}

static void *allocate(size_t size) {
    void *memory = malloc(size);
    if (!memory) {
        fputs("uv: out of memory\n", stderr);
        exit(1);
    }
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
    client_t *client = allocate(sizeof *client);
    if (server->type == UV_TCP)
        uv_tcp_init(server->loop, &client->tcp);
    else
        uv_pipe_init(server->loop, &client->pipe, 0);
    if (uv_accept(server, &client->stream) < 0) {
        close_client(&client->stream);
        return;
    }
    if (server->type == UV_TCP)
        uv_tcp_nodelay(&client->tcp, 1);
    uv_read_start(&client->stream, lend_shared, on_read);
}

static void on_sent(uv_udp_send_t *request, int status) {
    (void)status;
    free(request);
}

static void on_datagram(uv_udp_t *socket, ssize_t length, const uv_buf_t *buffer, const struct sockaddr *sender,
                        unsigned flags) {
    (void)flags;
    if (length < 0 || !sender)
        return;
    uv_buf_t answer = uv_buf_init(buffer->base, length);
    if (uv_udp_try_send(socket, &answer, 1, sender) != UV_EAGAIN)
        return;
    datagram_t *datagram = allocate(sizeof *datagram + length);
    memcpy(datagram->bytes, buffer->base, length);
    answer = uv_buf_init(datagram->bytes, length);
    if (uv_udp_send(&datagram->request, socket, &answer, 1, sender, on_sent) < 0)
        free(datagram);
}

static struct sockaddr_in parse(const char *address) {
    char host[64];
    int port;
    struct sockaddr_in parsed;
    if (sscanf(address, "%63[^:]:%d", host, &port) != 2)
        check(UV_EINVAL, address);
    check(uv_ip4_addr(host, port, &parsed), address);
    return parsed;
}

static void serve(uv_loop_t *loop, const char *transport, const char *address) {
    static client_t listener;
    static uv_udp_t datagrams;
    if (!strcmp(transport, "unix")) {
        uv_pipe_init(loop, &listener.pipe, 0);
        check(uv_pipe_bind(&listener.pipe, address), address);
        check(uv_listen(&listener.stream, BACKLOG, on_connection), address);
        return;
    }
    struct sockaddr_in parsed = parse(address);
    if (!strcmp(transport, "udp")) {
        uv_udp_init(loop, &datagrams);
        check(uv_udp_bind(&datagrams, (struct sockaddr *)&parsed, 0), address);
        check(uv_udp_recv_start(&datagrams, lend_shared, on_datagram), address);
    } else {
        /* libuv sets SO_REUSEADDR. */
        uv_tcp_init(loop, &listener.tcp);
        check(uv_tcp_bind(&listener.tcp, (struct sockaddr *)&parsed, 0), address);
        check(uv_listen(&listener.stream, BACKLOG, on_connection), address);
    }
}

int main(int count, char **words) {
    if (count != 4) {
        fputs("usage: uv echo|echo-once tcp|unix|udp ADDRESS\n", stderr);
        return 2;
    }
    echo_once = !strcmp(words[1], "echo-once");
    signal(SIGPIPE, SIG_IGN);
    serve(uv_default_loop(), words[2], words[3]);
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
