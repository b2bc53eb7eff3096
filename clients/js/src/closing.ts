/** What to do after a connection ended or did not come up: a table, no I/O. */

import { RoomfulError } from "./errors.ts";

/** Close codes of docs/wire.md that need something else than another attempt soon. */
const CloseCode = {
  TOO_BIG: 1009,
  TRY_LATER: 1013,
  REPLACED: 4003,
  TOKEN_EXPIRED: 4502,
  DISCONNECTED: 4503,
  LIMIT: 4504,
  UNAUTHORIZED: 4505,
} as const;

/** Sign-ins refused in a row, each with a fresh token, before the client gives up. */
const MAX_AUTH_REFUSALS = 3;

/** How a connection, or the attempt at one, ended. */
export type Ending =
  /** The transport failed or was closed; `code` is the WebSocket's, if there was one. */
  | { readonly kind: "closed"; readonly reason: string; readonly code?: number | undefined }
  /** The server said no to the sign-in; `refusals` in a row, this one included. */
  | { readonly kind: "refused"; readonly message: string; readonly refusals: number };

/** What to do next. */
export type NextStep =
  | { readonly kind: "retry"; readonly wait: "backoff" | "longest" }
  | { readonly kind: "stop"; readonly error: RoomfulError };

const RETRY: NextStep = { kind: "retry", wait: "backoff" };

/** Decide what follows *ending*; *canRenew* says whether a fresh token can be had. */
export function decideNext(ending: Ending, canRenew: boolean): NextStep {
  if (ending.kind === "refused") return afterRefusal(ending.message, ending.refusals, canRenew);
  const { code, reason } = ending;
  if (reason === "io server disconnect") return stop("REFUSED", "the server ended the session");
  switch (code) {
    case CloseCode.REPLACED:
      return stop("REFUSED", "the session was taken over by another connection");
    case CloseCode.TOKEN_EXPIRED:
      return canRenew ? RETRY : stop("TOKEN_EXPIRED", "the token expired");
    case CloseCode.UNAUTHORIZED:
      return canRenew ? RETRY : stop("UNAUTHORIZED", "the sign-in failed");
    case CloseCode.TRY_LATER:
    case CloseCode.LIMIT:
      return { kind: "retry", wait: "longest" };
    case CloseCode.DISCONNECTED:
      return stop("REFUSED", "disconnected by the server");
    default:
      // docs/wire.md: from 4500 on, something has to change first.
      return code !== undefined && code >= 4500 && code <= 4999
        ? stop("REFUSED", `closed by the server with ${code}`)
        : RETRY;
  }
}

function afterRefusal(message: string, refusals: number, canRenew: boolean): NextStep {
  if (message !== "Authentication failed") return RETRY;
  const isFinal = !canRenew || refusals >= MAX_AUTH_REFUSALS;
  return isFinal ? stop("UNAUTHORIZED", message) : RETRY;
}

function stop(code: string, message: string): NextStep {
  return { kind: "stop", error: new RoomfulError(code, message, { retryable: false }) };
}

/** Whether the server closed because of a packet above its limit. */
export function isTooBig(code: number | undefined): boolean {
  return code === CloseCode.TOO_BIG;
}
