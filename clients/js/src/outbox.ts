/**
 * The queue of what was sent and is not acknowledged yet: bounded, in order, no I/O.
 *
 * Entries are kept in lanes, one per room (or user, for direct messages). Only the oldest entry of
 * a lane may be on its way to the server; the next one starts when that one is settled. So nothing
 * that is sent again, after a lost connection, a timeout or a refusal, can be overtaken by a later
 * message of the same room.
 */

import { RoomfulError } from "./errors.ts";

/** What the queue has to know of an entry. */
export interface Queued {
  /** What it must stay in order with. */
  readonly lane: string;
  /** Size, as counted against the limit. */
  readonly bytes: number;
}

/** How much may wait, acknowledged messages not counted. */
export interface OutboxLimits {
  readonly maxMessages: number;
  readonly maxBytes: number;
}

export class Outbox<Entry extends Queued> {
  readonly #limits: OutboxLimits;
  readonly #lanes = new Map<string, Entry[]>();
  #count = 0;
  #bytes = 0;

  constructor(limits: OutboxLimits) {
    this.#limits = limits;
  }

  /** Entries that wait or are on their way. */
  get count(): number {
    return this.#count;
  }

  /** Their bytes. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Put *entry* at the end of its lane.
   *
   * Throws QUEUE_FULL, and changes nothing, if a limit would be passed.
   */
  add(entry: Entry): void {
    const { maxMessages, maxBytes } = this.#limits;
    if (this.#count >= maxMessages) {
      throw new RoomfulError("QUEUE_FULL", `${maxMessages} messages wait already`, {
        retryable: true,
      });
    }
    if (this.#bytes + entry.bytes > maxBytes) {
      throw new RoomfulError(
        "QUEUE_FULL",
        `${entry.bytes} bytes more than the ${this.#bytes} that wait would pass ${maxBytes}`,
        { retryable: entry.bytes <= maxBytes },
      );
    }
    const lane = this.#lanes.get(entry.lane);
    if (lane === undefined) this.#lanes.set(entry.lane, [entry]);
    else lane.push(entry);
    this.#count += 1;
    this.#bytes += entry.bytes;
  }

  /** The oldest entry of each lane; the lane that waits longest comes first. */
  heads(): Entry[] {
    return [...this.#lanes.values()].flatMap((lane) => lane.slice(0, 1));
  }

  /** Look up entries of *lane* that *matches*, oldest first. */
  find(lane: string, matches: (entry: Entry) => boolean): Entry | undefined {
    return this.#lanes.get(lane)?.find(matches);
  }

  /** Take *entry* out; false if it is not in (any more). */
  remove(entry: Entry): boolean {
    const lane = this.#lanes.get(entry.lane);
    const index = lane?.indexOf(entry) ?? -1;
    if (lane === undefined || index < 0) return false;
    lane.splice(index, 1);
    if (lane.length === 0) this.#lanes.delete(entry.lane);
    this.#count -= 1;
    this.#bytes -= entry.bytes;
    return true;
  }

  /** Take all entries out. */
  clear(): Entry[] {
    const entries = [...this.#lanes.values()].flat();
    this.#lanes.clear();
    this.#count = 0;
    this.#bytes = 0;
    return entries;
  }
}

const encoder = new TextEncoder();

/**
 * Return how many bytes *value* takes on the wire, about: UTF-8 JSON and its attachments.
 *
 * Throws BAD_REQUEST for what cannot be sent (a cycle, a bigint).
 */
export function measure(value: unknown): number {
  let attachments = 0;
  // `this[key]` is the value before its toJSON(), which a Buffer of Node has.
  const replace = function (this: Record<string, unknown>, key: string, replaced: unknown) {
    const size = attachmentSize(this[key]);
    if (size === undefined) return replaced;
    attachments += size;
    return null;
  };
  try {
    // JSON.stringify is undefined for undefined, whatever its type says.
    const json = JSON.stringify(value, replace) as string | undefined;
    return encoder.encode(json ?? "null").length + attachments;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RoomfulError("BAD_REQUEST", `not JSON: ${reason}`, { retryable: false, cause });
  }
}

function attachmentSize(value: unknown): number | undefined {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return value.byteLength;
  if (typeof Blob !== "undefined" && value instanceof Blob) return value.size;
  return undefined;
}
