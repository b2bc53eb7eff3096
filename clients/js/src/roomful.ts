/** The client: rooms, messages that arrive once and in order, and a connection that comes back. */

import type { FetchPage, HistoryQuery } from "./catchup.ts";
import { Credentials } from "./credentials.ts";
import { asRoomfulError, RoomfulError } from "./errors.ts";
import type { Fields } from "./fields.ts";
import { badAnswer, Link, type ConnectionState, type Incoming } from "./link.ts";
import { Listeners, type Unsubscribe } from "./listeners.ts";
import { resolveOptions, type ResolvedOptions, type RoomfulOptions } from "./options.ts";
import { withRetries } from "./retry.ts";
import { personalRoom, Rooms, type Gap, type RoomLost } from "./rooms.ts";
import { Sender, type Lane, type Outgoing } from "./sender.ts";
import { findStored } from "./stored.ts";
import * as wire from "./wire.ts";
import type {
  DirectMessage,
  HistoryPage,
  Members,
  Message,
  PublishedEvent,
  Receipt,
} from "./wire.ts";

/** Options of one message. */
export interface SendOptions {
  /**
   * The message's id, 1 … 128 characters. Default: a random one.
   *
   * Give the id of an earlier try to make this a retry of it: the server stores an id once.
   */
  readonly id?: string;
}

/** Hears an event of the application's own; *stored* is there if it comes from the history. */
export type EventListener = (data: unknown, stored?: PublishedEvent) => void;

/**
 * A client of one Roomful server or cluster. It does nothing before connect().
 *
 * - What is sent is stored once, and in the order of sending per room, over lost connections,
 *   timeouts and refusals that may be retried. Until it is acknowledged it waits in a bounded queue.
 * - Messages of a joined room are delivered once and in the room's order. What was missed while
 *   offline comes first; what cannot be had any more is told by onGap.
 *
 * *Content* is what the application sends as content; it is not checked.
 */
export class Roomful<Content = unknown> {
  readonly #options: ResolvedOptions;
  readonly #credentials: Credentials;
  readonly #link: Link;
  readonly #rooms: Rooms;
  readonly #sender: Sender;
  // Mutable state: the status to tell again after a lost session, and the swap of the present
  // connection's token that is under way.
  #status: string | undefined;
  #isStatusTold = false;
  #refresh: symbol | undefined;

  readonly #messages = new Listeners<Message<Content>>();
  readonly #directMessages = new Listeners<DirectMessage<Content>>();
  readonly #typing = new Listeners<wire.Typing>();
  readonly #presence = new Listeners<wire.Presence>();
  readonly #presenceCounts = new Listeners<wire.PresenceCount>();
  readonly #usersJoined = new Listeners<wire.Presence>();
  readonly #usersLeft = new Listeners<wire.UserLeft>();
  readonly #userUpdates = new Listeners<Fields>();
  readonly #errors = new Listeners<RoomfulError>();
  readonly #events = new Map<string, Listeners<[unknown, PublishedEvent?]>>();

  /** What takes each event of docs/wire.md; false if its data is not what that page says. */
  readonly #takers: Readonly<Partial<Record<string, (data: unknown) => boolean>>> = {
    message: taker(wire.readMessage, (message) => this.#rooms.receive(message)),
    "direct-message": taker(wire.readDirectMessage, (direct) => this.#rooms.receiveDirect(direct)),
    typing: taker(wire.readTyping, (typing) => this.#typing.emit(typing)),
    presence: taker(wire.readPresence, (presence) => this.#presence.emit(presence)),
    "presence-count": taker(wire.readPresenceCount, (count) => this.#presenceCounts.emit(count)),
    "user-joined": taker(wire.readPresence, (joined) => this.#usersJoined.emit(joined)),
    "user-left": taker(wire.readUserLeft, (left) => this.#usersLeft.emit(left)),
    "user-update": taker(wire.readFields, (update) => this.#userUpdates.emit(update)),
    error: taker(wire.readRefusal, ({ code, message, retryable }) =>
      this.#errors.emit(new RoomfulError(code, message, { retryable })),
    ),
    "token-expiring": taker(wire.readFields, () => void this.#refreshToken()),
    // For the link, and nothing to tell the application.
    reconnect: () => true,
    cursor: () => true,
    "recovery-failed": () => true,
  };

  /** *url* is the server's origin, like "https://rooms.example.org"; "" is the page's own. */
  constructor(url: string, options: RoomfulOptions = {}) {
    this.#options = resolveOptions(options);
    this.#credentials = new Credentials(options.token);
    this.#link = new Link(url, this.#options, this.#credentials);
    this.#link.opened.add(({ recovered }) => {
      this.#refresh = undefined;
      this.#restorePresence(recovered);
    });
    this.#rooms = new Rooms(this.#link, this.#options, () => this.userId);
    this.#sender = new Sender(
      this.#link,
      {
        isReady: (roomId) => this.#rooms.isReady(roomId),
        rejoin: (roomId) => this.#rooms.rejoin(roomId),
        last: (lane) => this.#rooms.last(this.#logOf(lane)),
        findStored: (lane, id, after) => {
          const fetch: FetchPage = (query) => this.#rooms.history(this.#logOf(lane), query);
          const to = lane.kind === "user" ? lane.id : undefined;
          return findStored(fetch, { id, userId: this.userId, to, after });
        },
      },
      this.#options,
    );
    this.#rooms.ready.add(() => this.#sender.pump());
    this.#rooms.delivered.add((entry) => this.#deliver(entry));
    this.#link.received.add((incoming) => this.#receive(incoming));
  }

  /** The user's id, from the token; undefined until there is one. */
  get userId(): string | undefined {
    return this.#credentials.userId;
  }

  /** Where the connection stands. */
  get state(): ConnectionState {
    return this.#link.state;
  }

  /** Rooms that were joined and not left; they are joined again after a reconnection. */
  get rooms(): string[] {
    return this.#rooms.wanted;
  }

  /** Messages sent and not acknowledged yet. */
  get pending(): number {
    return this.#sender.pending;
  }

  /** Connect, and stay connected until disconnect(). */
  connect(): void {
    this.#link.connect();
  }

  /** End the session. Everything that waits is rejected with DISCONNECTED; rooms are remembered. */
  disconnect(): void {
    this.#link.disconnect();
  }

  /** While waiting for the next attempt to connect: make it now. */
  retryNow(): void {
    this.#link.retryNow();
  }

  /** Join *roomId* and stay in it; resolves with who is there, when the server has confirmed it. */
  joinRoom(roomId: string): Promise<Members> {
    return this.#rooms.join(roomId);
  }

  /** Leave *roomId*; nothing of it is delivered from now on. */
  leaveRoom(roomId: string): void {
    this.#rooms.leave(roomId);
  }

  /** Send *content* to a room; resolves when it is stored, rejects with a RoomfulError. */
  send(roomId: string, content: Content, options: SendOptions = {}): Promise<Receipt> {
    return this.#send("message", { kind: "room", id: roomId }, { roomId, content }, options);
  }

  /** Send *content* to one user, whatever rooms they are in. */
  sendDirect(userId: string, content: Content, options: SendOptions = {}): Promise<Receipt> {
    return this.#send("direct-message", { kind: "user", id: userId }, { userId, content }, options);
  }

  /** Send an event of the application's own to a room; stored like a message. */
  publish(
    roomId: string,
    event: string,
    data: unknown,
    options: SendOptions = {},
  ): Promise<Receipt> {
    return this.#send("publish", { kind: "room", id: roomId }, { roomId, event, data }, options);
  }

  /** Tell a room that the user is typing, or stopped; lost if there is no connection. */
  typing(roomId: string, isTyping = true): void {
    this.#link.sendVolatile("typing", { roomId, isTyping });
  }

  /**
   * Set the user's status in all rooms, like "online" or "away"; kept over lost sessions.
   *
   * Without a connection it resolves at once; the next connection tells the server.
   */
  async setPresence(status: string): Promise<void> {
    this.#status = status;
    this.#isStatusTold = false;
    if (this.#link.isUp()) await this.#tellStatus();
  }

  /** Ask who is in a room. */
  async getPresence(roomId: string): Promise<Members> {
    const members = wire.readMembers(await this.#link.request("get-presence", { roomId }));
    if (members === undefined) throw badAnswer("get-presence");
    return members;
  }

  /** Ask for a page of a room's history: the newest, or the one before or after an offset. */
  async history(
    roomId: string,
    query: HistoryQuery = {},
  ): Promise<HistoryPage<Message<Content> | PublishedEvent>> {
    const page = await this.#rooms.history(roomId, query);
    return page as HistoryPage<Message<Content> | PublishedEvent>;
  }

  /** Ask for a page of the direct messages to and from the user, in the same way. */
  async directHistory(query: HistoryQuery = {}): Promise<HistoryPage<DirectMessage<Content>>> {
    const page = await this.#rooms.history(personalRoom(this.userId), query);
    return page as HistoryPage<DirectMessage<Content>>;
  }

  /** Hear messages of joined rooms, one's own included: each once, in the order of the room. */
  onMessage(listener: (message: Message<Content>) => void): Unsubscribe {
    return this.#messages.add(listener);
  }

  /** Hear direct messages to and from the user, on whatever connection they were sent: each once. */
  onDirectMessage(listener: (message: DirectMessage<Content>) => void): Unsubscribe {
    return this.#directMessages.add(listener);
  }

  /**
   * Hear events sent with publish().
   *
   * Live ones come once. After a session was lost, those since the newest message delivered come
   * from the history, with *stored*, and may have come before: their ids tell.
   */
  onEvent(event: string, listener: EventListener): Unsubscribe {
    let listeners = this.#events.get(event);
    if (listeners === undefined) this.#events.set(event, (listeners = new Listeners()));
    return listeners.add(([data, stored]) => listener(data, stored));
  }

  onTyping(listener: (typing: wire.Typing) => void): Unsubscribe {
    return this.#typing.add(listener);
  }

  onPresence(listener: (presence: wire.Presence) => void): Unsubscribe {
    return this.#presence.add(listener);
  }

  onUserJoined(listener: (presence: wire.Presence) => void): Unsubscribe {
    return this.#usersJoined.add(listener);
  }

  onUserLeft(listener: (left: wire.UserLeft) => void): Unsubscribe {
    return this.#usersLeft.add(listener);
  }

  /** Hear how many users are in a room that is too large for joined, left and member lists. */
  onPresenceCount(listener: (count: wire.PresenceCount) => void): Unsubscribe {
    return this.#presenceCounts.add(listener);
  }

  /** Hear what a backend sends with POST /api/users/{id}/update. */
  onUserUpdate(listener: (update: Fields) => void): Unsubscribe {
    return this.#userUpdates.add(listener);
  }

  /** Hear of messages that were missed and cannot be had any more. */
  onGap(listener: (gap: Gap) => void): Unsubscribe {
    return this.#rooms.gaps.add(listener);
  }

  /** Hear of rooms that could not be joined again after a lost session. */
  onRoomLost(listener: (lost: RoomLost) => void): Unsubscribe {
    return this.#rooms.roomsLost.add(listener);
  }

  /** Hear every change of `state`. */
  onConnectionState(listener: (state: ConnectionState) => void): Unsubscribe {
    return this.#link.stateChanged.add(listener);
  }

  /** Hear every change of `pending`. */
  onPending(listener: (pending: number) => void): Unsubscribe {
    return this.#sender.changed.add(listener);
  }

  /** Hear errors that belong to no call: refused typing, a token that could not be refreshed. */
  onError(listener: (error: RoomfulError) => void): Unsubscribe {
    return this.#errors.add(listener);
  }

  async #send(
    operation: Outgoing["operation"],
    lane: Lane,
    fields: object,
    { id = crypto.randomUUID() }: SendOptions,
  ): Promise<Receipt> {
    return this.#sender.send({ operation, lane, payload: { ...fields, id } });
  }

  #receive({ event, data }: Incoming): void {
    // An application's event may be named like what every object has: "constructor".
    const take = Object.hasOwn(this.#takers, event) ? this.#takers[event] : undefined;
    if (take === undefined) this.#events.get(event)?.emit([data]);
    else if (!take(data)) this.#errors.emit(badAnswer(event));
  }

  #deliver(entry: wire.HistoryEntry): void {
    const isDirect = "to" in entry;
    if (entry.userId === this.userId) {
      const lane: Lane = isDirect
        ? { kind: "user", id: entry.to }
        : { kind: "room", id: entry.roomId };
      this.#sender.acknowledge(lane, entry);
    }
    if (isDirect) this.#directMessages.emit(entry as DirectMessage<Content>);
    else if ("event" in entry) this.#events.get(entry.event)?.emit([entry.data, entry]);
    else this.#messages.emit(entry as Message<Content>);
  }

  /** The log in which a message to *lane* shows up for us. */
  #logOf(lane: Lane): string {
    return lane.kind === "room" ? lane.id : personalRoom(this.userId);
  }

  #restorePresence(recovered: boolean): void {
    if (this.#status === undefined || (recovered && this.#isStatusTold)) return;
    this.#isStatusTold = false;
    void this.#inBackground(() => this.#tellStatus());
  }

  /** Tell the server the status as it is now: it may be another one since an earlier try. */
  async #tellStatus(): Promise<void> {
    const status = this.#status;
    await this.#link.request("presence", { status });
    if (status === this.#status) this.#isStatusTold = true;
  }

  /** Swap the token for a fresh one while connected. */
  async #refreshToken(): Promise<void> {
    if (!this.#credentials.canRenew || this.#refresh !== undefined) return;
    const refresh = Symbol("refresh");
    this.#refresh = refresh;
    await this.#inBackground(async () => {
      const token = await this.#credentials.fetch();
      // Another connection meanwhile has signed in with a newer one.
      if (this.#refresh === refresh) await this.#link.request("auth", { token });
    });
    if (this.#refresh === refresh) this.#refresh = undefined;
  }

  /** Do *operation*, again while it may be retried and the connection lasts; report its failure. */
  async #inBackground(operation: () => Promise<unknown>): Promise<void> {
    const { retryDelay: firstMs, retryDelayMax: maxMs } = this.#options;
    try {
      await withRetries(operation, {
        backoff: { firstMs, maxMs, jitter: 0.5 },
        goOn: () => this.#link.isUp(),
      });
    } catch (fault) {
      const error = asRoomfulError(fault, "INTERNAL", { retryable: false });
      // A lost connection begins with a fresh token and status anyway.
      if (error.code !== "NOT_CONNECTED") this.#errors.emit(error);
    }
  }
}

/** Make a function that reads data and, if it is understood, uses it. */
function taker<T>(
  read: (data: unknown) => T | undefined,
  use: (value: T) => void,
): (data: unknown) => boolean {
  return (data) => {
    const value = read(data);
    if (value === undefined) return false;
    use(value);
    return true;
  };
}
