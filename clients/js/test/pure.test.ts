import { describe, expect, it } from "vitest";

import { backoffDelay } from "../src/backoff.ts";
import { decideNext, type Ending } from "../src/closing.ts";
import { readSubject } from "../src/credentials.ts";
import { DEFAULT_OPTIONS, resolveOptions } from "../src/options.ts";
import { measure, Outbox } from "../src/outbox.ts";
import { findStored } from "../src/stored.ts";
import { BEGINNING, Timeline } from "../src/timeline.ts";
import { readHistoryPage, readMessage, type DirectMessage, type Message } from "../src/wire.ts";
import { makeToken } from "./server.ts";

describe("backoff", () => {
  const options = { firstMs: 1000, maxMs: 30_000, jitter: 0.5 };

  it("begins with the first delay and doubles up to the longest", () => {
    const delays = [0, 1, 2, 3, 4, 5, 6, 1000].map((n) => backoffDelay(n, options, 0.5));

    expect(delays).toEqual([1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  });

  it("varies by the jitter, both ways", () => {
    expect(backoffDelay(0, options, 0)).toBe(500);
    expect(backoffDelay(0, options, 0.999)).toBe(1499);
  });
});

describe("options", () => {
  it("take the default for what is undefined", () => {
    const resolved = resolveOptions({ token: "t", timeout: undefined as never, ackTimeout: 5 });

    expect(resolved.timeout).toBe(DEFAULT_OPTIONS.timeout);
    expect(resolved.ackTimeout).toBe(5);
  });
});

describe("what follows the end of a connection", () => {
  const closed = (code?: number): Ending => ({ kind: "closed", reason: "transport close", code });
  const refused = (message: string, refusals = 1): Ending => ({
    kind: "refused",
    message,
    refusals,
  });
  const cases: [string, Ending, boolean, string][] = [
    ["a lost transport", closed(), false, "backoff"],
    ["an abnormal close", closed(1006), false, "backoff"],
    ["a slow client", closed(4001), false, "backoff"],
    ["a draining edge", closed(4002), false, "backoff"],
    ["a session taken over", closed(4003), true, "REFUSED"],
    ["a bad packet", closed(4500), true, "REFUSED"],
    ["an expired token, a fresh one can be had", closed(4502), true, "backoff"],
    ["an expired token, and no other", closed(4502), false, "TOKEN_EXPIRED"],
    ["disconnected by the API", closed(4503), true, "REFUSED"],
    ["too many connections", closed(4504), true, "longest"],
    ["a server that is too busy", closed(1013), true, "longest"],
    ["a code of a later version", closed(4777), true, "REFUSED"],
    ["a refused token, and no other", refused("Authentication failed"), false, "UNAUTHORIZED"],
    ["a refused token, a fresh one can be had", refused("Authentication failed"), true, "backoff"],
    ["three fresh tokens refused", refused("Authentication failed", 3), true, "UNAUTHORIZED"],
    ["another refusal", refused("try later"), false, "backoff"],
    ["the server left", { kind: "closed", reason: "io server disconnect" }, true, "REFUSED"],
  ];

  it.each(cases)("%s", (_name, ending, canRenew, expected) => {
    const next = decideNext(ending, canRenew);

    expect(next.kind === "retry" ? next.wait : next.error.code).toBe(expected);
  });
});

describe("the outbox", () => {
  const entry = (lane: string, bytes = 1) => ({ lane, bytes });

  it("shows only the oldest of each lane", () => {
    const outbox = new Outbox({ maxMessages: 9, maxBytes: 99 });
    const [a1, a2, b1] = [entry("a"), entry("a"), entry("b")];
    for (const each of [a1, a2, b1]) outbox.add(each);

    expect(outbox.heads()).toEqual([a1, b1]);
    outbox.remove(a1);
    expect(outbox.heads()).toEqual([a2, b1]);
  });

  it("refuses what would pass a limit, by count and by bytes, and stays as it was", () => {
    const outbox = new Outbox({ maxMessages: 2, maxBytes: 10 });
    outbox.add(entry("a", 6));

    expect(() => outbox.add(entry("a", 5))).toThrow(
      expect.objectContaining({ code: "QUEUE_FULL" }),
    );
    outbox.add(entry("a", 4));
    expect(() => outbox.add(entry("b", 0))).toThrow(
      expect.objectContaining({ code: "QUEUE_FULL" }),
    );
    expect([outbox.count, outbox.bytes]).toEqual([2, 10]);
  });

  it("takes again what was freed", () => {
    const outbox = new Outbox({ maxMessages: 1, maxBytes: 10 });
    const first = entry("a", 10);
    outbox.add(first);

    expect(outbox.remove(first)).toBe(true);
    expect(outbox.remove(first)).toBe(false);
    outbox.add(entry("a", 10));
    expect([outbox.count, outbox.bytes]).toEqual([1, 10]);
  });

  it.each([
    ["ASCII", "hello", 7],
    ["what UTF-8 makes longer", "日本", 8],
    ["an attachment by its bytes", { file: new Uint8Array(100) }, 13 + 100],
    ["a Buffer of Node like other binary", { file: Buffer.alloc(100) }, 13 + 100],
    ["undefined as null", undefined, 4],
  ])("measures %s", (_name, value, bytes) => {
    expect(measure(value)).toBe(bytes);
  });

  it("refuses what is not JSON", () => {
    const cycle: Record<string, unknown> = {};
    cycle.self = cycle;

    expect(() => measure(cycle)).toThrow(expect.objectContaining({ code: "BAD_REQUEST" }));
    expect(() => measure(1n)).toThrow(expect.objectContaining({ code: "BAD_REQUEST" }));
  });
});

describe("a timeline", () => {
  const message = (offset: number): Message => {
    return { id: `m${offset}`, roomId: "r", userId: "u", content: offset, timestamp: 0, offset };
  };
  const build = () => {
    const offsets: number[] = [];
    return { offsets, timeline: new Timeline((entry) => offsets.push(entry.offset)) };
  };

  it("delivers each message once, and none that is older than one delivered", () => {
    const { offsets, timeline } = build();
    for (const offset of [3, 3, 5, 4, 8]) timeline.receive(message(offset));

    expect(offsets).toEqual([3, 5, 8]);
  });

  it("puts what came live behind what was fetched", () => {
    const { offsets, timeline } = build();
    timeline.receive(message(1));
    timeline.hold();
    timeline.receive(message(4));
    timeline.receive(message(5));
    for (const offset of [1, 2, 3, 4]) timeline.replay(message(offset));

    expect(offsets).toEqual([1, 2, 3, 4]);
    expect(timeline.release()).toBe(true);
    expect(offsets).toEqual([1, 2, 3, 4, 5]);
  });

  it("asks for the history once more when more came live than is held", () => {
    const { offsets, timeline } = build();
    timeline.begin(BEGINNING);
    timeline.hold();
    for (let offset = 1; offset <= 1001; offset += 1) timeline.receive(message(offset));

    expect(timeline.release()).toBe(false);
    timeline.receive(message(1002));
    for (let offset = 1; offset <= 1001; offset += 1) timeline.replay(message(offset));
    expect(timeline.release()).toBe(true);
    expect(offsets).toHaveLength(1002);
    expect(offsets.at(-1)).toBe(1002);
  });
});

describe("a message that was sent long ago", () => {
  const copy = (to: string, offset: number): DirectMessage => ({
    id: "1",
    userId: "ann",
    to,
    content: "hi",
    timestamp: offset,
    offset,
  });
  const find = (to: string): Promise<unknown> =>
    findStored(() => Promise.resolve({ messages: [copy("bob", 1), copy("cyd", 2)], next: null }), {
      id: "1",
      userId: "ann",
      to,
      after: BEGINNING,
    });

  it("is not taken for one with the same id to somebody else", async () => {
    expect(await find("bob")).toMatchObject({ offset: 1 });
    expect(await find("cyd")).toMatchObject({ offset: 2 });
    expect(await find("dan")).toBeNull();
  });
});

describe("readers of the wire", () => {
  const good = { id: "1", roomId: "r", userId: "u", content: null, timestamp: 5, offset: 7 };

  it("take a message, and nothing but its fields", () => {
    expect(readMessage({ ...good, cursor: "x" })).toEqual(good);
  });

  it.each([
    ["nothing", undefined],
    ["a string", "message"],
    ["no room", { ...good, roomId: undefined }],
    ["an offset of 0", { ...good, offset: 0 }],
    ["an offset that is no integer", { ...good, offset: 1.5 }],
    ["an id that is a number", { ...good, id: 1 }],
  ])("refuse %s", (_name, value) => {
    expect(readMessage(value)).toBeUndefined();
  });

  it("give binary content of the history as it would have come live", () => {
    const content = { file: { $binary: "AQID" }, list: [{ $binary: "" }], $binary: "AQID" };
    const page = readHistoryPage({ messages: [{ ...good, content }], next: null });

    expect(page?.messages[0]).toMatchObject({
      content: { file: Buffer.from([1, 2, 3]), list: [Buffer.of()], $binary: "AQID" },
    });
  });

  it("tell messages from published events in a page", () => {
    const event = { ...good, content: undefined, event: "moved", data: { x: 1 } };
    const page = readHistoryPage({ messages: [good, event], next: 7 });

    expect(page?.messages.map((entry) => "event" in entry)).toEqual([false, true]);
    expect(page?.next).toBe(7);
  });
});

describe("credentials", () => {
  it("reads the user out of a token, in any script", () => {
    expect(readSubject(makeToken("Zoë 木"))).toBe("Zoë 木");
    expect(readSubject("not a token")).toBeUndefined();
  });
});
