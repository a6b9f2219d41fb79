"""threading_tcp.py JOB TRANSPORT ADDRESS: the echo server with socketserver and its threads, one for each client."""

import contextlib
import socket
import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        # A client that is gone is no error.
        with contextlib.suppress(ConnectionError):
            while data := self.request.recv(64 * 1024):
                self.request.sendall(data)


class EchoOnce(socketserver.BaseRequestHandler):
    def handle(self):
        with contextlib.suppress(ConnectionError):
            self.request.sendall(self.request.recv(64 * 1024))


class EchoDatagram(socketserver.BaseRequestHandler):
    def handle(self):
        data, answers = self.request
        answers.sendto(data, self.client_address)


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 4096

    def server_activate(self):
        # Accepted sockets inherit it.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        super().server_activate()


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 4096


class UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True
    max_packet_size = 64 * 1024


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: threading_tcp.py echo|echo-once tcp|unix|udp ADDRESS")
    job, transport, address = sys.argv[1:]
    handler = EchoOnce if job == "echo-once" else Echo
    if transport == "unix":
        server = UnixServer(address, handler)
    else:
        host, _, port = address.rpartition(":")
        if transport == "udp":
            server = UdpServer((host, int(port)), EchoDatagram)
        else:
            server = TcpServer((host, int(port)), handler)
    with server:
        server.serve_forever()


if __name__ == "__main__":
    main()
