/** The newest messages, in the shape that useSyncExternalStore wants. */

import type { Message, Unsubscribe } from "@roomful/client";

export class MessageWindow<Content> {
  #limit = Infinity;
  readonly #listeners = new Set<() => void>();
  #messages: readonly Message<Content>[] = [];

  /** Keep at most *limit* messages from now on: the newest. */
  keep(limit: number): void {
    this.#limit = limit;
    if (this.#messages.length > limit) this.#set(this.#messages);
  }

  readonly push = (message: Message<Content>): void => {
    this.#set([...this.#messages, message]);
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

  #set(messages: readonly Message<Content>[]): void {
    this.#messages = messages.slice(Math.max(0, messages.length - this.#limit));
    for (const listener of this.#listeners) listener();
  }
}
