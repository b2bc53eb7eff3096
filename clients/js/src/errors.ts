/**
 * Everything that can be said "no" with, to the application.
 *
 * The server's codes are those of docs/wire.md; the client adds its own. One field decides what to
 * do: `retryable` means that the same call with the same `id` may succeed later, unchanged.
 */

/** Codes that the server gives (docs/wire.md, "Refusals"). */
export type ServerErrorCode =
  | "BAD_REQUEST"
  | "UNKNOWN_EVENT"
  | "UNAUTHORIZED"
  | "FORBIDDEN"
  | "RESERVED_ROOM"
  | "RESERVED_EVENT"
  | "NOT_JOINED"
  | "NOT_FOUND"
  | "ROOM_LIMIT"
  | "PAYLOAD_TOO_LARGE"
  | "TOKEN_MISSING"
  | "TOKEN_INVALID"
  | "TOKEN_EXPIRED"
  | "TOKEN_REVOKED"
  | "RATE_LIMITED"
  | "OVERLOADED"
  | "DRAINING"
  | "SHARD_UNAVAILABLE"
  | "ACCESS_UNAVAILABLE"
  | "AUTH_UNAVAILABLE"
  | "ARCHIVE_LAGGING"
  | "ARCHIVE_UNAVAILABLE"
  | "INTERNAL";

/** Codes that only the client gives. */
export type ClientErrorCode =
  /** The queue of unacknowledged messages is full, by count or by bytes. */
  | "QUEUE_FULL"
  /** The operation needs a connection, and there is none now. */
  | "NOT_CONNECTED"
  /** The server did not answer in time. */
  | "TIMEOUT"
  /** disconnect() was called, or the client gave up, before an answer came. */
  | "DISCONNECTED"
  /** The server closed the connection for good; `message` says why. */
  | "REFUSED"
  /** As many reconnection attempts failed as the options allow. */
  | "GAVE_UP"
  /** The token function failed. */
  | "TOKEN_UNAVAILABLE"
  /** Sent, never acknowledged, and too old to be sent again without the risk of a double. */
  | "OUTCOME_UNKNOWN"
  /** The server's answer is not what docs/wire.md says. */
  | "BAD_ANSWER";

/** A code; `string & {}` leaves room for codes of a newer server. */
export type ErrorCode = ServerErrorCode | ClientErrorCode | (string & {});

/** A refusal, by the server or by the client. */
export class RoomfulError extends Error {
  override readonly name = "RoomfulError";
  readonly code: ErrorCode;
  /** Whether the same call, with the same id, may succeed later. */
  readonly retryable: boolean;

  constructor(code: ErrorCode, message: string, options: { retryable: boolean; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryable = options.retryable;
  }
}

/** Give *fault* as a RoomfulError: itself if it is one, else wrapped as *code*. */
export function asRoomfulError(
  fault: unknown,
  code: ErrorCode,
  options: { retryable: boolean },
): RoomfulError {
  if (fault instanceof RoomfulError) return fault;
  const message = fault instanceof Error ? fault.message : String(fault);
  return new RoomfulError(code, message, { ...options, cause: fault });
}
