// node_echo.js JOB TRANSPORT ADDRESS: the echo server with node's net and dgram.

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

function serveStreams(serve, where) {
  const server = net.createServer((client) => {
    // A client that is gone is no error; node closes its socket.
    client.on('error', () => {});
    client.setNoDelay(true);
    serve(client);
  });
  server.listen({ ...where, backlog: BACKLOG });
}

function serveDatagrams(where) {
  const socket = dgram.createSocket('udp4');
  // With a callback an answer that cannot be sent is dropped; without one it would end the program.
  const sent = () => {};
  socket.on('message', (message, sender) => socket.send(message, sender.port, sender.address, sent));
  socket.bind(where.port, where.host);
}

function main(words) {
  if (words.length !== 3) {
    console.error('usage: node_echo.js echo|echo-once tcp|unix|udp ADDRESS');
    process.exit(2);
  }
  const [job, transport, address] = words;
  const serve = job === 'echo-once' ? echoOnce : echo;
  if (transport === 'unix') {
    serveStreams(serve, { path: address });
    return;
  }
  const colon = address.lastIndexOf(':');
  const where = { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
  if (transport === 'udp') {
    serveDatagrams(where);
  } else {
    serveStreams(serve, where);
  }
}

main(process.argv.slice(2));
