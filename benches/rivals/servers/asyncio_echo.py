"""asyncio_echo.py JOB ADDRESS: the echo server with asyncio's protocols.

Protocols rather than streams: asyncio offers them where speed matters. It sets TCP_NODELAY itself.
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


class EchoOnce(Echo):
    def data_received(self, data):
        self.transport.write(data)
        # Once all is sent.
        self.transport.close()


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, sender):
        self.transport.sendto(data, sender)


async def serve(job, address):
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    if job == "datagrams":
        await loop.create_datagram_endpoint(EchoDatagrams, local_addr=(host, int(port)))
        await loop.create_future()
    protocol = EchoOnce if job == "echo-once" else Echo
    server = await loop.create_server(protocol, host, int(port), backlog=BACKLOG, reuse_address=True)
    await server.serve_forever()


asyncio.run(serve(*sys.argv[1:]))
