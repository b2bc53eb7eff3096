import { createHmac } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from "vitest";

import { Roomful } from "@roomful/client";

import { ChatPage, launch } from "./page-driver.ts";
import { Proxy, RoomfulServer } from "./server.ts";

const OFFLINE_MS = 10_000;
const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };

let server: RoomfulServer;
let browser: Browser;
let pages: ChatPage[] = [];
let serial = 0;

const cleanups: (() => Promise<void>)[] = [];

beforeAll(async () => {
  server = await RoomfulServer.start();
  cleanups.push(() => server.stop());
  browser = await launch();
  cleanups.push(() => browser.close());
});

afterAll(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
});

afterEach(async () => {
  const opened = pages;
  pages = [];
  for (const chat of opened) await chat.close();
  for (const { faults, foreign } of opened) expect([faults, foreign]).toEqual([[], []]);
});

async function open(
  url = server.url,
  options?: Parameters<typeof ChatPage.open>[2],
): Promise<ChatPage> {
  const chat = await ChatPage.open(browser, url, options);
  pages.push(chat);
  return chat;
}

/** A room that no other test uses. */
const newRoom = (): string => `room-${++serial}`;
const numbered = (word: string, count: number): string[] =>
  Array.from({ length: count }, (_, n) => `${word} ${n + 1}`);

describe("two people on the page", () => {
  it("lose nothing while one is offline for 10 seconds and writes on", async () => {
    const proxy = await Proxy.before(server.port);
    try {
      const room = newRoom();
      const [ada, bo] = [await open(proxy.url), await open()];
      await ada.signIn("Ada");
      await bo.signIn("Bo");
      await ada.join(room);
      await bo.join(room);
      await ada.say("hello");
      await bo.shows(["hello"]);
      await bo.say("hi");
      await ada.shows(["hello", "hi"]);

      const back = Date.now() + OFFLINE_MS;
      proxy.down();
      await ada.page.context().setOffline(true);
      await ada.page.getByText(/^Offline\./).waitFor();
      const mine = numbered("from Ada", 5);
      const theirs = numbered("from Bo", 3);
      for (const text of mine) await ada.say(text);
      await ada.hasTicks("Sending", 5);
      await ada.page.getByText("5 messages will be sent when you are back").waitFor();
      await ada.page.getByText(/^(Next try in \d+ s|Trying now)$/).waitFor();
      for (const text of theirs) await bo.say(text);
      await bo.shows(["hello", "hi", ...theirs]);
      await ada.page.waitForTimeout(back - Date.now());
      expect(await ada.texts()).toEqual(["hello", "hi", ...mine]);
      proxy.up();
      await ada.page.context().setOffline(false);

      const all = ["hello", "hi", ...theirs, ...mine];
      await bo.shows(all);
      await ada.shows(all);
      await ada.hasTicks("Delivered", 6);
      await ada.connected();
    } finally {
      await proxy.close();
    }
  });

  it("see each other: who is here, away, typing, and gone", async () => {
    const room = newRoom();
    const [ada, bo] = [await (await open()).signIn("Ada"), await (await open()).signIn("Bo")];
    await ada.join(room);
    await bo.join(room);
    const here = ada.page.getByRole("complementary", { name: "Who is here" });

    await here.getByRole("button", { name: "Bo" }).waitFor();
    await bo.page.getByLabel("Your status").selectOption("away");
    await bo.page.locator("#members-panel li", { hasText: /Bo \(you\)\s*away/ }).waitFor();
    await here.getByRole("button", { name: "Bo away" }).waitFor();
    await bo.page.getByRole("textbox", { name: /^Message/ }).pressSequentially("I am");
    await ada.page.getByText("Bo is typing…").waitFor();
    await bo.say("I am here");
    await ada.page.getByText("Bo is typing…").waitFor({ state: "hidden" });
    await bo.page.getByRole("button", { name: `Leave ${room}` }).click();
    await here.getByRole("button", { name: /^Bo/ }).waitFor({ state: "hidden" });
  });

  it("write to each other directly, and see what is unread, also after a reload", async () => {
    const [ada, bo] = [await (await open()).signIn("Ann"), await (await open()).signIn("Ben")];
    const room = newRoom();
    await ada.join(room);
    await bo.join(room);
    await ada.page.getByRole("button", { name: "Ben" }).click();
    await ada.say("just you");
    await ada.say("and me");

    await bo.page.getByRole("button", { name: "Ann 2 unread" }).click();
    await bo.shows(["just you", "and me"]);
    await bo.page.getByRole("button", { name: "Ann", exact: true }).waitFor();
    await bo.page.getByRole("button", { name: `# ${room}`.slice(2), exact: true }).click();
    await ada.say("later");
    await bo.page.getByRole("button", { name: "Ann 1 unread" }).waitFor();
    await expect.poll(() => bo.page.title()).toBe("(1) Roomful");
    await bo.page.reload();
    await bo.page.getByRole("button", { name: "Ann 1 unread" }).click();
    await bo.shows(["just you", "and me", "later"]);
  });
});

describe("the history", () => {
  it("comes when one scrolls up, and what one reads stays where it is", async () => {
    const room = newRoom();
    const texts = numbered("line", 120);
    const ada = new Roomful(server.url, { token: await server.token("Ada") });
    onTestFinished(() => ada.disconnect());
    ada.connect();
    await ada.joinRoom(room);
    await Promise.all(texts.map((text) => ada.send(room, text)));

    const bo = await (await open()).signIn("Bo");
    await bo.join(room);
    await bo.shows(texts.slice(-50));
    const list = bo.page.getByRole("log");
    const placeOf = async (text: string): Promise<number> =>
      (await bo.page.getByText(text, { exact: true }).boundingBox())?.y ?? NaN;
    const left = (): Promise<number> =>
      list.evaluate((e) => e.scrollHeight - e.scrollTop - e.clientHeight);
    await expect.poll(left).toBeLessThan(2);
    // To a place where the next page is asked for, and where there is something to watch.
    await list.evaluate((element) => (element.scrollTop = 200));
    const before = await placeOf("line 77");
    await bo.page.waitForFunction(() => document.querySelectorAll(".text").length >= 100);
    const moved = async (): Promise<number> => Math.abs((await placeOf("line 77")) - before);
    await expect.poll(moved).toBeLessThan(3);

    await list.evaluate((element) => (element.scrollTop = 0));
    await bo.shows(texts);
    await ada.send(room, "newest");
    await bo.page.getByRole("button", { name: "1 new" }).click();
    await bo.page.locator(".text", { hasText: "newest" }).waitFor();
  });
});

describe("by keyboard alone", () => {
  it("one signs in, joins, writes, switches rooms and leaves", async () => {
    const chat = await (await open()).signIn("Kay");
    const { keyboard } = chat.page;
    const focused = (): Promise<string | null> =>
      chat.page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? null);
    const isComposing = (): Promise<boolean> =>
      chat.page.evaluate(() => document.activeElement?.id === "composer");
    const room = newRoom();
    await expect.poll(isComposing).toBe(true);

    await keyboard.type("first line");
    await keyboard.press("Shift+Enter");
    await keyboard.type("second line");
    await keyboard.press("Enter");
    await chat.page.getByText("first line\nsecond line").waitFor();
    await chat.page.getByLabel("Room to join").focus();
    await keyboard.type(room);
    await keyboard.press("Enter");
    await chat.page.getByRole("heading", { level: 1, name: room }).waitFor();
    await chat.page.waitForFunction(() => document.activeElement?.id === "composer");
    await keyboard.press("Alt+ArrowUp");
    await chat.page.getByRole("heading", { level: 1, name: "lobby" }).waitFor();
    await keyboard.press("Alt+ArrowDown");
    await chat.page.getByRole("heading", { level: 1, name: room }).waitFor();
    const leave = chat.page.getByRole("button", { name: `Leave ${room}` });
    await chat.page.getByRole("button", { name: room, exact: true }).focus();
    await keyboard.press("Tab");
    await expect.poll(focused).toBe(`Leave ${room}`);
    await keyboard.press("Enter");
    await leave.waitFor({ state: "detached" });
  });

  it("panels on a phone take the focus, Esc closes them and gives it back", async () => {
    const chat = await (await open(server.url, PHONE)).signIn("Pia");
    const opener = chat.page.getByRole("button", { name: "Rooms" });
    await opener.focus();
    await chat.page.keyboard.press("Enter");
    await chat.page.waitForFunction(() => document.activeElement?.id === "join");
    await chat.page.keyboard.press("Escape");
    await chat.page.getByLabel("Room to join").waitFor({ state: "hidden" });

    const isBack = (): Promise<boolean> =>
      opener.evaluate((element) => element === document.activeElement);
    await expect.poll(isBack).toBe(true);
    const width = await chat.page.evaluate(() => document.documentElement.scrollWidth);
    expect(width).toBe(PHONE.viewport.width);
  });
});

describe("accessibility", () => {
  it.each([
    ["light", { colorScheme: "light" }],
    ["dark", { colorScheme: "dark" }],
    ["a tablet", { viewport: { width: 820, height: 1000 } }],
    ["a phone", PHONE],
  ] as const)("axe finds nothing: %s", async (_name, options) => {
    const axe = await readFile(
      createRequire(import.meta.url).resolve("axe-core/axe.min.js"),
      "utf8",
    );
    const chat = await open(server.url, options);
    const check = async (): Promise<unknown[]> => {
      // Through the debugger's door: the page's policy lets no foreign script in.
      await chat.page.evaluate(axe);
      return chat.page.evaluate(async () => {
        const { axe: tool } = window as unknown as {
          axe: { run(): Promise<{ violations: { id: string; nodes: { html: string }[] }[] }> };
        };
        const { violations } = await tool.run();
        return violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]);
      });
    };
    await chat.page.getByLabel("Your name").waitFor();
    expect(await check()).toEqual([]);
    await chat.signIn("Axel");
    await chat.say("hello https://example.org");
    await chat.page.context().setOffline(true);
    await chat.page.getByText(/^Offline\./).waitFor();
    await chat.say("written offline");
    expect(await check()).toEqual([]);
    await chat.page.context().setOffline(false);
  });
});

describe("a server that gives tokens to nobody", () => {
  const SECRET = "a-secret-of-this-test-that-is-long-enough";

  /** Sign a token (HS256) for *user*. */
  function sign(user: string, rooms: object): string {
    const encode = (value: object): string =>
      Buffer.from(JSON.stringify(value)).toString("base64url");
    const now = Math.floor(Date.now() / 1000);
    const claims = { sub: user, iat: now, exp: now + 3600, rooms };
    const body = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
    return `${body}.${createHmac("sha256", SECRET).update(body).digest("base64url")}`;
  }

  it("says so, takes a token, and shows why a message was refused", async () => {
    const strict = await RoomfulServer.start({ AUTH_SECRET: SECRET }, { dev: false });
    try {
      const chat = await open(strict.url);
      await chat.page.getByLabel("Your name").fill("Eve");
      await chat.page.keyboard.press("Enter");
      await chat.page.getByText("Signing in with a name is off").waitFor();
      chat.faults.length = 0; // the browser reports the 404 itself
      await chat.page.getByLabel("Token").fill("nonsense");
      await chat.page.getByRole("button", { name: "Sign in" }).click();
      await chat.page.getByText("This is not a token").waitFor();
      await chat.page.getByLabel("Token").fill(sign("Eve", { lobby: ["join"] }));
      await chat.page.getByRole("button", { name: "Sign in" }).click();
      await chat.connected();

      await chat.say("may I?");
      await chat.page.getByText(/^Not sent:/).waitFor();
      await chat.hasTicks("Not sent", 1);
      await chat.page.getByRole("button", { name: "Try again" }).click();
      await chat.hasTicks("Not sent", 1);
      await chat.page.getByRole("button", { name: "Discard" }).click();
      await chat.shows([]);
      await chat.join("secret");
      await chat.page.getByText(/^This room cannot be joined:/).waitFor();
    } finally {
      await strict.stop();
    }
  });
});
