import { describe, expect, it } from "vitest";

import { contents, enter, server, useServer } from "./harness.ts";
import { Heard } from "./waiting.ts";
import type { Fault } from "./server.ts";

useServer();

const ROOMS = ["a", "b"];
const MESSAGES = 60;

/** Numbers from 0 (included) to 1, the same for the same *seed* (mulberry32). */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const FAULTS: readonly Fault[] = [
  { kind: "cut" },
  { kind: "swallow" },
  { kind: "ignore" },
  { kind: "refuse", code: "OVERLOADED", retryable: true },
];

describe("under faults of all kinds", () => {
  it.each([1, 2, 3, 4])("stores and delivers all once and in order (seed %i)", async (seed) => {
    const random = seeded(seed);
    const { client: sender } = await enter("ada", ROOMS, { ackTimeout: 30 });
    const { client: reader, gaps } = await enter("bo", [], { ackTimeout: 30 });
    const heard = new Map(ROOMS.map((room) => [room, new Heard<unknown>()]));
    reader.onMessage(({ roomId, content }) => heard.get(roomId)?.take(content));
    await Promise.all(ROOMS.map((room) => reader.joinRoom(room)));

    const sent: Promise<unknown>[] = [];
    for (let n = 0; n < MESSAGES; n += 1) {
      const fault = FAULTS[Math.floor(random() * 12)];
      if (fault !== undefined) server.fail("message", fault);
      if (random() < 0.08) server.cut({ forget: random() < 0.5 });
      for (const room of ROOMS) sent.push(sender.send(room, n));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await Promise.all(sent);

    const expected = Array.from({ length: MESSAGES }, (_, n) => n);
    for (const room of ROOMS) {
      expect(contents(server.log(room))).toEqual(expected);
      expect(await heard.get(room)?.atLeast(MESSAGES)).toEqual(expected);
    }
    expect(gaps.values).toEqual([]);
  });
});
