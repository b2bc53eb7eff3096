/** How long to wait before the next try. */

/** Bounds of a growing delay. */
export interface BackoffOptions {
  /** The first delay, in ms. */
  readonly firstMs: number;
  /** No delay is longer than this, in ms, before jitter. */
  readonly maxMs: number;
  /** Share by which a delay is varied, 0 … 1: 0.5 means 50 % less to 50 % more. */
  readonly jitter: number;
}

/**
 * Return the delay in ms after *failures* failures in a row (0 = the first).
 *
 * It doubles with each failure up to maxMs. *random* is a number from 0 (included) to 1.
 */
export function backoffDelay(failures: number, options: BackoffOptions, random: number): number {
  const { firstMs, maxMs, jitter } = options;
  const delay = Math.min(maxMs, firstMs * 2 ** Math.min(failures, 31));
  return Math.round(delay * (1 + jitter * (2 * random - 1)));
}
