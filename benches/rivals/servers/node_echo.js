// node_echo.js JOB ADDRESS: the echo server with node's net and dgram.

'use strict';

const dgram = require('node:dgram');
const net = require('node:net');

const BACKLOG = 4096;

// `pipe` keeps what the client does not take yet, and stops reading meanwhile; when the client ends, so does the answer.
function echo(client) {
  client.pipe(client);
}

function echoOnce(client) {
  client.once('data', (data) => {
    client.write(data);
    client.destroySoon();
  });
}

function serveStreams(serve, host, port) {
  const server = net.createServer((client) => {
    // A client that is gone is no error; node closes its socket.
    client.on('error', () => {});
    client.setNoDelay(true);
    serve(client);
  });
  server.listen({ host, port, backlog: BACKLOG });
}

function serveDatagrams(host, port) {
  const socket = dgram.createSocket('udp4');
  // With a callback an answer that cannot be sent is dropped; without one it would end the program.
  const sent = () => {};
  socket.on('message', (message, sender) => socket.send(message, sender.port, sender.address, sent));
  socket.bind(port, host);
}

const [job, address] = process.argv.slice(2);
const [host, port] = address.split(':');
if (job === 'datagrams') {
  serveDatagrams(host, Number(port));
} else {
  serveStreams(job === 'echo-once' ? echoOnce : echo, host, Number(port));
}
