/** One conversation as it is shown: values and functions on them, no I/O. */

import type { DirectMessage, Member, Message, PublishedEvent } from "@roomful/client";

/** How far a line of one's own has got. */
export type Delivery =
  | { readonly kind: "pending" }
  | { readonly kind: "delivered" }
  | { readonly kind: "failed"; readonly reason: string };

/** A message as it is shown. */
export interface Line {
  readonly id: string;
  readonly userId: string;
  readonly text: string;
  readonly timestamp: number;
}

/** A line that is in the log. */
export interface StoredLine extends Line {
  readonly offset: number;
}

/** A line of one's own that has not come back from the server yet. */
export interface UnsentLine extends Line {
  readonly delivery: Delivery;
}

export interface Conversation {
  readonly key: string;
  readonly kind: "room" | "user";
  /** The room's name, or the other user's. */
  readonly name: string;
  /** In the order of the log. */
  readonly stored: readonly StoredLine[];
  /** In the order of sending; shown behind what is stored. */
  readonly unsent: readonly UnsentLine[];
  /** Offsets of lines before which messages may be missing. */
  readonly gaps: readonly number[];
  readonly older: "unknown" | "loading" | "some" | "none";
  /** Offset of the newest line that was read. */
  readonly readTo: number;
  readonly unread: number;
  readonly members: readonly Member[];
  readonly count: number;
  /** Who is typing. */
  readonly typing: readonly string[];
  /** Why one cannot be in it; undefined if one can. */
  readonly problem: string | undefined;
}

/** Lines kept in a conversation; older ones are fetched again when they are wanted. */
export const MAX_LINES = 1000;

export function keyOf(kind: Conversation["kind"], name: string): string {
  return `${kind}/${name}`;
}

export function emptyConversation(
  kind: Conversation["kind"],
  name: string,
  readTo: number,
): Conversation {
  return {
    key: keyOf(kind, name),
    kind,
    name,
    stored: [],
    unsent: [],
    gaps: [],
    older: "unknown",
    readTo,
    unread: 0,
    members: [],
    count: 0,
    typing: [],
    problem: undefined,
  };
}

/** Put lines where their offsets belong, each once; they replace unsent lines of the same id. */
export function addStored(
  conversation: Conversation,
  lines: readonly StoredLine[],
  me: string,
): Conversation {
  const known = new Set(conversation.stored.map(({ offset }) => offset));
  const fresh = lines.filter(({ offset }) => !known.has(offset));
  const mine = new Set(lines.filter(({ userId }) => userId === me).map(({ id }) => id));
  const last = conversation.stored.at(-1)?.offset ?? 0;
  const stored = [...conversation.stored, ...fresh];
  if (fresh.some(({ offset }) => offset < last)) stored.sort((a, b) => a.offset - b.offset);
  return countUnread(
    { ...conversation, stored, unsent: conversation.unsent.filter(({ id }) => !mine.has(id)) },
    me,
  );
}

/** Drop the oldest lines above MAX_LINES; they can be fetched again. */
export function trim(conversation: Conversation): Conversation {
  if (conversation.stored.length <= MAX_LINES) return conversation;
  return { ...conversation, stored: conversation.stored.slice(-MAX_LINES), older: "some" };
}

/** Mark everything as read. */
export function markRead(conversation: Conversation): Conversation {
  const { stored } = conversation;
  const readTo =
    stored.at(-1)?.offset ?? (conversation.readTo === Infinity ? 0 : conversation.readTo);
  if (conversation.unread === 0 && readTo === conversation.readTo) return conversation;
  return { ...conversation, readTo, unread: 0 };
}

function countUnread(conversation: Conversation, me: string): Conversation {
  const { stored, readTo } = conversation;
  const unread = stored.filter(({ offset, userId }) => offset > readTo && userId !== me).length;
  return { ...conversation, unread };
}

/** Set how far the unsent line *id* has got; nothing if it has come back from the server already. */
export function setDelivery(
  conversation: Conversation,
  id: string,
  delivery: Delivery,
): Conversation {
  const unsent = conversation.unsent.map((line) => (line.id === id ? { ...line, delivery } : line));
  return { ...conversation, unsent };
}

/** Note that *member* is there, with a status. */
export function addMember(conversation: Conversation, member: Member): Conversation {
  const others = conversation.members.filter(({ userId }) => userId !== member.userId);
  const isNew = others.length === conversation.members.length;
  return {
    ...conversation,
    members: [...others, member].sort((a, b) => a.userId.localeCompare(b.userId)),
    count: conversation.count + (isNew ? 1 : 0),
  };
}

export function removeMember(conversation: Conversation, userId: string): Conversation {
  const members = conversation.members.filter((member) => member.userId !== userId);
  const gone = conversation.members.length - members.length;
  return setTyping({ ...conversation, members, count: conversation.count - gone }, userId, false);
}

export function setTyping(
  conversation: Conversation,
  userId: string,
  isTyping: boolean,
): Conversation {
  if (conversation.typing.includes(userId) === isTyping) return conversation;
  const others = conversation.typing.filter((name) => name !== userId);
  return { ...conversation, typing: isTyping ? [...others, userId] : others };
}

/** The text of a message's content; what is no text is shown as JSON. */
export function textOf(content: unknown): string {
  if (typeof content === "string") return content;
  if (typeof content === "object" && content !== null && "text" in content) {
    if (typeof content.text === "string") return content.text;
  }
  return JSON.stringify(content ?? null);
}

/** A stored message as it is shown; an app's own event by its name and data. */
export function asLine(entry: Message | DirectMessage | PublishedEvent): StoredLine {
  const { id, userId, timestamp, offset } = entry;
  const text = "event" in entry ? `${entry.event} ${textOf(entry.data)}` : textOf(entry.content);
  return { id, userId, text, timestamp, offset };
}
