/** A client for as long as a component is there. */

import { useCallback, useEffect, useState, useSyncExternalStore } from "react";

import {
  Roomful,
  type ConnectionState,
  type RoomfulOptions,
  type TokenSource,
} from "@roomful/client";

/** A client, and the token function that it asks: each render may bring another one. */
class Held<Content> {
  readonly client: Roomful<Content>;
  #token: TokenSource | undefined;

  constructor(url: string, options: RoomfulOptions) {
    this.#token = options.token;
    // A plain token stays one: the client then knows that there is no fresher one to be had.
    const isAsked = typeof options.token === "function";
    this.client = new Roomful(url, isAsked ? { ...options, token: () => this.#ask() } : options);
  }

  use(token: TokenSource | undefined): void {
    this.#token = token;
  }

  #ask(): string | Promise<string> {
    return typeof this.#token === "function" ? this.#token() : (this.#token ?? "");
  }
}

/**
 * Give a client of *url* that is connected while the component is mounted.
 *
 * Another url, or another plain token, means another client. A new token function is used from the
 * next call on; all other options are read once per client.
 */
export function useRoomful<Content = unknown>(
  url: string,
  options: RoomfulOptions = {},
): Roomful<Content> {
  const { token } = options;
  const key = typeof token === "string" ? `${token} ${url}` : url;
  const [state, setState] = useState(() => ({ key, held: new Held<Content>(url, options) }));
  let { held } = state;
  if (state.key !== key) {
    held = new Held(url, options);
    setState({ key, held });
  }

  useEffect(() => held.use(token), [held, token]);
  const { client } = held;
  useEffect(() => {
    client.connect();
    return () => client.disconnect();
  }, [client]);
  return client;
}

/** Give *client*'s connection state, now and on each change. */
export function useConnectionState<Content>(client: Roomful<Content>): ConnectionState {
  const subscribe = useCallback(
    (listener: () => void) => client.onConnectionState(listener),
    [client],
  );
  const snapshot = useCallback(() => client.state, [client]);
  return useSyncExternalStore(subscribe, snapshot, snapshot);
}
