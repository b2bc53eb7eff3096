/**
 * One connection to the server that comes back by itself.
 *
 * It owns the Socket.IO socket, the token and the schedule of attempts. Socket.IO's own
 * reconnection is off: its schedule has no place for the server's hint (`reconnect`), for close
 * codes, or for showing when the next attempt is. Options and their meaning are the same.
 */

import { io, type Socket } from "socket.io-client";

import { backoffDelay } from "./backoff.ts";
import { decideNext, isTooBig, type Ending } from "./closing.ts";
import type { Credentials } from "./credentials.ts";
import { asRoomfulError, RoomfulError } from "./errors.ts";
import { isFields, type Fields } from "./fields.ts";
import { Listeners } from "./listeners.ts";
import type { ResolvedOptions } from "./options.ts";
import { readRefusal } from "./wire.ts";

/** Where the connection stands. */
export type ConnectionState =
  /** Not asked to connect, or asked to disconnect. */
  | { readonly status: "idle" }
  /** An attempt is under way; `attempt` failed before it. */
  | { readonly status: "connecting"; readonly attempt: number }
  /** Signed in; `recovered`: the server resumed the session, with all that was missed. */
  | { readonly status: "connected"; readonly recovered: boolean }
  /** Offline; the next attempt starts at `retryAt` (ms since the epoch). */
  | {
      readonly status: "waiting";
      readonly attempt: number;
      readonly retryAt: number;
      readonly reason: string;
    }
  /** Offline for good, until connect() is called again. */
  | { readonly status: "failed"; readonly error: RoomfulError };

/** An event from the server: its first argument; a cursor behind it is not passed on. */
export interface Incoming {
  readonly event: string;
  readonly data: unknown;
}

/** Where "online" is told: a window or a worker; Node has none. */
const eventHost = "addEventListener" in globalThis ? globalThis : undefined;

export class Link {
  readonly stateChanged = new Listeners<ConnectionState>();
  /** Signed in, before any event of the new connection. */
  readonly opened = new Listeners<{ recovered: boolean }>();
  /** The connection was lost; `tooBig`: the server closed it for a packet above its limit. */
  readonly lost = new Listeners<{ tooBig: boolean }>();
  /** Nothing will come any more, until connect() is called again. */
  readonly ended = new Listeners<RoomfulError>();
  readonly received = new Listeners<Incoming>();

  readonly #options: ResolvedOptions;
  readonly #credentials: Credentials;
  readonly #socket: Socket;
  // Mutable state: where we stand, the one timer that may run (an attempt's deadline or the wait
  // before the next), and what decides about the next attempt.
  #state: ConnectionState = { status: "idle" };
  #timer: ReturnType<typeof setTimeout> | undefined;
  #attempts = 0;
  #failures = 0;
  #authRefusals = 0;
  #hintMs: number | undefined;
  #fault: RoomfulError | undefined;
  #heardAt = 0;
  #maxPayload: number | undefined;

  constructor(url: string, options: ResolvedOptions, credentials: Credentials) {
    this.#options = options;
    this.#credentials = credentials;
    this.#socket = io(url, {
      tryAllTransports: true,
      ...options.socketOptions,
      path: options.path,
      transports: [...options.transports],
      autoConnect: false,
      reconnection: false,
      timeout: false as unknown as number, // "false" is documented, its type is not
      forceNew: true,
      auth: (answer: (data: object) => void) => void this.#signIn(answer),
    });
    this.#listen();
  }

  get state(): ConnectionState {
    return this.#state;
  }

  /** Whether operations can be sent. */
  isUp(): boolean {
    return this.#state.status === "connected";
  }

  /** Largest packet that the server takes, in bytes; undefined before the first connection. */
  get maxPayload(): number | undefined {
    return this.#maxPayload;
  }

  /** Start to connect; nothing happens if that is under way already. */
  connect(): void {
    if (this.#state.status !== "idle" && this.#state.status !== "failed") return;
    this.#failures = 0;
    this.#authRefusals = 0;
    eventHost?.addEventListener("online", this.retryNow);
    this.#open();
  }

  /** End the session; the server is told. */
  disconnect(): void {
    const error = new RoomfulError("DISCONNECTED", "disconnect() was called", { retryable: true });
    // What was asked for before connect() waits too.
    if (this.#state.status === "idle") this.ended.emit(error);
    else this.#end({ status: "idle" }, error);
  }

  /** Make the next attempt now instead of at its time; nothing happens if none is waited for. */
  readonly retryNow = (): void => {
    if (this.#state.status === "waiting") this.#open();
  };

  /** Cut a connection from which nothing was heard since *since* (ms since the epoch). */
  dropIfSilent(since: number): void {
    if (this.isUp() && this.#heardAt <= since) this.#drop();
  }

  /**
   * Send *operation* and wait for its answer, the fields of a successful ack.
   *
   * Throws NOT_CONNECTED or TIMEOUT (both retryable: it may or may not have been done), or the
   * server's refusal.
   */
  request(operation: string, payload: unknown): Promise<Fields> {
    if (!this.isUp()) return Promise.reject(notConnected());
    return new Promise((resolve, reject) => {
      this.#socket
        .timeout(this.#options.ackTimeout)
        .emit(operation, payload, (fault: Error | null, answer: unknown) => {
          if (fault !== null) {
            const timedOut = this.#socket.connected;
            reject(timedOut ? noAnswer(operation, this.#options.ackTimeout) : notConnected());
          } else if (isFields(answer) && answer.success === true) {
            resolve(answer);
          } else {
            reject(asRefusal(operation, answer));
          }
        });
    });
  }

  /** Send *operation* if the connection can take it at once; else it is dropped. */
  sendVolatile(operation: string, payload: unknown): void {
    if (this.isUp()) this.#socket.volatile.emit(operation, payload);
  }

  #listen(): void {
    this.#socket.on("connect", () => this.#onConnect());
    this.#socket.on("connect_error", (error: Error) => this.#onConnectError(error));
    this.#socket.on("disconnect", (reason, details) => {
      this.#onClosed({ kind: "closed", reason, code: readCloseCode(details) });
    });
    this.#socket.onAny((event: string, data?: unknown) => {
      if (event === "reconnect") this.#hintMs = readHint(data);
      this.received.emit({ event, data });
    });
  }

  #open(): void {
    clearTimeout(this.#timer);
    this.#attempts += 1;
    this.#fault = undefined;
    this.#hintMs = undefined;
    const state: ConnectionState = { status: "connecting", attempt: this.#failures };
    this.#state = state;
    this.#timer = setTimeout(() => this.#drop(), this.#options.timeout);
    // What a lost connection left undelivered comes again, from the server.
    this.#socket.receiveBuffer = [];
    this.#socket.connect();
    const { engine } = this.#socket.io;
    engine.on("handshake", ({ maxPayload }) => {
      this.#maxPayload = maxPayload;
    });
    engine.on("heartbeat", () => {
      this.#heardAt = Date.now();
    });
    this.stateChanged.emit(state); // at the end: a listener may disconnect, or begin again
  }

  async #signIn(answer: (data: object) => void): Promise<void> {
    const attempt = this.#attempts;
    try {
      const token = await this.#credentials.fetch();
      // An answer for an attempt that is over would sign in twice on the present one.
      if (attempt === this.#attempts) answer({ token, recovery: true });
    } catch (fault) {
      if (attempt !== this.#attempts) return;
      this.#fault = asRoomfulError(fault, "TOKEN_UNAVAILABLE", { retryable: true });
      this.#drop();
    }
  }

  #onConnect(): void {
    clearTimeout(this.#timer);
    // Not set at all by a server without recovery, whatever its type says.
    const recovered = (this.#socket.recovered as boolean | undefined) ?? false;
    this.#failures = 0;
    this.#authRefusals = 0;
    this.#heardAt = Date.now();
    // Rooms and queue first: what the application does on "connected" has to come behind them.
    this.#state = { status: "connected", recovered };
    this.opened.emit({ recovered });
    this.stateChanged.emit(this.#state);
  }

  #onConnectError(error: Error): void {
    // Only a refused sign-in makes the socket inactive; other faults are the transport's.
    if (this.#socket.active) {
      this.#onClosed({ kind: "closed", reason: error.message });
      return;
    }
    this.#authRefusals += 1;
    this.#onClosed({ kind: "refused", message: error.message, refusals: this.#authRefusals });
  }

  #onClosed(ending: Ending): void {
    const { status } = this.#state;
    if (status !== "connecting" && status !== "connected") return;
    clearTimeout(this.#timer);
    // Operations are sent again by those who asked for them, in their order; not from here.
    this.#socket.sendBuffer = [];
    const next = decideNext(ending, this.#credentials.canRenew);
    if (next.kind === "stop") {
      this.#end({ status: "failed", error: next.error }, next.error);
      return;
    }
    if (status === "connected") {
      this.lost.emit({ tooBig: ending.kind === "closed" && isTooBig(ending.code) });
    }
    const reason = this.#fault?.message ?? describe(ending);
    this.#scheduleNext(next.wait, reason);
  }

  #scheduleNext(wait: "backoff" | "longest", reason: string): void {
    const attempt = this.#failures;
    if (attempt >= this.#options.reconnectionAttempts) {
      const message = `gave up after ${attempt} reconnection attempts: ${reason}`;
      const error = new RoomfulError("GAVE_UP", message, { retryable: true });
      this.#end({ status: "failed", error }, error);
      return;
    }
    const delay = this.#nextDelay(wait);
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#state = { status: "waiting", attempt, retryAt: Date.now() + delay, reason };
    this.stateChanged.emit(this.#state);
  }

  #nextDelay(wait: "backoff" | "longest"): number {
    const { reconnectionDelay, reconnectionDelayMax, randomizationFactor } = this.#options;
    const bounds = { maxMs: reconnectionDelayMax, jitter: randomizationFactor };
    // The server has spread its hints over its clients already: no jitter.
    if (this.#hintMs !== undefined) return this.#hintMs;
    const firstMs = wait === "longest" ? reconnectionDelayMax : reconnectionDelay;
    return backoffDelay(this.#failures, { ...bounds, firstMs }, Math.random());
  }

  /** Cut the connection or attempt under way; what follows is as if the network had done it. */
  #drop(): void {
    // socket.disconnect() would end the session; engine.close() waits for what is unsent.
    (this.#socket.io as unknown as { disconnect(): void }).disconnect();
  }

  #end(state: ConnectionState, error: RoomfulError): void {
    clearTimeout(this.#timer);
    eventHost?.removeEventListener("online", this.retryNow);
    const wasUp = this.isUp();
    this.#attempts += 1; // a token that comes late is for nobody
    this.#state = state;
    this.#socket.disconnect();
    if (wasUp) this.lost.emit({ tooBig: false });
    this.ended.emit(error);
    this.stateChanged.emit(state);
  }
}

function describe(ending: Ending): string {
  if (ending.kind === "refused") return ending.message;
  return ending.code === undefined ? ending.reason : `${ending.reason} (${ending.code})`;
}

function notConnected(): RoomfulError {
  return new RoomfulError("NOT_CONNECTED", "there is no connection", { retryable: true });
}

function noAnswer(operation: string, timeoutMs: number): RoomfulError {
  const message = `no answer to ${operation} in ${timeoutMs} ms`;
  return new RoomfulError("TIMEOUT", message, { retryable: true });
}

function asRefusal(operation: string, answer: unknown): RoomfulError {
  const refusal = readRefusal(isFields(answer) ? answer.error : undefined);
  if (refusal === undefined) return badAnswer(operation);
  return new RoomfulError(refusal.code, refusal.message, { retryable: refusal.retryable });
}

/** An answer that is not what docs/wire.md says. */
export function badAnswer(operation: string): RoomfulError {
  const message = `the answer to ${operation} is not understood`;
  return new RoomfulError("BAD_ANSWER", message, { retryable: false });
}

/** Read the WebSocket's close code out of what socket.io-client gives with "disconnect". */
function readCloseCode(details: unknown): number | undefined {
  const context = isFields(details) ? details.context : undefined;
  if (typeof context !== "object" || context === null || !("code" in context)) return undefined;
  return typeof context.code === "number" ? context.code : undefined;
}

function readHint(data: unknown): number | undefined {
  const afterMs = isFields(data) ? data.afterMs : undefined;
  return typeof afterMs === "number" && afterMs >= 0 ? afterMs : undefined;
}
