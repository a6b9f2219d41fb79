#!/usr/bin/env python3
"""Put fuzzed conversations to an echo server under TLS that is already running.

    tls_conversations.py HOST PORT [COUNT]

The client is that of tlslite-ng, which is no relative of the server's library.  Between
it and the socket, one record of what it sends is changed: a bit, its length, its type,
its version; it is cut, doubled, dropped, split, or something is put before it.  The
server may go on or end the connection, but it must do so at once, with at most one
alert in the clear, and serve the next client.  Everything is drawn from a seed, which
is the number of the conversation.

Exit status: 0 passed, 1 failed, 77 skipped (tlslite-ng cannot be imported).
"""
import random
import socket
import struct
import sys

try:
    from tlslite.api import HandshakeSettings, TLSConnection
except ImportError as e:
    print("skipped: tlslite-ng cannot be imported: %s" % e)
    sys.exit(77)

DEADLINE = 10
WAIT = 0.5  # for an answer to something that is incomplete
HANDSHAKE, ALERT, CCS, DATA, HEARTBEAT = 22, 21, 20, 23, 24


def bit(rng, record):
    at = rng.randrange(len(record))
    return [record[:at] + bytes([record[at] ^ 1 << rng.randrange(8)]) + record[at + 1:]]


def payload_bit(rng, record):
    if len(record) <= 5:
        return [record]
    at = rng.randrange(5, len(record))
    return [record[:at] + bytes([record[at] ^ 1 << rng.randrange(8)]) + record[at + 1:]]


def length(rng, record):
    new = rng.choice([0, 1, len(record) - 6 & 0xffff, len(record) - 4, 16385, 18433, 65535])
    return [record[:3] + struct.pack(">H", new) + record[5:]]


def kind(rng, record):
    return [bytes([rng.choice([0, 19, CCS, ALERT, HANDSHAKE, DATA, HEARTBEAT, 25, 128, 255])]) + record[1:]]


def version(rng, record):
    return [record[:1] + rng.choice([b"\0\2", b"\2\0", b"\3\0", b"\3\5", b"\x7f\x1c", b"\xff\xff"]) + record[3:]]


def cut(rng, record):
    return [record[:rng.randrange(len(record))], None]


def doubled(rng, record):
    return [record, record]


def dropped(rng, record):
    return []


def split(rng, record):
    size = rng.choice([1, 2, 3, 16, 64])
    return [record[:3] + struct.pack(">H", len(part)) + part
            for part in (record[at:at + size] for at in range(5, len(record), size))]


def inserted(rng, record):
    body = rng.choice([b"", b"\1", b"\1\0", b"\2\x28", b"\0\0\0\0", b"\1\xff\xff\xff", rng.randbytes(rng.randrange(300))])
    return [bytes([rng.choice([CCS, ALERT, HANDSHAKE, DATA, HEARTBEAT])]) + b"\3\3" + struct.pack(">H", len(body)) + body, record]


def empties(rng, record):
    return [bytes([rng.choice([CCS, HANDSHAKE, DATA])]) + b"\3\3\0\0"] * rng.choice([1, 31, 33, 200]) + [record]


def garbage(rng, record):
    return [rng.randbytes(rng.randrange(1, 2000)), None]


CHANGES = [bit, payload_bit, length, kind, version, cut, doubled, dropped, split, inserted, empties, garbage]


class Between:
    """A socket that changes one record of what is sent."""

    def __init__(self, sock, rng, which, change):
        self.sock, self.rng, self.which, self.change = sock, rng, which, change
        self.pending, self.count, self.over, self.received = b"", 0, False, b""

    def send(self, data):
        self.pending += bytes(data)
        while len(self.pending) >= 5:
            size = 5 + struct.unpack(">H", self.pending[3:5])[0]
            if len(self.pending) < size:
                break
            record, self.pending = self.pending[:size], self.pending[size:]
            parts = self.change(self.rng, record) if self.count == self.which else [record]
            self.count += 1
            for part in parts:
                if self.over:
                    break
                if part is None:
                    self.over = True
                    self.sock.shutdown(socket.SHUT_WR)
                else:
                    self.sock.sendall(part)
        return len(data)

    def sendall(self, data):
        self.send(data)

    def recv(self, size):
        data = self.sock.recv(size)
        self.received += data
        return data

    def close(self):
        pass  # Not before everything was received.

    def shutdown(self, how):
        pass

    def __getattr__(self, name):
        return getattr(self.sock, name)


def settings(number):
    result = HandshakeSettings()
    result.minVersion = result.maxVersion = (3, 3 + number % 2)
    return result


def connect(address):
    sock = socket.create_connection(address, timeout=DEADLINE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def echo(connection, data):
    connection.sendall(data)
    back = bytearray()
    while len(back) < len(data):
        part = connection.recv(len(data) - len(back))
        if not part:
            return None
        back += part
    return bytes(back)


def converse(address, number):
    rng = random.Random(number)
    change = CHANGES[number // 2 % len(CHANGES)]
    between = Between(connect(address), rng, rng.randrange(7), change)
    between.sock.settimeout(WAIT)
    tls = TLSConnection(between)
    try:
        tls.handshakeClientCert(settings=settings(number))
        for size in (1, 100, 5000):
            data = rng.randbytes(size)
            back = echo(tls, data)
            if back is None:
                break
            assert back == data or between.count > between.which, "an echo was changed"
    except socket.timeout:
        # The client waits for an answer to something that the server waits for the rest of.
        pass
    except AssertionError:
        raise
    except Exception:
        pass  # An alert, or an end.
    # Whatever it was, our end ends it.
    between.sock.settimeout(DEADLINE)
    try:
        between.sock.shutdown(socket.SHUT_WR)
        while between.recv(65536):
            pass
    except socket.timeout:
        raise AssertionError("it neither ends nor goes on")
    except OSError:
        pass
    alerts, at = 0, 0
    while at + 5 <= len(between.received):
        size = struct.unpack(">H", between.received[at + 3:at + 5])[0]
        alerts += between.received[at] == ALERT and size == 2
        at += 5 + size
    assert alerts <= 1, "%d alerts in the clear" % alerts
    assert at == len(between.received), "the server has ended in the middle of a record"
    between.sock.close()


def main():
    address = (sys.argv[1], int(sys.argv[2]))
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 240
    for number in range(count):
        try:
            converse(address, number)
            if number % 20 == 0:
                tls = TLSConnection(connect(address))
                tls.handshakeClientCert(settings=settings(number // 20))
                assert echo(tls, b"still there?") == b"still there?"
                tls.close()
        except Exception as e:
            print("failed: conversation %d (%s): %s: %s" % (number, CHANGES[number // 2 % len(CHANGES)].__name__, type(e).__name__, e))
            return 1
    print("passed: %d conversations" % count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
