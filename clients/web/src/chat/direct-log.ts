/** The log of the user's direct messages, with all users, read backwards page by page. */

import type { DirectMessage, Roomful } from "@roomful/client";

import type { Conversation } from "./conversation.ts";

const PAGE = 100;

export class DirectLog {
  readonly #client: Roomful;
  readonly #take: (messages: readonly DirectMessage[]) => void;
  // Mutable state: from where to read on (null: at its beginning), and the page being read.
  #next: number | null | undefined;
  #reading: Promise<void> | undefined;

  /** Each page that is read goes to *take*. */
  constructor(client: Roomful, take: (messages: readonly DirectMessage[]) => void) {
    this.#client = client;
    this.#take = take;
  }

  /** Whether there may be more to read. */
  get older(): Conversation["older"] {
    if (this.#next === undefined) return "unknown";
    return this.#next === null ? "none" : "some";
  }

  /** Read the next page; whoever asks meanwhile waits for the same. */
  read(): Promise<void> {
    this.#reading ??= this.#readPage().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #readPage(): Promise<void> {
    if (this.#next === null) return;
    const query = this.#next === undefined ? {} : { before: this.#next };
    const page = await this.#client.directHistory({ limit: PAGE, ...query });
    this.#next = page.next;
    this.#take(page.messages);
  }
}
