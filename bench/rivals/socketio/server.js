// The work of Roomful's core events on a stock socket.io 4.8 server: default engine (ws), in-memory adapter,
// or, with REDIS_URL, the Redis adapter.
// Written as its documentation advises for production; nothing here slows it down on purpose.

import { createSecretKey, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { createAdapter } from "@socket.io/redis-adapter";
import jsonwebtoken from "jsonwebtoken";
import { createClient } from "redis";
import { Server } from "socket.io";

const { values } = parseArgs({
  options: {
    host: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "3000" },
  },
});

// A key object: given a string, jsonwebtoken first tries to read it as a public key, on each verify.
const secret = createSecretKey(Buffer.from(process.env.AUTH_SECRET ?? ""));

const refusal = (code) => ({ success: false, error: { code } });

const server = createServer();
const io = new Server(server);

if (process.env.REDIS_URL) {
  const publisher = createClient({ url: process.env.REDIS_URL });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  io.adapter(createAdapter(publisher, subscriber));
}

io.use((socket, next) => {
  try {
    const claims = jsonwebtoken.verify(socket.handshake.auth.token, secret, { algorithms: ["HS256"] });
    socket.data.userId = claims.sub;
    next();
  } catch {
    next(new Error("Authentication failed"));
  }
});

io.on("connection", (socket) => {
  const { userId } = socket.data;

  socket.on("join-room", async (roomId, ack) => {
    await socket.join(roomId);
    socket.to(roomId).emit("user-joined", { userId, roomId, timestamp: Date.now() });
    ack?.({ success: true, roomId });
  });

  socket.on("message", (message, ack) => {
    const { roomId, content, id = randomUUID() } = message;
    if (!socket.rooms.has(roomId)) {
      ack?.(refusal("NOT_JOINED"));
      return;
    }
    const timestamp = Date.now();
    io.to(roomId).emit("message", { id, roomId, userId, content, timestamp });
    ack?.({ success: true, id, timestamp });
  });
});

server.listen(Number(values.port), values.host);

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => process.exit(0));
}
