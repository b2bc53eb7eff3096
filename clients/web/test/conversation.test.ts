import { describe, expect, it } from "vitest";

import {
  addMember,
  addStored,
  emptyConversation,
  markRead,
  MAX_LINES,
  removeMember,
  setDelivery,
  setTyping,
  textOf,
  trim,
  type Conversation,
  type StoredLine,
} from "../src/chat/conversation.ts";
import { Memory } from "../src/chat/memory.ts";

const line = (offset: number, userId = "bo"): StoredLine => {
  return { id: `m${offset}`, userId, text: `text ${offset}`, timestamp: 1000 + offset, offset };
};
const build = (change: Partial<Conversation> = {}): Conversation => {
  return { ...emptyConversation("room", "lobby", 0), ...change };
};
const offsets = ({ stored }: Conversation): number[] => stored.map(({ offset }) => offset);

describe("a conversation", () => {
  it("has stored lines once and in the order of the log, however they come", () => {
    let conversation = addStored(build(), [line(5), line(6)], "ada");
    conversation = addStored(conversation, [line(2), line(3), line(5)], "ada");
    conversation = addStored(conversation, [line(7)], "ada");

    expect(offsets(conversation)).toEqual([2, 3, 5, 6, 7]);
  });

  it("replaces an unsent line by the stored one of the same user and id", () => {
    const pending = { ...line(1), delivery: { kind: "pending" } as const };
    const conversation = build({ unsent: [{ ...pending, id: "m9", userId: "ada" }] });

    expect(addStored(conversation, [line(9, "bo")], "ada").unsent).toHaveLength(1);
    expect(addStored(conversation, [line(9, "ada")], "ada").unsent).toEqual([]);
  });

  it("knows how far an unsent line has got, and ignores news of lines that are stored", () => {
    const pending = { ...line(1), id: "a", delivery: { kind: "pending" } as const };
    const conversation = build({ unsent: [pending] });
    const failed = setDelivery(conversation, "a", { kind: "failed", reason: "no" });

    expect(failed.unsent[0]?.delivery).toEqual({ kind: "failed", reason: "no" });
    expect(setDelivery(conversation, "b", { kind: "delivered" }).unsent).toEqual([pending]);
  });

  it("counts as unread what others wrote behind what was read", () => {
    let conversation = build({ readTo: 2 });
    conversation = addStored(conversation, [line(1), line(3), line(4, "ada"), line(5)], "ada");
    expect(conversation.unread).toBe(2);

    conversation = markRead(conversation);
    expect([conversation.unread, conversation.readTo]).toEqual([0, 5]);
    expect(markRead(conversation)).toBe(conversation);
  });

  it("counts from now on in a room that is new, empty or not", () => {
    const fresh = markRead(build({ readTo: Infinity }));
    expect(addStored(fresh, [line(1)], "ada").unread).toBe(1);

    const old = markRead(addStored(build({ readTo: Infinity }), [line(1)], "ada"));
    expect(addStored(old, [line(2)], "ada").unread).toBe(1);
  });

  it("keeps only the newest lines, and says that there are older ones", () => {
    const lines = Array.from({ length: MAX_LINES + 10 }, (_, index) => line(index + 1));
    const conversation = trim({ ...addStored(build(), lines, "ada"), older: "none" });

    expect(conversation.stored).toHaveLength(MAX_LINES);
    expect(conversation.stored[0]?.offset).toBe(11);
    expect(conversation.older).toBe("some");
  });

  it("has each member once, by name, and forgets who leaves", () => {
    let conversation = build();
    for (const userId of ["cy", "ada", "bo"]) {
      conversation = addMember(conversation, { userId, status: "online" });
    }
    conversation = addMember(conversation, { userId: "bo", status: "away" });
    conversation = setTyping(setTyping(conversation, "bo", true), "cy", true);

    expect(conversation.members.map((m) => `${m.userId} ${m.status}`)).toEqual([
      "ada online",
      "bo away",
      "cy online",
    ]);
    conversation = removeMember(conversation, "bo");
    expect([conversation.count, conversation.typing]).toEqual([2, ["cy"]]);
  });
});

describe("the text of a message", () => {
  it.each([
    ["a text", "hello", "hello"],
    ["an object with a text", { text: "hello", mood: 1 }, "hello"],
    ["another object", { x: 1 }, '{"x":1}'],
    ["nothing", undefined, "null"],
  ])("%s", (_name, content, expected) => {
    expect(textOf(content)).toBe(expected);
  });
});

describe("memory", () => {
  it("gives back what was written, and nothing for what is not of its kind", () => {
    const memory = new Memory(() => localStorage, "test:");
    memory.write("rooms", ["a", 1, "b"]);
    memory.write("read", { "room/a": 5, "room/b": "x" });

    expect(memory.readTexts("rooms")).toEqual(["a", "b"]);
    expect(memory.readNumbers("read")).toEqual({ "room/a": 5 });
    memory.forget("rooms");
    expect([memory.read("rooms"), memory.readTexts("rooms")]).toEqual([null, []]);
  });

  it("is empty, and takes everything, where the browser blocks storage", () => {
    const memory = new Memory(() => {
      throw new DOMException("blocked", "SecurityError");
    }, "test:");
    memory.write("rooms", ["a"]);

    expect(memory.readTexts("rooms")).toEqual([]);
  });
});
