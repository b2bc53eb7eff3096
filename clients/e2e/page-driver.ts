/** Headless Chromium, and the chat page as a user sees it: by labels and roles. */

import { chromium, type Browser, type BrowserContextOptions, type Page } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const WAIT_MS = 10_000;

export function launch(): Promise<Browser> {
  return chromium.launch({
    executablePath: CHROMIUM,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/** The chat page in a browser context of its own. */
export class ChatPage {
  readonly page: Page;
  /** What went wrong in the page, without what a lost network makes the browser say. */
  readonly faults: string[] = [];
  /** Requests to elsewhere than the page's own host. */
  readonly foreign: string[] = [];

  private constructor(page: Page, origin: string) {
    this.page = page;
    page.on("pageerror", (error) => this.faults.push(String(error)));
    page.on("console", (message) => {
      const text = message.text();
      if (message.type() === "error" && !text.includes("net::ERR_")) this.faults.push(text);
    });
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (url.host !== new URL(origin).host) this.foreign.push(request.url());
    });
  }

  static async open(
    browser: Browser,
    url: string,
    options: BrowserContextOptions = {},
  ): Promise<ChatPage> {
    const context = await browser.newContext({
      viewport: { width: 1100, height: 720 },
      ...options,
    });
    context.setDefaultTimeout(WAIT_MS);
    const chat = new ChatPage(await context.newPage(), url);
    await chat.page.goto(url);
    return chat;
  }

  async close(): Promise<void> {
    await this.page.context().close();
  }

  /** Sign in with a name, by keyboard, and wait until the room is there. */
  async signIn(name: string): Promise<this> {
    await this.page.getByLabel("Your name").waitFor();
    await this.page.keyboard.type(name); // the field has the focus
    await this.page.keyboard.press("Enter");
    await this.connected();
    return this;
  }

  async connected(): Promise<void> {
    await this.page.locator(".state", { hasText: "Connected" }).waitFor();
  }

  async join(room: string): Promise<void> {
    await this.page.getByLabel("Room to join").fill(room);
    await this.page.keyboard.press("Enter");
    await this.page.getByRole("heading", { level: 1, name: room }).waitFor();
  }

  async say(text: string): Promise<void> {
    const field = this.page.getByRole("textbox", { name: /^Message to/ });
    await field.fill(text);
    await field.press("Enter");
  }

  /** The texts of the messages that are shown, in their order. */
  texts(): Promise<string[]> {
    return this.page.locator(".messages .text").allInnerTexts();
  }

  /** Wait until exactly *texts* are shown, in this order. */
  async shows(texts: readonly string[]): Promise<void> {
    await this.page.waitForFunction((wanted) => {
      const shown = [...document.querySelectorAll(".messages .text")];
      return JSON.stringify(shown.map((element) => element.textContent)) === wanted;
    }, JSON.stringify(texts));
  }

  /** Wait until *count* of one's own messages have this tick: "Sending", "Delivered", "Not sent". */
  async hasTicks(word: string, count: number): Promise<void> {
    await this.page.waitForFunction(
      ([title, wanted]) => document.querySelectorAll(`.tick[title="${title}"]`).length === wanted,
      [word, count] as const,
    );
  }
}
