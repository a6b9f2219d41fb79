#!/usr/bin/env python3
"""Put Python's ssl module to an echo server under TLS that is already running.

    tls_judge.py HOST PORT CERT

CERT is the certificate to trust, for the name localhost.  Exit status: 0 passed,
1 failed, 77 skipped (no ssl here).
"""
import random
import select
import socket
import sys

try:
    import ssl
except ImportError as e:
    print("skipped: this Python has no ssl: %s" % e)
    sys.exit(77)

DEADLINE = 30


def context(version=None):
    result = ssl.create_default_context(cafile=sys.argv[3])
    if version is not None:
        result.minimum_version = result.maximum_version = version
    return result


def connect(ctx, session=None, ragged=False):
    raw = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=DEADLINE)
    return ctx.wrap_socket(raw, server_hostname="localhost", session=session, suppress_ragged_eofs=ragged)


def read_exactly(sock, size):
    parts = []
    while size:
        part = sock.recv(min(size, 65536))
        assert part, "the end came %d bytes early" % size
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def echoed(sock, data):
    """Sends the data and reads as many bytes back, side by side.

    One thread does both. Before Python 3.13, two threads that use one SSLSocket at the same time break it.
    """
    view, sent, parts, left = memoryview(data), 0, [], len(data)
    sock.setblocking(False)
    while left:
        waits = sent == len(data)
        if not waits:
            try:
                sent += sock.send(view[sent:sent + (1 << 20)])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                waits = True
        try:
            part = sock.recv(min(left, 65536))
            assert part, "the end came %d bytes early" % left
            parts.append(part)
            left -= len(part)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if waits:
                writers = [sock] if sent < len(data) else []
                assert any(select.select([sock], writers, [], DEADLINE)), "%d bytes did not come back" % left
    sock.settimeout(DEADLINE)
    return b"".join(parts)


def pieces(version):
    """Writes of every size, cut anywhere, come back."""
    rng = random.Random(7)
    with connect(context(version)) as sock:
        for size in [0, 1, 2, 100, 16383, 16384, 16385, 70000] + [rng.randrange(1, 50000) for _ in range(30)]:
            data = rng.randbytes(size)
            assert echoed(sock, data) == data, "%d bytes came back changed" % size


def one_byte_at_a_time(version):
    """The wire in single bytes, through a proxy in memory."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    obj = context(version).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=DEADLINE) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def flush():
            for byte in outgoing.read():
                raw.sendall(bytes([byte]))

        def until_done(call, *args):
            while True:
                try:
                    return call(*args)
                except ssl.SSLWantReadError:
                    flush()
                    incoming.write(raw.recv(1))

        until_done(obj.do_handshake)
        obj.write(b"hello")
        flush()
        assert until_done(obj.read, 5) == b"hello"


def half_close(version):
    """Our close_notify; the rest still comes, and then the server's close_notify."""
    with connect(context(version)) as sock:
        data = random.Random(8).randbytes(300000)
        assert echoed(sock, data) == data
        sock.unwrap().close()  # fails unless the server answers with its own


def truncated(version):
    """The end of the socket alone: the server does not take it for an end, and says so."""
    sock = connect(context(version))
    sock.sendall(b"half")
    assert read_exactly(sock, 4) == b"half"
    sock.shutdown(socket.SHUT_WR)  # of the socket below
    sock.settimeout(DEADLINE)
    raw = socket.socket(fileno=sock.detach())
    raw.settimeout(DEADLINE)
    while raw.recv(4096):
        pass
    raw.close()


def resumption(version):
    ctx = context(version)
    with connect(ctx) as sock:
        sock.sendall(b"one")
        assert read_exactly(sock, 3) == b"one"
        session = sock.session
        assert not sock.session_reused
    with connect(ctx, session) as sock:
        sock.sendall(b"two")
        assert read_exactly(sock, 3) == b"two"
        assert sock.session_reused, "the session was not resumed"


def much(version):
    """64 MiB, byte for byte."""
    data = random.Random(9).randbytes(1 << 20) * 64
    with connect(context(version)) as sock:
        assert echoed(sock, data) == data, "64 MiB came back changed"


def main():
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for check in (pieces, one_byte_at_a_time, half_close, truncated, resumption, much):
            try:
                check(version)
            except Exception as e:
                print("failed: %s with %s: %s: %s" % (check.__name__, version.name, type(e).__name__, e))
                return 1
    print("passed with Python %s and %s" % (sys.version.split()[0], ssl.OPENSSL_VERSION))
    return 0


if __name__ == "__main__":
    sys.exit(main())
