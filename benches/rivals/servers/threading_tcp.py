"""threading_tcp.py JOB ADDRESS: the echo server with socketserver and its threads, one for each client."""

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


class UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True
    max_packet_size = 64 * 1024


job, address = sys.argv[1:]
host, _, port = address.rpartition(":")
if job == "datagrams":
    server = UdpServer((host, int(port)), EchoDatagram)
else:
    server = TcpServer((host, int(port)), EchoOnce if job == "echo-once" else Echo)
server.serve_forever()
