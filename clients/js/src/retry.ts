/** Doing an operation again until it is done, refused for good, or pointless. */

import { backoffDelay, type BackoffOptions } from "./backoff.ts";
import { RoomfulError } from "./errors.ts";

/** Wait for *ms*. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** How to retry. */
export interface RetryPolicy {
  readonly backoff: BackoffOptions;
  /** Asked before each further try; false ends it with the last error. */
  readonly goOn: () => boolean;
}

/** Call *operation* until it succeeds, fails with something not retryable, or goOn() is false. */
export async function withRetries<T>(
  operation: () => Promise<T>,
  { backoff, goOn }: RetryPolicy,
): Promise<T> {
  for (let failures = 0; ; failures += 1) {
    try {
      return await operation();
    } catch (fault) {
      const mayRetry = fault instanceof RoomfulError && fault.retryable && goOn();
      if (!mayRetry) throw fault;
      await pause(backoffDelay(failures, backoff, Math.random()));
      if (!goOn()) throw fault;
    }
  }
}
