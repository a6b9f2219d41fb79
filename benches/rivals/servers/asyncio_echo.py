"""asyncio_echo.py [--uvloop] JOB TRANSPORT ADDRESS: the echo server with asyncio's protocols, on its own loop or uvloop.

Protocols rather than streams: they are what asyncio offers to those who want speed. It sets TCP_NODELAY itself.
"""

import asyncio
import sys

BACKLOG = 4096


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    # A client that does not read is not read from. When it ends, the transport sends what is left, then closes.

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class EchoOnce(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)
        # Once all is sent.
        self.transport.close()


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, sender):
        self.transport.sendto(data, sender)


async def serve(job, transport, address):
    loop = asyncio.get_running_loop()
    protocol = EchoOnce if job == "echo-once" else Echo
    if transport == "unix":
        server = await loop.create_unix_server(protocol, address, backlog=BACKLOG)
    else:
        host, _, port = address.rpartition(":")
        if transport == "udp":
            await loop.create_datagram_endpoint(EchoDatagrams, local_addr=(host, int(port)))
            await loop.create_future()
        server = await loop.create_server(protocol, host, int(port), backlog=BACKLOG, reuse_address=True)
    await server.serve_forever()


def main():
    words = sys.argv[1:]
    if words[:1] == ["--uvloop"]:
        import uvloop

        words.pop(0)
        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    if len(words) != 3:
        sys.exit("usage: asyncio_echo.py [--uvloop] echo|echo-once tcp|unix|udp ADDRESS")
    loop.run_until_complete(serve(*words))


if __name__ == "__main__":
    main()
