"""gevent_echo.py JOB TRANSPORT ADDRESS: the echo server with gevent, one greenlet for each client."""

import sys

from gevent import socket
from gevent.server import DatagramServer, StreamServer

BACKLOG = 4096


def echo(client, _address):
    # A client that is gone is no error. gevent closes the socket when this returns.
    try:
        while data := client.recv(64 * 1024):
            client.sendall(data)
    except ConnectionError:
        pass


def echo_once(client, _address):
    try:
        client.sendall(client.recv(64 * 1024))
    except ConnectionError:
        pass


class EchoDatagrams(DatagramServer):
    """Of up to 8 KiB each: gevent reads no more."""

    def handle(self, data, sender):
        self.sendto(data, sender)


def listen(transport, address):
    if transport == "unix":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
    else:
        host, _, port = address.rpartition(":")
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        # Accepted sockets inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        listener.bind((host, int(port)))
    listener.listen(BACKLOG)
    return listener


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: gevent_echo.py echo|echo-once tcp|unix|udp ADDRESS")
    job, transport, address = sys.argv[1:]
    if transport == "udp":
        server = EchoDatagrams(address)
    else:
        server = StreamServer(listen(transport, address), echo_once if job == "echo-once" else echo)
    server.serve_forever()


if __name__ == "__main__":
    main()
