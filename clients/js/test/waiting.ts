/** Waiting for conditions, never for times. */

import type { ConnectionState, Roomful } from "../src/index.ts";

/** Resolve when the connection has *status*. */
export function reached<C, S extends ConnectionState["status"]>(
  client: Roomful<C>,
  status: S,
): Promise<Extract<ConnectionState, { status: S }>> {
  type Wanted = Extract<ConnectionState, { status: S }>;
  if (client.state.status === status) return Promise.resolve(client.state as Wanted);
  return new Promise((resolve) => {
    const stop = client.onConnectionState((state) => {
      if (state.status !== status) return;
      stop();
      resolve(state as Wanted);
    });
  });
}

/** What a listener has heard, and a way to wait for it. */
export class Heard<T> {
  readonly values: T[] = [];
  #wakers: (() => void)[] = [];

  readonly take = (value: T): void => {
    this.values.push(value);
    for (const wake of this.#wakers) wake();
  };

  /** Resolve with all values as soon as there are *count*. */
  async atLeast(count: number): Promise<T[]> {
    while (this.values.length < count) {
      await new Promise<void>((resolve) => this.#wakers.push(resolve));
    }
    return this.values;
  }
}
