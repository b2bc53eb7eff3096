/** @roomful/client: docs/clients.md tells how to use it. */

export type { HistoryQuery } from "./catchup.ts";
export { RoomfulError } from "./errors.ts";
export type { ClientErrorCode, ErrorCode, ServerErrorCode } from "./errors.ts";
export type { Fields } from "./fields.ts";
export type { ConnectionState } from "./link.ts";
export type { Unsubscribe } from "./listeners.ts";
export type { RoomfulOptions, TokenSource } from "./options.ts";
export { Roomful } from "./roomful.ts";
export type { EventListener, SendOptions } from "./roomful.ts";
export type { Gap, RoomLost } from "./rooms.ts";
export type {
  DirectMessage,
  HistoryEntry,
  HistoryPage,
  Member,
  Members,
  Message,
  Presence,
  PresenceCount,
  PublishedEvent,
  Receipt,
  Typing,
  UserLeft,
} from "./wire.ts";
