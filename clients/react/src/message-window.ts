/** The newest messages, in the shape that useSyncExternalStore wants. */

import type { Message, Unsubscribe } from "@roomful/client";

export class MessageWindow<Content> {
  readonly #limit: number;
  readonly #listeners = new Set<() => void>();
  #messages: readonly Message<Content>[] = [];

  /** Keep at most *limit* messages: the newest. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  readonly push = (message: Message<Content>): void => {
    this.#messages = [...this.#messages, message].slice(-this.#limit);
    for (const listener of this.#listeners) listener();
  };

  /** Be called after each change. */
  readonly subscribe = (listener: () => void): Unsubscribe => {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  };

  /** The messages now, oldest first; the same array until the next change. */
  readonly snapshot = (): readonly Message<Content>[] => this.#messages;
}
