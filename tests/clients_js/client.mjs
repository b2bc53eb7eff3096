// The stock Socket.IO client, driven over stdin and stdout, one JSON value a line.
//
// argv[2]:  {url, auth, options}: as given to io().
// stdin:    {"do": "emit", "args": [name, ...], "ack": number?}
//           {"do": "connect" | "disconnect"}
//           {"do": "auth", "auth": {...}}: for the next connect
// stdout:   {"on": "connect", recovered, id, transport} | {"on": "disconnect", reason, details}
//           | {"on": "connect_error", message} | {"on": "upgrade", transport}
//           | {"on": "event", name, args} | {"on": "ack", number, args}
//
// Binary is {"$bytes": base64} in both directions.

import { createInterface } from "node:readline";
import { io } from "socket.io-client";

function pack(value) {
  if (Buffer.isBuffer(value)) return { $bytes: value.toString("base64") };
  if (value instanceof ArrayBuffer) return pack(Buffer.from(value));
  if (Array.isArray(value)) return value.map(pack);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, pack(item)]));
}

function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.$bytes === "string") return Buffer.from(value.$bytes, "base64");
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, unpack(item)]));
}

function tell(on, fields) {
  process.stdout.write(JSON.stringify({ on, ...pack(fields) }) + "\n");
}

const { url, auth, options } = JSON.parse(process.argv[2]);
const socket = io(url, { ...options, auth });

socket.on("connect", () => {
  const engine = socket.io.engine;
  tell("connect", {
    recovered: socket.recovered,
    id: socket.id,
    transport: engine.transport.name,
  });
  engine.once("upgrade", (transport) => tell("upgrade", { transport: transport.name }));
});
socket.on("disconnect", (reason, details) =>
  tell("disconnect", { reason, details: String(details?.description ?? "") }),
);
socket.on("connect_error", (error) => tell("connect_error", { message: error.message }));
socket.onAny((name, ...args) => tell("event", { name, args }));

const verbs = {
  connect: () => socket.connect(),
  disconnect: () => socket.disconnect(),
  auth: (command) => {
    socket.auth = command.auth;
  },
  emit: (command) => {
    const args = unpack(command.args);
    if (command.ack === undefined) {
      socket.emit(...args);
    } else {
      socket.emit(...args, (...answer) => tell("ack", { number: command.ack, args: answer }));
    }
  },
};

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const command = JSON.parse(line);
  verbs[command.do](command);
});
lines.on("close", () => process.exit(0));
