/** The state of the page: conversations, what is in them, and what the user does. */

import {
  RoomfulError,
  type ConnectionState,
  type DirectMessage,
  type Message,
  type Roomful,
} from "@roomful/client";

import {
  addMember,
  addStored,
  asLine,
  emptyConversation,
  keyOf,
  markRead,
  removeMember,
  setDelivery,
  setTyping,
  textOf,
  trim,
  type Conversation,
} from "./conversation.ts";
import { DirectLog } from "./direct-log.ts";
import type { Memory } from "./memory.ts";

/** How long someone counts as typing without a word of it, in ms. */
const TYPING_MS = 6000;
/** How often typing is told while it goes on, in ms. */
const TYPING_EVERY_MS = 3000;
/** Messages of a page of history. */
const PAGE = 50;
/** Pages of direct messages looked through for more of one user. */
const DIRECT_PAGES = 5;

export type Status = "online" | "away";

export interface ChatState {
  readonly me: string;
  readonly connection: ConnectionState;
  readonly status: Status;
  /** Rooms in the order of joining, then users. */
  readonly conversations: readonly Conversation[];
  /** Key of the conversation that is shown. */
  readonly active: string | undefined;
  /** The newest message of others in it, for screen readers. */
  readonly announcement: string;
}

export class Chat {
  readonly #client: Roomful;
  readonly #memory: Memory;
  readonly #listeners = new Set<() => void>();
  readonly #typingTimers = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #directLog: DirectLog;
  // Mutable state: what is shown; whether somebody looks at it; and when typing was told last.
  #state: ChatState;
  #isSeen = true;
  #typingToldAt = 0;

  constructor(client: Roomful, me: string, memory: Memory) {
    this.#client = client;
    this.#memory = memory;
    this.#directLog = new DirectLog(client, (page) => this.#onDirect(page, { isNew: false }));
    this.#state = {
      me,
      connection: client.state,
      status: "online",
      conversations: [],
      active: undefined,
      announcement: "",
    };
    client.onConnectionState((connection) => this.#onConnection(connection));
    client.onMessage((message) => this.#onMessage(message));
    client.onDirectMessage((message) => this.#onDirect([message], { isNew: true }));
    client.onUserJoined((member) => this.#inRoom(member.roomId, (c) => addMember(c, member)));
    client.onPresence((member) => this.#inRoom(member.roomId, (c) => addMember(c, member)));
    client.onUserLeft(({ roomId, userId }) => this.#inRoom(roomId, (c) => removeMember(c, userId)));
    client.onPresenceCount(({ roomId, count }) =>
      this.#inRoom(roomId, (c) => ({ ...c, members: [], count })),
    );
    client.onTyping(({ roomId, userId, isTyping }) => this.#onTyping(roomId, userId, isTyping));
    client.onGap(({ roomId, before }) => this.#onGap(keyOf("room", roomId), before));
    client.onRoomLost(({ roomId, error }) =>
      this.#inRoom(roomId, (c) => ({ ...c, problem: error.message })),
    );
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  };

  readonly snapshot = (): ChatState => this.#state;

  /** Connect, be in *rooms*, and show *shown* or the first of them. */
  start(rooms: readonly string[], shown = rooms[0]): void {
    for (const room of rooms) this.join(room);
    for (const user of this.#memory.readTexts("users")) this.#add("user", user);
    this.select(shown === undefined ? this.#state.conversations[0]?.key : keyOf("room", shown));
    this.#client.connect();
  }

  /** Disconnect for good. */
  stop(): void {
    for (const timer of this.#typingTimers.values()) clearTimeout(timer);
    this.#client.disconnect();
  }

  retryNow(): void {
    this.#client.retryNow();
  }

  /** Join a room, or go on trying after a refusal. */
  join(room: string): void {
    const { key } = this.#add("room", room);
    this.#update(key, (c) => ({ ...c, problem: undefined }));
    this.#rememberRooms();
    this.#client.joinRoom(room).then(
      ({ members, count }) => {
        this.#update(key, (c) => ({ ...c, members, count }));
        if (this.#find(key)?.older === "unknown") void this.loadOlder(key);
      },
      (fault: unknown) => {
        const problem = reasonOf(fault);
        // Ended, or left by the user in the meantime: nobody waits for it.
        if (codeOf(fault) !== "DISCONNECTED") this.#update(key, (c) => ({ ...c, problem }));
      },
    );
  }

  /** Open the conversation with one user. */
  talkTo(user: string): string {
    const { key } = this.#add("user", user);
    this.#rememberRooms();
    return key;
  }

  /** Leave a room, or close the conversation with a user. */
  leave(key: string): void {
    const conversation = this.#find(key);
    if (conversation === undefined) return;
    if (conversation.kind === "room") this.#client.leaveRoom(conversation.name);
    const conversations = this.#state.conversations.filter((c) => c.key !== key);
    this.#set({ conversations });
    if (this.#state.active === key) this.select(conversations[0]?.key);
    this.#rememberRooms();
  }

  /** Show the conversation *key*. */
  select(key: string | undefined): void {
    this.#set({ active: key, announcement: "" });
    this.#read();
    if (key !== undefined && this.#find(key)?.older === "unknown") void this.loadOlder(key);
  }

  /** Tell whether the page is visible: what comes while it is not stays unread. */
  setSeen(isSeen: boolean): void {
    this.#isSeen = isSeen;
    this.#read();
  }

  setStatus(status: Status): void {
    // The others are told by the server; one's own page is not.
    const userId = this.#state.me;
    const conversations = this.#state.conversations.map((c) =>
      c.members.some((member) => member.userId === userId) ? addMember(c, { userId, status }) : c,
    );
    this.#set({ status, conversations });
    this.#client.setPresence(status).catch(() => undefined); // told again on the next connection
  }

  /** Send *text*; with the id of an earlier line it is that line's retry. */
  send(key: string, text: string, id: string = crypto.randomUUID()): void {
    const conversation = this.#find(key);
    if (conversation === undefined) return;
    const { kind, name } = conversation;
    const line = { id, userId: this.#state.me, text, timestamp: Date.now() };
    const unsent = conversation.unsent.filter((other) => other.id !== id);
    this.#update(key, (c) => ({
      ...c,
      unsent: [...unsent, { ...line, delivery: { kind: "pending" } }],
    }));
    this.#typingToldAt = 0;
    const sent =
      kind === "room"
        ? this.#client.send(name, text, { id })
        : this.#client.sendDirect(name, text, { id });
    sent.then(
      () => this.#update(key, (c) => setDelivery(c, id, { kind: "delivered" })),
      (fault: unknown) =>
        this.#update(key, (c) => setDelivery(c, id, { kind: "failed", reason: reasonOf(fault) })),
    );
  }

  /** Drop a line that could not be sent. */
  discard(key: string, id: string): void {
    this.#update(key, (c) => ({ ...c, unsent: c.unsent.filter((line) => line.id !== id) }));
  }

  /** The user types in *key*, or has stopped to. */
  typing(key: string, isTyping: boolean): void {
    const conversation = this.#find(key);
    if (conversation?.kind !== "room") return;
    const now = Date.now();
    if (isTyping && now - this.#typingToldAt < TYPING_EVERY_MS) return;
    if (!isTyping && this.#typingToldAt === 0) return;
    this.#typingToldAt = isTyping ? now : 0;
    this.#client.typing(conversation.name, isTyping);
  }

  /** Fetch the page before the oldest line of *key*; nothing if there is none. */
  async loadOlder(key: string): Promise<void> {
    const conversation = this.#find(key);
    if (conversation === undefined) return;
    if (conversation.older === "loading" || conversation.older === "none") return;
    this.#update(key, (c) => ({ ...c, older: "loading" }));
    try {
      if (conversation.kind === "room") await this.#loadOlderInRoom(conversation);
      else await this.#loadOlderDirect(key);
    } catch {
      // Offline, or not in the room yet: asked for again on the next scroll or connection.
      const older = conversation.older;
      this.#update(key, (c) => ({ ...c, older }));
    }
  }

  async #loadOlderInRoom({ key, name, stored }: Conversation): Promise<void> {
    const before = stored[0]?.offset;
    const page = await this.#client.history(name, {
      limit: PAGE,
      ...(before === undefined ? {} : { before }),
    });
    const lines = page.messages.map(asLine);
    this.#update(key, (c) => ({
      ...addStored(c, lines, this.#state.me),
      older: page.next === null ? "none" : "some",
    }));
    // In a room that is new to the user, what was said before is not unread.
    if (key === this.#state.active) this.#read();
    else if (this.#find(key)?.readTo === Infinity) this.#update(key, markRead);
  }

  /** Direct messages of all users are in one log: read on in it until some are found. */
  async #loadOlderDirect(key: string): Promise<void> {
    const count = (): number => this.#find(key)?.stored.length ?? 0;
    const before = count();
    for (let pages = 0; pages < DIRECT_PAGES && count() === before; pages += 1) {
      if (this.#directLog.older === "none") break;
      await this.#directLog.read();
    }
    this.#update(key, (c) => ({ ...c, older: this.#directLog.older }));
  }

  #onConnection(connection: ConnectionState): void {
    this.#set({ connection });
    if (connection.status !== "connected") return;
    for (const conversation of this.#state.conversations) {
      if (conversation.kind === "room") void this.#refreshMembers(conversation);
    }
    // The users who wrote while one was away are only known from the log.
    if (this.#directLog.older === "unknown") void this.#readFirstDirect();
  }

  async #readFirstDirect(): Promise<void> {
    try {
      await this.#directLog.read();
    } catch {
      return; // offline again
    }
    for (const { key, kind, older } of this.#state.conversations) {
      if (kind === "user" && older === "unknown") void this.loadOlder(key);
    }
  }

  /** Who joined and left while there was no connection has not been told. */
  async #refreshMembers({ key, name }: Conversation): Promise<void> {
    try {
      const { members, count } = await this.#client.getPresence(name);
      this.#update(key, (c) => ({ ...c, members, count, typing: [] }));
    } catch {
      // Not in the room, or offline again: the next connection asks again.
    }
  }

  /** Messages were missed; *before* is the offset of the first one behind them, if there is one. */
  #onGap(key: string, before: number | undefined): void {
    if (before !== undefined) {
      this.#update(key, (c) => ({ ...c, gaps: [...c.gaps, before] }));
      return;
    }
    // The log may have begun anew: show what it has now.
    this.#update(key, (c) => ({ ...c, stored: [], gaps: [], older: "unknown", readTo: Infinity }));
    void this.loadOlder(key);
  }

  #onMessage(message: Message): void {
    const { me, active } = this.#state;
    const key = keyOf("room", message.roomId);
    this.#stopTyping(message.roomId, message.userId);
    this.#update(key, (c) => trim(addStored(c, [asLine(message)], me)));
    if (key === active) this.#hear(message.userId, textOf(message.content));
  }

  #onDirect(messages: readonly DirectMessage[], { isNew }: { isNew: boolean }): void {
    const { me, active } = this.#state;
    for (const message of messages) {
      const other = message.userId === me ? message.to : message.userId;
      const { key } = this.#add("user", other);
      this.#update(key, (c) => trim(addStored(c, [asLine(message)], me)));
      if (isNew && key === active) this.#hear(message.userId, textOf(message.content));
    }
    if (messages.length > 0) this.#rememberRooms();
  }

  /** A new message in the conversation that is shown. */
  #hear(userId: string, text: string): void {
    if (userId !== this.#state.me) this.#set({ announcement: `${userId}: ${text}` });
    this.#read();
  }

  #onTyping(room: string, userId: string, isTyping: boolean): void {
    this.#stopTyping(room, userId);
    if (!isTyping) return;
    this.#inRoom(room, (c) => setTyping(c, userId, true));
    const timer = setTimeout(() => this.#stopTyping(room, userId), TYPING_MS);
    this.#typingTimers.set(keyOf("room", room) + userId, timer);
  }

  #stopTyping(room: string, userId: string): void {
    const name = keyOf("room", room) + userId;
    clearTimeout(this.#typingTimers.get(name));
    this.#typingTimers.delete(name);
    this.#inRoom(room, (c) => setTyping(c, userId, false));
  }

  /** What is shown and seen is read. */
  #read(): void {
    const { active } = this.#state;
    if (!this.#isSeen || active === undefined) return;
    const before = this.#find(active)?.readTo;
    this.#update(active, markRead);
    const after = this.#find(active)?.readTo;
    if (after === undefined || after === before) return;
    this.#memory.write("read", { ...this.#memory.readNumbers("read"), [active]: after });
  }

  #rememberRooms(): void {
    const names = (kind: Conversation["kind"]): string[] =>
      this.#state.conversations.filter((c) => c.kind === kind).map(({ name }) => name);
    this.#memory.write("rooms", names("room"));
    this.#memory.write("users", names("user"));
  }

  #add(kind: Conversation["kind"], name: string): Conversation {
    const key = keyOf(kind, name);
    const known = this.#find(key);
    if (known !== undefined) return known;
    const readTo = this.#memory.readNumbers("read")[key];
    const conversation = {
      ...emptyConversation(kind, name, readTo ?? (kind === "room" ? Infinity : 0)),
      ...(kind === "user" ? { older: this.#directLog.older } : {}),
    };
    const rooms = this.#state.conversations.filter((c) => c.kind === "room");
    const users = this.#state.conversations.filter((c) => c.kind === "user");
    if (kind === "room") this.#set({ conversations: [...rooms, conversation, ...users] });
    else this.#set({ conversations: [...rooms, ...users, conversation] });
    return conversation;
  }

  #find(key: string): Conversation | undefined {
    return this.#state.conversations.find((conversation) => conversation.key === key);
  }

  #inRoom(room: string, change: (conversation: Conversation) => Conversation): void {
    this.#update(keyOf("room", room), change);
  }

  #update(key: string, change: (conversation: Conversation) => Conversation): void {
    const before = this.#state.conversations;
    const conversations = before.map((c) => (c.key === key ? change(c) : c));
    if (conversations.some((c, index) => c !== before[index])) this.#set({ conversations });
  }

  #set(change: Partial<ChatState>): void {
    this.#state = { ...this.#state, ...change };
    for (const listener of this.#listeners) listener();
  }
}

function reasonOf(fault: unknown): string {
  return fault instanceof Error ? fault.message : String(fault);
}

function codeOf(fault: unknown): string | undefined {
  return fault instanceof RoomfulError ? fault.code : undefined;
}
