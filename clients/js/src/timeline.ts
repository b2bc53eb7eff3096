/**
 * One room's messages on their way to the application: each once, in order, no I/O.
 *
 * Messages come live, and from history after a session was lost. Offsets grow within a room, so
 * "greater than the newest one delivered" says at once what is new and what is a double. While
 * history is being fetched, live messages are held, and go out behind it.
 */

import type { HistoryEntry } from "./wire.ts";

/** Live messages held while history is fetched; above it they are dropped and fetched too. */
const HELD_LIMIT = 1000;

/** A place in a log: an entry, by its offset and, to be sure that it is the same log, its id. */
export interface Mark {
  readonly offset: number;
  readonly id: string;
}

/** The place before the first entry. */
export const BEGINNING: Mark = { offset: 0, id: "" };

export class Timeline {
  readonly #deliver: (entry: HistoryEntry) => void;
  #last: Mark | undefined;
  #held: HistoryEntry[] | undefined;
  #overflowed = false;

  constructor(deliver: (entry: HistoryEntry) => void) {
    this.#deliver = deliver;
  }

  /** The newest entry delivered; BEGINNING if the log was empty; undefined if nothing is known. */
  get last(): Mark | undefined {
    return this.#last;
  }

  /** Say where the log ends now, if nothing is known yet. */
  begin(end: Mark): void {
    this.#last ??= asMark(end);
  }

  /**
   * The log was begun anew (a server that lost its state): *end* is its newest entry now, and that
   * is before `last`. What is held came after that, and stays new.
   */
  restart(end: Mark): void {
    const firstHeld = this.#held?.[0];
    const isHeld = firstHeld !== undefined && firstHeld.offset <= end.offset;
    this.#last = isHeld ? { offset: firstHeld.offset - 1, id: "" } : asMark(end);
  }

  /** A live entry: delivered if it is new, or held. */
  receive(entry: HistoryEntry): void {
    if (this.#held === undefined) this.replay(entry);
    else if (this.#held.length < HELD_LIMIT) this.#held.push(entry);
    else this.#overflowed = true;
  }

  /** An entry of the history: delivered if it is new. */
  replay(entry: HistoryEntry): void {
    if (this.#last !== undefined && entry.offset <= this.#last.offset) return;
    this.#last = asMark(entry);
    this.#deliver(entry);
  }

  /** Hold live entries from now on. */
  hold(): void {
    this.#held ??= [];
  }

  /**
   * Deliver what was held and go on live; called when history was replayed to its end.
   *
   * False, and nothing is done, if so much came meanwhile that some was dropped: the history has
   * it, and has to be read on from `last` first; unless it is not *readable*.
   */
  release(readable = true): boolean {
    if (this.#overflowed && readable) {
      this.#overflowed = false;
      this.#held = [];
      return false;
    }
    const held = this.#held ?? [];
    this.#held = undefined;
    this.#overflowed = false;
    for (const entry of held) this.replay(entry);
    return true;
  }
}

/** Keep of an entry what is needed of it: not its content. */
function asMark({ offset, id }: Mark): Mark {
  return { offset, id };
}
