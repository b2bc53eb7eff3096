/**
 * The reference Socket.IO server with just enough of docs/wire.md for unit tests, and with faults
 * to order: refusals, swallowed acks, cut connections, a history that does not reach back.
 */

import { createServer, type Server as HttpServer } from "node:http";
import type { AddressInfo } from "node:net";

import { Server, type Socket } from "socket.io";

import type { Fields } from "../src/index.ts";

type Ack = (answer: object) => void;

/** What the server does with the next operation of some name instead of doing it. */
export type Fault =
  | { readonly kind: "refuse"; readonly code: string; readonly retryable: boolean }
  /** Do nothing, as if it had been lost on the way. */
  | { readonly kind: "ignore" }
  /** Do it, but let the ack be lost. */
  | { readonly kind: "swallow" }
  /** Do it, but cut the connection before the ack. */
  | { readonly kind: "cut" };

export interface Stored {
  readonly id: string;
  readonly roomId?: string;
  readonly to?: string;
  readonly userId: string;
  readonly content?: unknown;
  readonly event?: string;
  readonly data?: unknown;
  readonly timestamp: number;
  readonly offset: number;
}

export class SmallServer {
  readonly #http: HttpServer;
  readonly io: Server;
  /** Every operation in the order of arrival, refused and repeated ones too. */
  readonly heard: { readonly operation: string; readonly fields: Fields }[] = [];
  /** Auth of every sign-in. */
  readonly signIns: Fields[] = [];
  readonly logs = new Map<string, Stored[]>();
  /** Tokens that are let in; null lets all in. */
  accepted: Set<string> | null = null;
  readonly #faults = new Map<string, Fault[]>();
  #offset = 0;
  #gate: Promise<void> = Promise.resolve();

  private constructor(http: HttpServer, recovery: boolean) {
    this.#http = http;
    this.io = new Server(http, {
      ...(recovery ? { connectionStateRecovery: { skipMiddlewares: false } } : {}),
      maxHttpBufferSize: 100_000,
    });
    this.io.use((socket, next) => {
      const { token } = socket.handshake.auth as { token?: string };
      this.signIns.push(socket.handshake.auth);
      const isIn = token !== undefined && (this.accepted?.has(token) ?? true);
      next(isIn ? undefined : new Error("Authentication failed"));
    });
    this.io.on("connection", (socket) => this.#serve(socket));
  }

  static async start({ recovery = true } = {}): Promise<SmallServer> {
    const http = createServer();
    const server = new SmallServer(http, recovery);
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#http.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    await this.io.close();
  }

  /** Answer the next *operation* with *fault*; several are used one after the other. */
  fail(operation: string, fault: Fault): void {
    this.#faults.set(operation, [...(this.#faults.get(operation) ?? []), fault]);
  }

  /** Make history wait from now on, until the returned function is called. */
  holdHistory(): () => void {
    let release: () => void = () => undefined;
    this.#gate = new Promise<void>((resolve) => (release = resolve));
    return release;
  }

  /** Cut all connections as a lost network would; *forget* also makes sessions unrecoverable. */
  cut({ forget = false } = {}): void {
    const adapter = this.io.of("/").adapter as unknown as { sessions?: Map<string, unknown> };
    for (const socket of this.io.sockets.sockets.values()) {
      if (forget) socket.once("disconnect", () => adapter.sessions?.clear());
      socket.conn.close(true);
    }
  }

  /** Forget everything, as a server does that is killed and keeps nothing on disk. */
  forget(): void {
    this.cut({ forget: true });
    this.logs.clear();
    this.#offset = 0;
  }

  /** Close all connections with a WebSocket close code. */
  closeWith(code: number): void {
    for (const socket of this.io.sockets.sockets.values()) {
      const transport = socket.conn.transport as unknown as {
        socket: { close(code: number): void };
      };
      transport.socket.close(code);
    }
  }

  /** Store a message and send it to its room. */
  post(roomId: string, userId: string, content: unknown, id = `${userId}-${this.#offset}`): Stored {
    return this.#store({ id, roomId, userId, content });
  }

  /** Store an event of an app's own and send it to its room. */
  postEvent(roomId: string, userId: string, event: string, data: unknown, id: string): Stored {
    return this.#store({ id, roomId, userId, event, data });
  }

  /** Store a direct message with the recipient and with the sender, and send it to both. */
  postDirect(
    userId: string,
    to: string,
    content: unknown,
    id = `${userId}-${this.#offset}`,
  ): Stored {
    const store = (owner: string): Stored => {
      const log = this.log(`user:${owner}`);
      this.logs.set(`user:${owner}`, log);
      const known = log.find((stored) => stored.id === id && stored.userId === userId);
      if (known !== undefined) return known;
      this.#offset += 10;
      const stored = { id, userId, to, content, timestamp: Date.now(), offset: this.#offset };
      log.push(stored);
      this.io.to(`user:${owner}`).emit("direct-message", stored);
      return stored;
    };
    const stored = store(to);
    if (userId !== to) store(userId);
    return stored;
  }

  operations(name: string): Fields[] {
    return this.heard.filter(({ operation }) => operation === name).map(({ fields }) => fields);
  }

  /** How often the history of *roomId* was asked for. */
  reads(roomId: string): number {
    return this.operations("history").filter((fields) => fields.roomId === roomId).length;
  }

  log(roomId: string): Stored[] {
    return this.logs.get(roomId) ?? [];
  }

  #store(message: Omit<Stored, "timestamp" | "offset"> & { readonly roomId: string }): Stored {
    const { roomId } = message;
    const log = this.log(roomId);
    this.logs.set(roomId, log);
    const known = log.find(({ id, userId }) => id === message.id && userId === message.userId);
    if (known !== undefined) return known;
    this.#offset += 10;
    const stored = { ...message, timestamp: Date.now(), offset: this.#offset };
    log.push(stored);
    if (stored.event === undefined) this.io.to(roomId).emit("message", stored);
    else this.io.to(roomId).emit(stored.event, stored.data);
    return stored;
  }

  #serve(socket: Socket): void {
    const { token } = socket.handshake.auth as { token: string };
    const userId = readUser(token);
    void socket.join(`user:${userId}`);
    const on = (name: string, answer: (fields: Fields) => object | Promise<object>): void => {
      socket.on(name, (fields: Fields, ack?: Ack) => {
        this.heard.push({ operation: name, fields });
        void this.#answer(name, () => answer(fields), socket, ack);
      });
    };
    on("join-room", async ({ roomId }) => {
      await socket.join(roomId as string);
      return { success: true, roomId, members: [{ userId, status: "online" }], count: 1 };
    });
    on("leave-room", async ({ roomId }) => {
      await socket.leave(roomId as string);
      return { success: true, roomId };
    });
    on("get-presence", ({ roomId }) => ({ success: true, roomId, members: [], count: 0 }));
    on("presence", () => ({ success: true }));
    on("typing", () => ({}));
    on("auth", () => ({ success: true, expiresAt: 0 }));
    on("message", ({ id, roomId, content }) => {
      if (!socket.rooms.has(roomId as string)) return refusal("NOT_JOINED", false);
      return {
        success: true,
        ...this.#store({ id: id as string, roomId: roomId as string, userId, content }),
      };
    });
    on("publish", ({ id, roomId, event, data }) => {
      return {
        success: true,
        ...this.postEvent(roomId as string, userId, event as string, data, id as string),
      };
    });
    on("direct-message", ({ id, userId: to, content }) => {
      return { success: true, ...this.postDirect(userId, to as string, content, id as string) };
    });
    on("history", (fields) => this.#history(fields));
  }

  async #answer(
    name: string,
    operation: () => object | Promise<object>,
    socket: Socket,
    ack: Ack | undefined,
  ): Promise<void> {
    const fault = this.#faults.get(name)?.shift();
    if (fault?.kind === "refuse") {
      ack?.(refusal(fault.code, fault.retryable));
      return;
    }
    if (fault?.kind === "ignore") return;
    if (name === "history") await this.#gate;
    const answer = await operation();
    if (fault?.kind === "cut") socket.conn.close(true);
    else if (fault?.kind !== "swallow") ack?.(answer);
  }

  #history({ roomId, before, after, limit = 50 }: Fields): object {
    const log = this.log(roomId as string);
    const count = limit as number;
    if (typeof after === "number") {
      const newer = log.filter(({ offset }) => offset > after);
      const messages = newer.slice(0, count);
      const next = newer.length > count ? messages.at(-1)?.offset : null;
      return { success: true, messages, next };
    }
    const older = log.filter(({ offset }) => offset < ((before as number | undefined) ?? Infinity));
    const messages = older.slice(-count);
    const next = older.length > count ? messages[0]?.offset : null;
    return { success: true, messages, next };
  }
}

function refusal(code: string, retryable: boolean): object {
  return { success: false, error: { code, message: `refused: ${code}`, retryable } };
}

/** A token of the shape of a JWT, not signed. */
export function makeToken(user: string, serial = 0): string {
  const encode = (value: object): string =>
    Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${encode({ alg: "none" })}.${encode({ sub: user, serial })}.`;
}

function readUser(token: string): string {
  const claims = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()) as {
    sub: string;
  };
  return claims.sub;
}
