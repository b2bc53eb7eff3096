import { act, cleanup, renderHook, waitFor } from "@testing-library/react";
import { StrictMode, type ReactNode } from "react";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { RoomfulError } from "@roomful/client";

import { makeToken, SmallServer } from "../../js/test/server.ts";
import { useWebSocket, type UseWebSocketOptions } from "../src/index.ts";

let server: SmallServer;

beforeEach(async () => {
  server = await SmallServer.start();
});

afterEach(async () => {
  cleanup();
  await server.stop();
});

function render(options: Partial<UseWebSocketOptions> = {}, strict = false) {
  const wrapper = strict
    ? ({ children }: { children: ReactNode }) => <StrictMode>{children}</StrictMode>
    : undefined;
  return renderHook(
    (props: Partial<UseWebSocketOptions>) =>
      useWebSocket(server.url, {
        token: makeToken("ada"),
        reconnectionDelay: 5,
        rooms: ["lobby"],
        ...props,
      }),
    { initialProps: options, ...(wrapper === undefined ? {} : { wrapper }) },
  );
}

const sockets = (): number => server.io.sockets.sockets.size;

describe("useWebSocket", () => {
  it("connects, joins, sends and shows messages", async () => {
    const { result } = render();
    expect(result.current).toMatchObject({ connected: false, messages: [] });

    await act(() => result.current.send("lobby", "hello"));

    await waitFor(() => expect(result.current.messages).toHaveLength(1));
    expect(result.current.connected).toBe(true);
    expect(result.current.messages[0]).toMatchObject({ userId: "ada", content: "hello" });
  });

  it("takes an address alone, and says why it is not let in", async () => {
    const { result } = renderHook(() => useWebSocket(server.url));

    await waitFor(() => expect(result.current.client.state).toMatchObject({ status: "failed" }));
    expect(result.current).toMatchObject({ connected: false, messages: [] });
    await expect(result.current.send("lobby", "hello")).rejects.toMatchObject({
      code: "UNAUTHORIZED",
    });
  });

  it("keeps only the newest messages", async () => {
    const { result } = render({ maxMessages: 3 });
    await act(() => Promise.all([1, 2, 3, 4, 5].map((n) => result.current.send("lobby", n))));

    await waitFor(() =>
      expect(result.current.messages.map(({ content }) => content)).toEqual([3, 4, 5]),
    );
  });

  it("keeps what it has when it is to keep more, or less", async () => {
    const { result, rerender } = render({ maxMessages: 3 });
    await act(() => Promise.all([1, 2, 3].map((n) => result.current.send("lobby", n))));
    await waitFor(() => expect(result.current.messages).toHaveLength(3));
    const shown = () => result.current.messages.map(({ content }) => content);

    rerender({ maxMessages: 4 });
    expect(shown()).toEqual([1, 2, 3]);
    await act(() => result.current.send("lobby", 4));
    await waitFor(() => expect(shown()).toEqual([1, 2, 3, 4]));
    rerender({ maxMessages: 2 });
    await waitFor(() => expect(shown()).toEqual([3, 4]));
  });

  it("keeps none if it is to keep none", async () => {
    const { result } = render({ maxMessages: 0 });
    await act(() => result.current.send("lobby", 1));
    await act(() => result.current.send("lobby", 2));

    expect(result.current.messages).toEqual([]);
  });

  it("joins and leaves rooms as the list changes, and only then", async () => {
    const { result, rerender } = render({ rooms: ["a", "b"] });
    await waitFor(() => expect(server.operations("join-room")).toHaveLength(2));
    await waitFor(() => expect(result.current.connected).toBe(true));

    rerender({ rooms: ["a", "b"] });
    rerender({ rooms: ["b", "c"] });

    await waitFor(() => expect(server.operations("leave-room")).toEqual([{ roomId: "a" }]));
    await waitFor(() => expect(server.operations("join-room")).toHaveLength(3));
    expect(result.current.client.rooms).toEqual(["b", "c"]);
  });

  it("says when the connection is lost, and when it is back", async () => {
    const { result } = render({ reconnectionDelay: 100, randomizationFactor: 0 });
    await waitFor(() => expect(result.current.connected).toBe(true));

    server.cut();

    await waitFor(() => expect(result.current.connected).toBe(false));
    await waitFor(() => expect(result.current.connected).toBe(true));
  });

  it("closes the connection and rejects what waits when it is unmounted", async () => {
    const { result, unmount } = render({ retryDelay: 60_000, retryDelayMax: 60_000 });
    await waitFor(() => expect(server.operations("join-room")).toHaveLength(1));
    server.fail("message", { kind: "refuse", code: "OVERLOADED", retryable: true });
    const sent = result.current.send("lobby", 1).catch((error: unknown) => error);
    await waitFor(() => expect(server.operations("message")).toHaveLength(1));

    unmount();

    expect(await sent).toMatchObject({ code: "DISCONNECTED" });
    await waitFor(() => expect(sockets()).toBe(0));
  });

  it("is in its rooms once and hears each message once in StrictMode", async () => {
    const errors: RoomfulError[] = [];
    const { result } = render({ onError: (error) => errors.push(error) }, true);
    await act(() => result.current.send("lobby", "hello"));
    await waitFor(() => expect(result.current.messages).toHaveLength(1));
    server.post("lobby", "bo", "again");

    await waitFor(() => expect(result.current.messages).toHaveLength(2));
    await waitFor(() => expect(sockets()).toBe(1));
    expect(errors).toEqual([]);
  });

  it("tells why a room could not be joined", async () => {
    server.fail("join-room", { kind: "refuse", code: "FORBIDDEN", retryable: false });
    const errors: RoomfulError[] = [];
    render({ onError: (error) => errors.push(error) });

    await waitFor(() => expect(errors).toMatchObject([{ code: "FORBIDDEN" }]));
  });

  it("tells why a room could not be joined again", async () => {
    const errors: RoomfulError[] = [];
    const { result } = render({ onError: (error) => errors.push(error) });
    await act(() => result.current.send("lobby", 1));
    server.fail("join-room", { kind: "refuse", code: "FORBIDDEN", retryable: false });
    server.cut({ forget: true });

    await waitFor(() => expect(errors).toMatchObject([{ code: "FORBIDDEN" }]));
  });

  it("joins its rooms when the client stopped before it could, and is told to connect", async () => {
    server.accepted = new Set();
    const { result } = render();
    await waitFor(() => expect(result.current.client.state.status).toBe("failed"));
    server.accepted = null;

    act(() => result.current.client.connect());

    await waitFor(() => expect(server.operations("join-room")).toEqual([{ roomId: "lobby" }]));
    expect(result.current.client.rooms).toEqual(["lobby"]);
  });

  it("uses the newest token function, without a new connection for it", async () => {
    let used = "";
    const tokenBy = (name: string) => () => {
      used = name;
      return makeToken("ada");
    };
    const { result, rerender } = render({ token: tokenBy("first") });
    await waitFor(() => expect(result.current.connected).toBe(true));
    const { client } = result.current;

    rerender({ token: tokenBy("second") });
    expect(result.current.client).toBe(client);
    server.cut();

    await waitFor(() => expect(used).toBe("second"));
  });

  it("begins with a new client for another user's token", async () => {
    const { result, rerender } = render();
    await waitFor(() => expect(result.current.connected).toBe(true));
    await act(() => result.current.send("lobby", "mine"));

    rerender({ token: makeToken("bo") });

    await waitFor(() => expect(result.current.client.userId).toBe("bo"));
    expect(result.current.messages).toEqual([]);
    await waitFor(() => expect(result.current.connected).toBe(true));
    await waitFor(() => expect(sockets()).toBe(1));
  });
});
