"""asyncio_tls.py ADDRESS CERTIFICATE KEY: an echo server under TLS with asyncio's protocols."""

import asyncio
import ssl
import sys


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


async def serve(address, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    host, _, port = address.rpartition(":")
    server = await asyncio.get_running_loop().create_server(
        Echo, host, int(port), ssl=context, backlog=4096, ssl_handshake_timeout=3600)
    await server.serve_forever()


asyncio.run(serve(*sys.argv[1:]))
