import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";

import type { Chat, ChatState } from "../chat/chat.ts";
import { ConnectionBanner } from "./connection.tsx";
import { ConversationView } from "./conversation-view.tsx";
import { MembersPanel } from "./members-panel.tsx";
import { Sidebar } from "./sidebar.tsx";

/** A panel that covers the conversation on a small screen. */
export type Panel = "rooms" | "members";

interface Props {
  readonly chat: Chat;
  readonly onSignOut: () => void;
}

export function ChatPage({ chat, onSignOut }: Props) {
  const state = useSyncExternalStore(chat.subscribe, chat.snapshot);
  const { panel, openPanel, closePanel } = usePanel();
  usePageEffects(chat, state);
  useSwitching(chat);

  const active = state.conversations.find(({ key }) => key === state.active);
  const select = (key: string): void => {
    chat.select(key);
    closePanel();
    focusComposer();
  };
  const talkTo = (user: string): void => select(chat.talkTo(user));

  return (
    <div className="chat" data-panel={panel}>
      <Sidebar
        chat={chat}
        state={state}
        onSelect={select}
        onClose={closePanel}
        onSignOut={onSignOut}
      />
      <main>
        <ConnectionBanner chat={chat} state={state} onSignOut={onSignOut} />
        {active === undefined ? (
          <NoConversation onOpen={() => openPanel("rooms")} />
        ) : (
          <ConversationView
            key={active.key}
            chat={chat}
            me={state.me}
            isOnline={state.connection.status === "connected"}
            conversation={active}
            onOpen={openPanel}
          />
        )}
      </main>
      <MembersPanel conversation={active} me={state.me} onTalkTo={talkTo} onClose={closePanel} />
      {panel !== undefined && <div className="backdrop" onClick={closePanel} />}
      <div className="visually-hidden" aria-live="polite" aria-atomic="true">
        {state.announcement}
      </div>
    </div>
  );
}

function NoConversation({ onOpen }: { readonly onOpen: () => void }) {
  return (
    <div className="nothing">
      <h1>No room yet</h1>
      <p>Join one by its name; it begins with the first who joins.</p>
      <button type="button" className="only-small" onClick={onOpen}>
        Rooms
      </button>
    </div>
  );
}

/** The open panel; Esc closes it, and the focus goes back to where it came from. */
function usePanel() {
  const [panel, setPanel] = useState<Panel>();
  const opener = useRef<Element | null>(null);

  const openPanel = useCallback((next: Panel) => {
    opener.current = document.activeElement;
    setPanel(next);
  }, []);
  const closePanel = useCallback(() => {
    setPanel(undefined);
    if (opener.current instanceof HTMLElement) opener.current.focus();
    opener.current = null;
  }, []);

  useEffect(() => {
    if (panel === undefined) return;
    document.querySelector<HTMLElement>(`#${panel}-panel [data-first]`)?.focus();
    const onKey = (event: KeyboardEvent): void => {
      if (event.key === "Escape") closePanel();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [panel, closePanel]);
  return { panel, openPanel, closePanel };
}

/** What the page does outside of itself: title, address, and what the browser tells it. */
function usePageEffects(chat: Chat, { conversations, active }: ChatState): void {
  const unread = conversations.reduce((sum, conversation) => sum + conversation.unread, 0);
  const isWaiting = conversations.some(({ unsent }) =>
    unsent.some(({ delivery }) => delivery.kind === "pending"),
  );

  useEffect(() => {
    document.title = unread > 0 ? `(${unread}) Roomful` : "Roomful";
  }, [unread]);

  useEffect(() => {
    const room = active?.startsWith("room/") === true ? active.slice(5) : undefined;
    const hash = room === undefined ? location.pathname : `#room/${encodeURIComponent(room)}`;
    history.replaceState(null, "", hash);
  }, [active]);

  useEffect(() => {
    const onVisibility = (): void => chat.setSeen(document.visibilityState === "visible");
    onVisibility();
    document.addEventListener("visibilitychange", onVisibility);
    return () => document.removeEventListener("visibilitychange", onVisibility);
  }, [chat]);

  useEffect(() => {
    if (!isWaiting) return;
    const warn = (event: BeforeUnloadEvent): void => event.preventDefault();
    addEventListener("beforeunload", warn);
    return () => removeEventListener("beforeunload", warn);
  }, [isWaiting]);
}

/** Alt with an arrow goes to the conversation above or below. */
function useSwitching(chat: Chat): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (step === undefined || !event.altKey) return;
      event.preventDefault();
      const { conversations, active } = chat.snapshot();
      const index = conversations.findIndex(({ key }) => key === active);
      const next = conversations[(index + step + conversations.length) % conversations.length];
      if (next === undefined) return;
      chat.select(next.key);
      focusComposer();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [chat]);
}

/** On a device with a keyboard one goes on writing; on a phone the keyboard would cover the room. */
function focusComposer(): void {
  if (!matchMedia("(pointer: fine)").matches) return;
  requestAnimationFrame(() => document.getElementById("composer")?.focus());
}
