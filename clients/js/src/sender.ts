/**
 * Gets queued messages to the server, each stored once and in order.
 *
 * Per lane (room, or user for direct messages) one message is on its way; the next starts when the
 * server has acknowledged or finally refused it. A message keeps its id over all attempts, and the
 * server stores an id once. One in flight is what makes the order certain: with two, the first
 * could be refused (a rate limit, a shard away) and the second be stored.
 */

import { backoffDelay } from "./backoff.ts";
import { asRoomfulError, RoomfulError } from "./errors.ts";
import { badAnswer, type Link } from "./link.ts";
import { Listeners } from "./listeners.ts";
import type { ResolvedOptions } from "./options.ts";
import { measure, Outbox } from "./outbox.ts";
import { outcomeUnknown } from "./stored.ts";
import type { Mark } from "./timeline.ts";
import { readReceipt, type Receipt } from "./wire.ts";

/** How long the server knows a message's id for sure: less than its 5 minutes, in ms. */
export const DEDUPLICATION_MS = 240_000;
/** Packets closed on as too big before the message is taken for the reason. */
const MAX_TOO_BIG = 2;
/** Bytes of a packet around its payload, at most. */
const ENVELOPE_BYTES = 64;

/** What is to be sent. */
export interface Outgoing {
  readonly operation: "message" | "direct-message" | "publish";
  readonly lane: Lane;
  readonly payload: { readonly id: string };
}

/** What a message must stay in order with. */
export interface Lane {
  readonly kind: "room" | "user";
  readonly id: string;
}

interface Entry extends Omit<Outgoing, "lane"> {
  readonly target: Lane;
  readonly lane: string;
  readonly bytes: number;
  readonly resolve: (receipt: Receipt) => void;
  readonly reject: (error: RoomfulError) => void;
  /** When it was first given to a connection, in ms since the epoch. */
  firstSentAt: number | undefined;
  /** What the room's newest message was then. */
  sentAfter: Mark | undefined;
  failures: number;
  tooBig: number;
  inFlight: boolean;
  /** Not to be sent (again) before, in ms since the epoch. */
  notBefore: number;
}

/** What the sender asks of the rooms. */
export interface RoomView {
  isReady(roomId: string): boolean;
  rejoin(roomId: string): boolean;
  /** The newest entry of the log in which a message to *lane* shows up for us. */
  last(lane: Lane): Mark | undefined;
  /** Look for our message *id* in that log behind *after*, as findStored (stored.ts). */
  findStored(lane: Lane, id: string, after: Mark | undefined): Promise<Receipt | null>;
}

export class Sender {
  /** The queue's length changed. */
  readonly changed = new Listeners<number>();

  readonly #link: Link;
  readonly #rooms: RoomView;
  readonly #options: ResolvedOptions;
  readonly #outbox: Outbox<Entry>;
  #wakeTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(link: Link, rooms: RoomView, options: ResolvedOptions) {
    this.#link = link;
    this.#rooms = rooms;
    this.#options = options;
    this.#outbox = new Outbox({
      maxMessages: options.queueMaxMessages,
      maxBytes: options.queueMaxBytes,
    });
    link.opened.add(() => this.pump());
    link.lost.add(({ tooBig }) => this.#onLost(tooBig));
    link.ended.add((error) => this.#onEnded(error));
  }

  /** Messages that are not acknowledged yet. */
  get pending(): number {
    return this.#outbox.count;
  }

  /**
   * Queue a message; resolves when the server has stored it.
   *
   * Rejects with QUEUE_FULL at once, with a refusal that is not retryable, or when the client ends.
   */
  send({ operation, lane: target, payload }: Outgoing): Promise<Receipt> {
    const { state } = this.#link;
    if (state.status === "failed") return Promise.reject(state.error);
    return new Promise((resolve, reject) => {
      const entry: Entry = {
        operation,
        target,
        lane: `${target.kind}:${target.id}`,
        payload,
        bytes: measure(payload),
        resolve,
        reject,
        firstSentAt: undefined,
        sentAfter: undefined,
        failures: 0,
        tooBig: 0,
        inFlight: false,
        notBefore: 0,
      };
      this.#outbox.add(entry);
      this.changed.emit(this.pending);
      this.pump();
    });
  }

  /** Settle a message of ours that came back before its acknowledgement did. */
  acknowledge(lane: Lane, { id, offset, timestamp }: Receipt): void {
    const entry = this.#outbox.find(`${lane.kind}:${lane.id}`, ({ payload }) => payload.id === id);
    if (entry?.firstSentAt === undefined) return;
    this.#settle(entry, { id, offset, timestamp });
    this.pump();
  }

  /** Send what may be sent now. */
  pump(): void {
    if (!this.#link.isUp()) return;
    const now = Date.now();
    let wakeAt = Infinity;
    const heads = this.#outbox.heads();
    const ready: Entry[] = [];
    for (const entry of heads) {
      if (entry.inFlight) continue;
      if (entry.notBefore > now) wakeAt = Math.min(wakeAt, entry.notBefore);
      else if (entry.target.kind === "user" || this.#rooms.isReady(entry.target.id)) {
        ready.push(entry);
      }
    }
    const underWay = heads.filter(({ inFlight }) => inFlight);
    for (const entry of selectNext(ready, underWay)) void this.#attempt(entry);
    clearTimeout(this.#wakeTimer);
    if (wakeAt < Infinity) this.#wakeTimer = setTimeout(() => this.pump(), wakeAt - now);
  }

  async #attempt(entry: Entry): Promise<void> {
    entry.inFlight = true;
    const startedAt = Date.now();
    try {
      const known = await this.#checkOld(entry, startedAt);
      this.#settle(entry, known ?? (await this.#transmit(entry, startedAt)));
    } catch (fault) {
      this.#onFault(entry, asRoomfulError(fault, "INTERNAL", { retryable: false }), startedAt);
    } finally {
      entry.inFlight = false;
      this.pump();
    }
  }

  async #transmit(entry: Entry, now: number): Promise<Receipt> {
    const limit = this.#link.maxPayload;
    if (limit !== undefined && entry.bytes + ENVELOPE_BYTES > limit) {
      throw tooLarge(`${entry.bytes} bytes are more than the ${limit} that the server takes`);
    }
    if (entry.firstSentAt === undefined) {
      entry.firstSentAt = now;
      entry.sentAfter = this.#rooms.last(entry.target);
    }
    const receipt = readReceipt(await this.#link.request(entry.operation, entry.payload));
    if (receipt === undefined) throw badAnswer(entry.operation);
    return receipt;
  }

  /** The server may have forgotten the id of an old message: look whether it was stored. */
  async #checkOld(entry: Entry, now: number): Promise<Receipt | null> {
    const { firstSentAt, target, payload, sentAfter } = entry;
    if (firstSentAt === undefined || now - firstSentAt < DEDUPLICATION_MS) return null;
    const receipt = await this.#rooms.findStored(target, payload.id, sentAfter);
    // The recipient gets a direct message before the sender does: it may be there all the same.
    if (receipt === null && target.kind === "user") throw outcomeUnknown();
    if (receipt === null) entry.firstSentAt = undefined; // as if never sent
    return receipt;
  }

  #onFault(entry: Entry, error: RoomfulError, startedAt: number): void {
    const isMended =
      error.code === "NOT_JOINED" &&
      entry.target.kind === "room" &&
      this.#rooms.rejoin(entry.target.id);
    if (!error.retryable && !isMended) {
      this.#settle(entry, error);
      return;
    }
    if (error.code === "TIMEOUT") this.#link.dropIfSilent(startedAt);
    if (!this.#link.isUp()) return; // the next connection sends it
    const { retryDelay: firstMs, retryDelayMax: maxMs } = this.#options;
    const delay = backoffDelay(entry.failures, { firstMs, maxMs, jitter: 0.5 }, Math.random());
    entry.failures += 1;
    entry.notBefore = Date.now() + delay;
  }

  #onLost(tooBig: boolean): void {
    clearTimeout(this.#wakeTimer);
    for (const entry of this.#outbox.heads()) {
      entry.notBefore = 0;
      if (!tooBig || !entry.inFlight) continue;
      entry.tooBig += 1;
      if (entry.tooBig >= MAX_TOO_BIG) {
        this.#settle(entry, tooLarge("the server closed the connection on it"));
      }
    }
  }

  #onEnded(error: RoomfulError): void {
    const entries = this.#outbox.clear();
    for (const entry of entries) entry.reject(error);
    if (entries.length > 0) this.changed.emit(0);
  }

  #settle(entry: Entry, outcome: Receipt | RoomfulError): void {
    if (!this.#outbox.remove(entry)) return;
    if (outcome instanceof RoomfulError) entry.reject(outcome);
    else entry.resolve(outcome);
    this.changed.emit(this.pending);
  }
}

/**
 * Of the messages that are *ready*, those to send beside what is *underWay*: all.
 *
 * But one that was under way when the server closed the connection on a packet goes alone: if that
 * happens again it was this one, and no other is rejected for it.
 */
function selectNext(ready: readonly Entry[], underWay: readonly Entry[]): readonly Entry[] {
  const isSuspect = ({ tooBig }: Entry): boolean => tooBig > 0;
  if (underWay.some(isSuspect)) return [];
  const suspect = ready.find(isSuspect);
  if (suspect === undefined) return ready;
  return underWay.length === 0 ? [suspect] : [];
}

function tooLarge(message: string): RoomfulError {
  return new RoomfulError("PAYLOAD_TOO_LARGE", message, { retryable: false });
}
