/** Reading a room's history forward from the last message that is known. */

import { BEGINNING, type Mark, type Timeline } from "./timeline.ts";
import type { HistoryEntry, HistoryPage } from "./wire.ts";

/** What may be asked of the history. */
export interface HistoryQuery {
  /** Only messages older than this offset. */
  readonly before?: number;
  /** Only messages newer than this offset. */
  readonly after?: number;
  /** At most this many, 1 … 100; default 50. */
  readonly limit?: number;
}

/** Asks the server for a page. */
export type FetchPage = (query: HistoryQuery) => Promise<HistoryPage>;

/** Messages that cannot be had any more. */
export interface Hole {
  /** Offset of the newest message before the hole; undefined if none was known. */
  readonly after: number | undefined;
  /** Offset of the first message behind it; undefined if there is none yet. */
  readonly before: number | undefined;
}

/** The server's largest page. */
const PAGE_LIMIT = 100;

/** Entries newer than a known offset. */
interface Forward {
  readonly entries: readonly HistoryEntry[];
  /** False: the known entry is in the history no more, so some behind it may be gone too. */
  readonly reachesBack: boolean;
}

/**
 * Give what is in the history after *last*, page by page, to its end.
 *
 * The first page is asked for from *last* itself on: if that entry is still there, nothing between
 * it and the next one can be missing. At the beginning of a log there is nothing to check.
 */
export async function* readForward(fetch: FetchPage, last: Mark): AsyncGenerator<Forward> {
  let after = Math.max(0, last.offset - 1);
  let reachesBack: boolean | undefined;
  for (;;) {
    const { messages, next } = await fetch({ after, limit: PAGE_LIMIT });
    reachesBack ??= last.offset === 0 || isAt(messages[0], last);
    yield { entries: messages.filter((entry) => entry.offset > last.offset), reachesBack };
    if (next === null) return;
    after = next;
  }
}

function isAt(entry: HistoryEntry | undefined, mark: Mark): boolean {
  return entry?.offset === mark.offset && entry.id === mark.id;
}

/** What catchUp works with. */
export interface CatchUp {
  readonly timeline: Timeline;
  readonly fetch: FetchPage;
  /** Entries to fetch before the rest is skipped and only the newest page is taken. */
  readonly limit: number;
  readonly tellHole: (hole: Hole) => void;
}

/** Deliver to *timeline* what the history has behind *last*; say where it has a hole. */
export async function catchUp(
  last: Mark,
  { timeline, fetch, limit, tellHole }: CatchUp,
): Promise<void> {
  let count = 0;
  for await (const { entries, reachesBack } of readForward(fetch, last)) {
    if (!reachesBack && timeline.last === last) {
      tellHole({ after: last.offset, before: entries[0]?.offset });
      if (entries.length === 0) await checkEnd(last, timeline, fetch);
    }
    for (const entry of entries) timeline.replay(entry);
    count += entries.length;
    if (count >= limit) return skipAhead({ timeline, fetch, limit, tellHole });
  }
}

/** Nothing is behind *last*, nor is it there itself: does the log end before it now? */
async function checkEnd(last: Mark, timeline: Timeline, fetch: FetchPage): Promise<void> {
  const { messages } = await fetch({ limit: 1 });
  const end = messages[0] ?? BEGINNING;
  if (end.offset < last.offset) timeline.restart(end);
}

/** Too much was missed to fetch it all: go on with the newest page. */
async function skipAhead({ timeline, fetch, tellHole }: CatchUp): Promise<void> {
  const { messages } = await fetch({ limit: PAGE_LIMIT });
  const last = timeline.last ?? BEGINNING;
  const newer = messages.filter((entry) => entry.offset > last.offset);
  const first = newer[0];
  if (first !== undefined && newer.length === messages.length) {
    const before = await fetch({ before: first.offset, limit: 1 });
    if (!isAt(before.messages[0], last)) tellHole({ after: last.offset, before: first.offset });
  }
  for (const entry of newer) timeline.replay(entry);
}
