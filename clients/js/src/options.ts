/** What a client can be told, with defaults and units. */

import type { ManagerOptions, SocketOptions } from "socket.io-client";

/** A token, or a function that gives one: it is called again for each connection attempt. */
export type TokenSource = string | (() => string | Promise<string>);

export interface RoomfulOptions {
  /**
   * The JWT that signs in, or a function that fetches one.
   *
   * A function is called for each connection attempt, and when the server says that the token will
   * expire soon; with a plain string the client stops when it expires. Default: none, for a server
   * that something before it signs in to; Roomful's own refuses that ("UNAUTHORIZED").
   */
  readonly token?: TokenSource;
  /** Path of the server's Socket.IO endpoint. Default "/socket.io". */
  readonly path?: string;
  /** Transports, tried in this order. Default ["websocket", "polling"]. */
  readonly transports?: readonly ("websocket" | "polling")[];

  /** Wait before the first reconnection attempt, in ms; it doubles. Default 1000. */
  readonly reconnectionDelay?: number;
  /** Longest wait between attempts, in ms. Default 30000. */
  readonly reconnectionDelayMax?: number;
  /** Share by which each wait is varied, 0 … 1. Default 0.5. */
  readonly randomizationFactor?: number;
  /** Attempts in a row before the client gives up. Default Infinity. */
  readonly reconnectionAttempts?: number;
  /** Longest time for one attempt, from fetching the token to being signed in, in ms. Default 20000. */
  readonly timeout?: number;

  /** Longest wait for the answer to one operation, in ms. Default 10000. */
  readonly ackTimeout?: number;
  /** Wait before a refused or unanswered operation is sent again, in ms; it doubles. Default 200. */
  readonly retryDelay?: number;
  /** Longest wait between such retries, in ms. Default 5000. */
  readonly retryDelayMax?: number;
  /** Messages that may wait for an acknowledgement. Default 1000. */
  readonly queueMaxMessages?: number;
  /** Their bytes, as JSON plus attachments. Default 1048576 (1 MiB). */
  readonly queueMaxBytes?: number;

  /** Whether to fetch what was missed when the server could not resume the session. Default true. */
  readonly catchUp?: boolean;
  /** Messages fetched per room for that; of more, only the newest page is. Default 1000. */
  readonly catchUpLimit?: number;

  /** Anything else for socket.io-client (headers, TLS, an agent …). */
  readonly socketOptions?: Partial<Omit<ManagerOptions & SocketOptions, "auth">>;
}

/** All options but the token, none missing. */
export type ResolvedOptions = Required<Omit<RoomfulOptions, "token">>;

export const DEFAULT_OPTIONS: ResolvedOptions = {
  path: "/socket.io",
  transports: ["websocket", "polling"],
  reconnectionDelay: 1000,
  reconnectionDelayMax: 30_000,
  randomizationFactor: 0.5,
  reconnectionAttempts: Infinity,
  timeout: 20_000,
  ackTimeout: 10_000,
  retryDelay: 200,
  retryDelayMax: 5000,
  queueMaxMessages: 1000,
  queueMaxBytes: 1_048_576,
  catchUp: true,
  catchUpLimit: 1000,
  socketOptions: {},
};

/** Fill in the defaults; an option that is undefined counts as not given. */
export function resolveOptions(options: RoomfulOptions): ResolvedOptions {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return { ...DEFAULT_OPTIONS, ...(Object.fromEntries(given) as Partial<ResolvedOptions>) };
}
