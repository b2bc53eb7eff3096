/**
 * The rooms that the application is in, kept so over lost connections.
 *
 * For each room there is what is wanted, and what the server knows; one worker per room does what
 * makes the two equal, one step at a time: join, leave, or fetch what was missed. So it does not
 * matter when a connection is lost: the next one goes on with what is left to do.
 */

import { backoffDelay } from "./backoff.ts";
import { catchUp, type FetchPage, type HistoryQuery, type Hole } from "./catchup.ts";
import { RoomfulError } from "./errors.ts";
import { badAnswer, type Link } from "./link.ts";
import { Listeners } from "./listeners.ts";
import type { ResolvedOptions } from "./options.ts";
import { pause } from "./retry.ts";
import { BEGINNING, Timeline, type Mark } from "./timeline.ts";
import {
  readHistoryPage,
  readMembers,
  type DirectMessage,
  type HistoryEntry,
  type HistoryPage,
  type Members,
  type Message,
} from "./wire.ts";

/** Messages of a room that were missed and cannot be had any more. */
export interface Gap extends Hole {
  readonly roomId: string;
}

/** A room that the client was in and could not come back to. */
export interface RoomLost {
  readonly roomId: string;
  readonly error: RoomfulError;
}

interface Waiter {
  readonly resolve: (members: Members) => void;
  readonly reject: (error: RoomfulError) => void;
}

interface Room {
  readonly id: string;
  /** The user's own room of direct messages: the server puts everyone in theirs, no one joins. */
  readonly isPersonal: boolean;
  timeline: Timeline;
  /** What the application wants. */
  wanted: boolean;
  /** Whether the server has confirmed it, for the present session. */
  joined: boolean;
  /** Whether a session was lost while it was joined: something may have been missed. */
  missed: boolean;
  /** Whether its history can be read, as far as we know. */
  readable: boolean;
  /** Who was there when it was joined: for those who wait for that. */
  members: Members | undefined;
  working: boolean;
  waiters: Waiter[];
}

export class Rooms {
  readonly delivered = new Listeners<HistoryEntry>();
  readonly gaps = new Listeners<Gap>();
  readonly roomsLost = new Listeners<RoomLost>();
  /** Messages to this room may go to the server now (see isReady). */
  readonly ready = new Listeners<string>();

  readonly #link: Link;
  readonly #options: ResolvedOptions;
  readonly #userId: () => string | undefined;
  // Mutable state: the rooms by id, and the user's own one as soon as it is known who that is.
  readonly #rooms = new Map<string, Room>();
  #personal: Room | undefined;

  constructor(link: Link, options: ResolvedOptions, userId: () => string | undefined) {
    this.#link = link;
    this.#options = options;
    this.#userId = userId;
    link.opened.add(({ recovered }) => this.#onOpened(recovered));
    link.ended.add((error) => this.#onEnded(error));
  }

  /** Ids of the rooms that the application wants to be in, in the order of joining. */
  get wanted(): string[] {
    return [...this.#rooms.values()].filter((room) => room.wanted).map((room) => room.id);
  }

  /**
   * Join; resolves when the server has confirmed it, be that after a reconnection.
   *
   * From then on every message is owed: it comes, or a gap is told.
   */
  join(roomId: string): Promise<Members> {
    const room = this.#rooms.get(roomId) ?? this.#build(roomId);
    this.#rooms.set(roomId, room);
    room.wanted = true;
    return new Promise((resolve, reject) => {
      room.waiters.push({ resolve, reject });
      void this.#work(room);
    });
  }

  /** Leave; from now on nothing of the room is delivered. */
  leave(roomId: string): void {
    const room = this.#rooms.get(roomId);
    if (room === undefined) return;
    room.wanted = false;
    rejectAll(room, new RoomfulError("NOT_JOINED", "the room was left", { retryable: false }));
    void this.#work(room);
    this.ready.emit(roomId); // what waited for it to be joined waits no more
  }

  /** Whether a message to *roomId* may go to the server: not while it is being joined (again). */
  isReady(roomId: string): boolean {
    const room = this.#rooms.get(roomId);
    return room?.wanted !== true || room.joined;
  }

  /** The newest entry delivered from *roomId*; undefined if none is known. */
  last(roomId: string): Mark | undefined {
    const room = roomId === this.#personal?.id ? this.#personal : this.#rooms.get(roomId);
    return room?.timeline.last;
  }

  /** The server says that we are not in *roomId*; true if we should be, and will join again. */
  rejoin(roomId: string): boolean {
    const room = this.#rooms.get(roomId);
    if (room?.wanted !== true) return false;
    this.#lose(room);
    void this.#work(room);
    return true;
  }

  /** A message came live. */
  receive(message: Message): void {
    const room = this.#rooms.get(message.roomId);
    if (room?.wanted === true) room.timeline.receive(message);
  }

  /** A direct message came live. */
  receiveDirect(message: DirectMessage): void {
    this.#personal?.timeline.receive(message);
  }

  /** Ask for a page of a room's history. */
  async history(roomId: string, query: HistoryQuery): Promise<HistoryPage> {
    const page = readHistoryPage(await this.#link.request("history", { roomId, ...query }));
    if (page === undefined) throw badAnswer("history");
    return page;
  }

  #build(id: string, { isPersonal = false } = {}): Room {
    const room: Room = {
      id,
      isPersonal,
      timeline: new Timeline((entry) => this.#deliver(room, entry)),
      wanted: true,
      joined: false,
      missed: false,
      readable: this.#options.catchUp,
      members: undefined,
      working: false,
      waiters: [],
    };
    return room;
  }

  #deliver(room: Room, entry: HistoryEntry): void {
    if (room.wanted) this.delivered.emit(entry);
  }

  #onOpened(recovered: boolean): void {
    this.#personal ??= this.#build(personalRoom(this.#userId()), { isPersonal: true });
    for (const room of [this.#personal, ...this.#rooms.values()]) {
      if (!recovered) this.#lose(room);
      if (room.isPersonal) this.#enterPersonal(room);
      void this.#work(room);
    }
  }

  /** The server has put us in our own room already. */
  #enterPersonal(room: Room): void {
    if (room.missed) room.timeline.hold();
    room.joined = true;
  }

  /** The server does not have us in *room* any more. */
  #lose(room: Room): void {
    room.missed ||= this.#isEntered(room);
    room.joined = false;
    room.members = undefined;
  }

  #onEnded(error: RoomfulError): void {
    for (const room of this.#rooms.values()) {
      rejectAll(room, error);
      // Never joined, and its joining failed: it is not wanted any more.
      if (!room.joined && !room.missed) this.#rooms.delete(room.id);
    }
  }

  /** Do what is left to do for *room*, while there is a connection. */
  async #work(room: Room): Promise<void> {
    if (room.working) return;
    room.working = true;
    try {
      let failures = 0;
      while (this.#link.isUp()) {
        const step = this.#nextStep(room);
        if (step === undefined) return;
        failures = (await this.#take(step, failures)) ? 0 : failures + 1;
      }
    } finally {
      // No await since there was nothing to do: what is asked for in between would not be done.
      room.working = false;
      if (!room.wanted && !room.joined) this.#rooms.delete(room.id);
    }
  }

  /** Take *step*; false, after a wait, if it has to be tried again. */
  async #take(step: () => Promise<void>, failures: number): Promise<boolean> {
    const { retryDelay: firstMs, retryDelayMax: maxMs } = this.#options;
    try {
      await step();
      return true;
    } catch (fault) {
      if (!(fault instanceof RoomfulError && fault.retryable)) throw fault;
      const delay = backoffDelay(failures, { firstMs, maxMs, jitter: 0.5 }, Math.random());
      if (this.#link.isUp()) await pause(delay);
      return false;
    }
  }

  /** The next thing to do for *room*; each deals itself with an error that is not retryable. */
  #nextStep(room: Room): (() => Promise<void>) | undefined {
    if (!room.wanted) return room.joined ? () => this.#exit(room) : undefined;
    if (!room.joined) return () => this.#enter(room);
    if (!this.#isEntered(room)) return () => this.#findEnd(room);
    if (room.waiters.length > 0) return () => this.#tellMembers(room);
    return room.missed ? () => this.#catchUp(room) : undefined;
  }

  /** Whether it is known from where on messages are owed, should the session be lost. */
  #isEntered({ joined, readable, timeline }: Room): boolean {
    return joined && (timeline.last !== undefined || !readable);
  }

  async #enter(room: Room): Promise<void> {
    if (room.missed) room.timeline.hold();
    try {
      const answer = readMembers(await this.#link.request("join-room", { roomId: room.id }));
      if (answer === undefined) throw badAnswer("join-room");
      room.joined = true;
      room.members = answer;
    } catch (fault) {
      const error = finalError(fault);
      const wasIn = room.missed;
      room.wanted = false;
      rejectAll(room, error);
      if (wasIn) this.roomsLost.emit({ roomId: room.id, error });
    }
    this.ready.emit(room.id); // after a refusal too: what waits for the room is refused now
  }

  async #exit(room: Room): Promise<void> {
    try {
      await this.#link.request("leave-room", { roomId: room.id });
    } catch (fault) {
      finalError(fault); // the server does not have us in the room: as good as left
    }
    room.joined = false;
    room.missed = false;
    room.members = undefined;
    // Joined once more, it begins anew: what is sent meanwhile is not missed.
    room.timeline = new Timeline((entry) => this.#deliver(room, entry));
  }

  /** Tell those who asked to join who is there: as the join said, or anew if that is long ago. */
  async #tellMembers(room: Room): Promise<void> {
    try {
      const answer =
        room.members ?? readMembers(await this.#link.request("get-presence", { roomId: room.id }));
      if (answer === undefined) throw badAnswer("get-presence");
      room.members = undefined;
      resolveAll(room, answer);
    } catch (fault) {
      rejectAll(room, finalError(fault));
    }
  }

  /** Deliver what was missed in a lost session, or say that it cannot be had. */
  async #catchUp(room: Room): Promise<void> {
    const { timeline } = room;
    const { last } = timeline;
    const tellHole = (hole: Hole): void => this.gaps.emit({ roomId: room.id, ...hole });
    const unreadable: Hole = { after: last?.offset, before: undefined };
    if (!room.readable || last === undefined) {
      tellHole(unreadable);
    } else {
      const fetch: FetchPage = (query) => this.history(room.id, query);
      try {
        await catchUp(last, { timeline, fetch, limit: this.#options.catchUpLimit, tellHole });
      } catch (fault) {
        finalError(fault);
        room.readable = false;
        tellHole(unreadable);
      }
    }
    // A connection lost meanwhile has thrown NOT_CONNECTED above: then it is done once more.
    if (timeline.release(room.readable)) room.missed = false;
  }

  /** Learn where the log ends, to have something to go on from should the session be lost. */
  async #findEnd(room: Room): Promise<void> {
    try {
      const { messages } = await this.history(room.id, { limit: 1 });
      room.timeline.begin(messages[0] ?? BEGINNING);
    } catch (fault) {
      finalError(fault);
      room.readable = false;
    }
  }
}

/** Give *fault* if there is no use in trying again; else throw it, for the worker to do so. */
function finalError(fault: unknown): RoomfulError {
  if (fault instanceof RoomfulError && !fault.retryable) return fault;
  throw fault;
}

function resolveAll(room: Room, members: Members): void {
  const { waiters } = room;
  room.waiters = [];
  for (const waiter of waiters) waiter.resolve(members);
}

function rejectAll(room: Room, error: RoomfulError): void {
  const { waiters } = room;
  room.waiters = [];
  for (const waiter of waiters) waiter.reject(error);
}

/** The room of direct messages of *userId*; the server has no room "user:". */
export function personalRoom(userId: string | undefined): string {
  return `user:${userId ?? ""}`;
}
