/** Rooms in one hook: a connection, the newest messages, and a way to send. */

import { useCallback, useEffect, useMemo, useRef, useSyncExternalStore } from "react";

import type {
  Message,
  Receipt,
  Roomful,
  RoomfulError,
  RoomfulOptions,
  SendOptions,
} from "@roomful/client";

import { MessageWindow } from "./message-window.ts";
import { useConnectionState, useRoomful } from "./use-roomful.ts";

/** Messages kept when the options do not say how many. */
const MAX_MESSAGES = 200;

export interface UseWebSocketOptions extends RoomfulOptions {
  /** Rooms to be in; when the list changes, rooms are joined and left. Default: none. */
  readonly rooms?: readonly string[];
  /** How many of the newest messages are kept, over all rooms. Default 200. */
  readonly maxMessages?: number;
  /** Hears why a room could not be joined, or not again, and errors that belong to no call. */
  readonly onError?: (error: RoomfulError) => void;
}

export interface WebSocketState<Content> {
  /** Whether there is a connection now. */
  readonly connected: boolean;
  /** The newest messages of the rooms since the component was mounted, oldest first. */
  readonly messages: readonly Message<Content>[];
  /** Send to a room, like Roomful.send: queued while offline, stored once. */
  readonly send: (roomId: string, content: Content, options?: SendOptions) => Promise<Receipt>;
  /** The client itself, for everything else. */
  readonly client: Roomful<Content>;
}

/**
 * Connect to *url* while the component is mounted, and be in options.rooms.
 *
 * When the component goes, the connection is closed and what was not acknowledged is rejected.
 */
export function useWebSocket<Content = unknown>(
  url: string,
  options: UseWebSocketOptions = {},
): WebSocketState<Content> {
  const { rooms = [], maxMessages = MAX_MESSAGES } = options;
  const client = useRoomful<Content>(url, options);
  const messages = useMessages(client, maxMessages);
  useRooms(client, rooms, options.onError);
  const send = useCallback<WebSocketState<Content>["send"]>(
    (roomId, content, sendOptions) => client.send(roomId, content, sendOptions),
    [client],
  );
  const connected = useConnectionState(client).status === "connected";
  return { connected, messages, send, client };
}

function useMessages<Content>(
  client: Roomful<Content>,
  limit: number,
): readonly Message<Content>[] {
  const window = useMemo(() => ({ client, messages: new MessageWindow<Content>() }), [client]);
  useEffect(() => window.messages.keep(limit), [window, limit]);
  useEffect(() => window.client.onMessage(window.messages.push), [window]);
  const { subscribe, snapshot } = window.messages;
  return useSyncExternalStore(subscribe, snapshot, snapshot);
}

function useRooms<Content>(
  client: Roomful<Content>,
  rooms: readonly string[],
  onError: ((error: RoomfulError) => void) | undefined,
): void {
  const report = useRef(onError);
  useEffect(() => {
    report.current = onError;
  }, [onError]);
  useEffect(() => client.onError((error) => report.current?.(error)), [client]);
  useEffect(() => client.onRoomLost(({ error }) => report.current?.(error)), [client]);

  const wanted = JSON.stringify(rooms); // a new array with the same rooms changes nothing
  useEffect(() => {
    const names = new Set(JSON.parse(wanted) as string[]);
    const join = (): void => {
      for (const room of names) {
        if (client.rooms.includes(room)) continue;
        client.joinRoom(room).catch((fault: unknown) => {
          const error = fault as RoomfulError;
          // Unmounted, or not wanted any more: that is no error.
          const isOurDoing = error.code === "DISCONNECTED" || error.code === "NOT_JOINED";
          if (!isOurDoing) report.current?.(error);
        });
      }
    };
    for (const room of client.rooms) if (!names.has(room)) client.leaveRoom(room);
    join();
    // The client stopped, and was told to connect again: it has forgotten what it never joined.
    return client.onConnectionState((state) => {
      if (state.status === "connecting" && state.attempt === 0) join();
    });
  }, [client, wanted]);
}
