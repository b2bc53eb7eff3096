/** Whether a message that was sent long ago was stored, told by the room's history. */

import { readForward, type FetchPage } from "./catchup.ts";
import { RoomfulError } from "./errors.ts";
import type { Mark } from "./timeline.ts";
import type { HistoryEntry, Receipt } from "./wire.ts";

/** Entries to look through before it is given up. */
const SEARCH_LIMIT = 10_000;

/** It cannot be told whether a message was stored. */
export function outcomeUnknown(): RoomfulError {
  const message = "sent, but whether it was stored cannot be told any more";
  return new RoomfulError("OUTCOME_UNKNOWN", message, { retryable: false });
}

/** What to look for. */
export interface Sought {
  readonly id: string;
  readonly userId: string | undefined;
  /** Whom a direct message went to: the same id may name another one, to somebody else. */
  readonly to: string | undefined;
  /** A message that is older for sure; undefined if none is known. */
  readonly after: Mark | undefined;
}

/**
 * Look for a message in the history that *fetch* reads.
 *
 * null means that it is certain not to be there. Throws OUTCOME_UNKNOWN if that cannot be told:
 * the history does not reach back, may not be read, or is too long.
 */
export async function findStored(fetch: FetchPage, sought: Sought): Promise<Receipt | null> {
  const { userId, after } = sought;
  if (after === undefined || userId === undefined) throw outcomeUnknown();
  let count = 0;
  try {
    for await (const { entries, reachesBack } of readForward(fetch, after)) {
      if (!reachesBack) throw outcomeUnknown();
      const entry = entries.find((candidate) => isSought(candidate, sought));
      if (entry) return { id: entry.id, offset: entry.offset, timestamp: entry.timestamp };
      count += entries.length;
      if (count > SEARCH_LIMIT) throw outcomeUnknown();
    }
  } catch (fault) {
    throw fault instanceof RoomfulError && fault.retryable ? fault : outcomeUnknown();
  }
  return null;
}

function isSought(entry: HistoryEntry, { id, userId, to }: Sought): boolean {
  const receiver = "to" in entry ? entry.to : undefined;
  return entry.id === id && entry.userId === userId && receiver === to;
}
