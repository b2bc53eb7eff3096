/**
 * What goes over the wire (docs/wire.md), typed, and the readers that check what came.
 *
 * A reader returns undefined for something that is not what the wire says; nothing else in this
 * package looks into a value that came from outside.
 */

import { restoreBinary } from "./binary.ts";
import { isFields, type Fields } from "./fields.ts";

/** A message of a room, as everyone in it hears it, the sender included. */
export interface Message<Content = unknown> {
  /** The sender's own name for it; the same on a retry. */
  readonly id: string;
  readonly roomId: string;
  readonly userId: string;
  readonly content: Content;
  /** Milliseconds since the epoch. */
  readonly timestamp: number;
  /** Larger for later messages of a room. */
  readonly offset: number;
}

/**
 * A message to one user: heard on every connection of that user, and of the sender.
 *
 * Recipient and sender have it in a log each, with an offset each.
 */
export interface DirectMessage<Content = unknown> {
  readonly id: string;
  /** The sender. */
  readonly userId: string;
  /** The user it is for. */
  readonly to: string;
  readonly content: Content;
  readonly timestamp: number;
  readonly offset: number;
}

/** An event sent with publish(), as history gives it. */
export interface PublishedEvent {
  readonly id: string;
  readonly roomId: string;
  readonly userId: string;
  readonly event: string;
  readonly data: unknown;
  readonly timestamp: number;
  readonly offset: number;
}

/** One entry of a room's log, or of the log of a user's direct messages. */
export type HistoryEntry<Content = unknown> =
  Message<Content> | PublishedEvent | DirectMessage<Content>;

/** A page of a log, oldest first; `next` is for the next page that way, null at the end. */
export interface HistoryPage<Entry = HistoryEntry> {
  readonly messages: readonly Entry[];
  readonly next: number | null;
}

/** What the server says of a stored message. */
export interface Receipt {
  readonly id: string;
  readonly offset: number;
  readonly timestamp: number;
}

/** A user in a room, each once. */
export interface Member {
  readonly userId: string;
  readonly status: string;
}

/** Who is in a room. In very large rooms `members` is empty and only `count` is true. */
export interface Members {
  readonly roomId: string;
  readonly members: readonly Member[];
  readonly count: number;
}

export interface Typing {
  readonly roomId: string;
  readonly userId: string;
  readonly isTyping: boolean;
  readonly timestamp: number;
}

export interface Presence {
  readonly roomId: string;
  readonly userId: string;
  readonly status: string;
  readonly timestamp: number;
}

export interface UserLeft {
  readonly roomId: string;
  readonly userId: string;
  readonly timestamp: number;
}

export interface PresenceCount {
  readonly roomId: string;
  readonly count: number;
}

export function readFields(value: unknown): Fields | undefined {
  return isFields(value) ? value : undefined;
}

function isOffset(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

/** Read the part that every stored thing has. */
function readStored(value: unknown): (Receipt & { fields: Fields; userId: string }) | undefined {
  if (!isFields(value)) return undefined;
  const { id, userId, timestamp, offset } = value;
  if (typeof id !== "string" || typeof userId !== "string") return undefined;
  if (typeof timestamp !== "number" || !isOffset(offset)) return undefined;
  return { id, userId, timestamp, offset, fields: value };
}

export function readMessage(value: unknown): Message | undefined {
  const stored = readStored(value);
  if (stored === undefined) return undefined;
  const { fields, ...rest } = stored;
  const { roomId, content } = fields;
  return typeof roomId === "string" ? { ...rest, roomId, content } : undefined;
}

export function readDirectMessage(value: unknown): DirectMessage | undefined {
  const stored = readStored(value);
  if (stored === undefined) return undefined;
  const { fields, ...rest } = stored;
  const { to, content } = fields;
  return typeof to === "string" ? { ...rest, to, content } : undefined;
}

function readHistoryEntry(value: unknown): HistoryEntry | undefined {
  if (!isFields(value)) return undefined;
  if (value.event === undefined) {
    const whole = { ...value, content: restoreBinary(value.content) };
    return readMessage(whole) ?? readDirectMessage(whole);
  }
  const stored = readStored(value);
  if (stored === undefined) return undefined;
  const { fields, ...rest } = stored;
  const { roomId, event, data } = fields;
  if (typeof roomId !== "string" || typeof event !== "string") return undefined;
  return { ...rest, roomId, event, data: restoreBinary(data) };
}

export function readHistoryPage(value: unknown): HistoryPage | undefined {
  if (!isFields(value) || !Array.isArray(value.messages)) return undefined;
  const messages = value.messages.map(readHistoryEntry);
  if (!messages.every((entry) => entry !== undefined)) return undefined;
  const next = value.next ?? null;
  return next === null || typeof next === "number" ? { messages, next } : undefined;
}

export function readReceipt(value: unknown): Receipt | undefined {
  if (!isFields(value)) return undefined;
  const { id, offset, timestamp } = value;
  if (typeof id !== "string" || !isOffset(offset) || typeof timestamp !== "number") {
    return undefined;
  }
  return { id, offset, timestamp };
}

export function readMembers(value: unknown): Members | undefined {
  if (!isFields(value)) return undefined;
  const { roomId, members, count } = value;
  if (typeof roomId !== "string" || !Array.isArray(members)) return undefined;
  const read = members.map(readMember);
  if (!read.every((member) => member !== undefined)) return undefined;
  return { roomId, members: read, count: typeof count === "number" ? count : read.length };
}

function readMember(value: unknown): Member | undefined {
  if (!isFields(value) || typeof value.userId !== "string") return undefined;
  return { userId: value.userId, status: readStatus(value) };
}

function readStatus(fields: Fields): string {
  return typeof fields.status === "string" ? fields.status : "online";
}

function readWhoAndWhere(
  value: unknown,
): { fields: Fields; roomId: string; userId: string; timestamp: number } | undefined {
  if (!isFields(value)) return undefined;
  const { roomId, userId, timestamp } = value;
  if (typeof roomId !== "string" || typeof userId !== "string") return undefined;
  return {
    fields: value,
    roomId,
    userId,
    timestamp: typeof timestamp === "number" ? timestamp : Date.now(),
  };
}

export function readTyping(value: unknown): Typing | undefined {
  const read = readWhoAndWhere(value);
  if (read === undefined) return undefined;
  const { fields, ...rest } = read;
  return { ...rest, isTyping: fields.isTyping !== false };
}

export function readPresence(value: unknown): Presence | undefined {
  const read = readWhoAndWhere(value);
  if (read === undefined) return undefined;
  const { fields, ...rest } = read;
  return { ...rest, status: readStatus(fields) };
}

export function readUserLeft(value: unknown): UserLeft | undefined {
  const read = readWhoAndWhere(value);
  if (read === undefined) return undefined;
  const { roomId, userId, timestamp } = read;
  return { roomId, userId, timestamp };
}

export function readPresenceCount(value: unknown): PresenceCount | undefined {
  if (!isFields(value)) return undefined;
  const { roomId, count } = value;
  if (typeof roomId !== "string" || typeof count !== "number") return undefined;
  return { roomId, count };
}

/** A refusal as the server words it. */
export interface Refusal {
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
}

export function readRefusal(value: unknown): Refusal | undefined {
  if (!isFields(value) || typeof value.code !== "string") return undefined;
  const { code, message, retryable } = value;
  return {
    code,
    message: typeof message === "string" ? message : code,
    retryable: retryable === true,
  };
}
