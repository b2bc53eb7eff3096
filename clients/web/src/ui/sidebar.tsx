import { useState, type SyntheticEvent } from "react";

import type { Chat, ChatState, Status } from "../chat/chat.ts";
import { keyOf, type Conversation } from "../chat/conversation.ts";
import { Avatar } from "./avatar.tsx";
import { CloseIcon, LeaveIcon, Logo, PlusIcon } from "./icons.tsx";
import { ThemeButton } from "./theme.tsx";

interface Props {
  readonly chat: Chat;
  readonly state: ChatState;
  readonly onSelect: (key: string) => void;
  readonly onClose: () => void;
  readonly onSignOut: () => void;
}

/** The conversations, joining another, and who one is. */
export function Sidebar({ chat, state, onSelect, onClose, onSignOut }: Props) {
  const { conversations, active } = state;
  const list = (kind: Conversation["kind"]) => (
    <ul>
      {conversations
        .filter((conversation) => conversation.kind === kind)
        .map((conversation) => (
          <Item
            key={conversation.key}
            conversation={conversation}
            isActive={conversation.key === active}
            onSelect={() => onSelect(conversation.key)}
            onLeave={() => chat.leave(conversation.key)}
          />
        ))}
    </ul>
  );
  const hasDirect = conversations.some(({ kind }) => kind === "user");
  const join = (room: string): void => {
    chat.join(room);
    onSelect(keyOf("room", room));
  };

  return (
    <nav id="rooms-panel" className="panel sidebar" aria-label="Conversations">
      <header>
        <Logo />
        <span className="brand">Roomful</span>
        <ThemeButton />
        <button type="button" className="quiet only-small" aria-label="Close" onClick={onClose}>
          <CloseIcon />
        </button>
      </header>
      <JoinForm onJoin={join} />
      <div className="lists">
        <h2>Rooms</h2>
        {list("room")}
        {hasDirect && <h2>Direct messages</h2>}
        {hasDirect && list("user")}
      </div>
      <Me state={state} onStatus={(status) => chat.setStatus(status)} onSignOut={onSignOut} />
    </nav>
  );
}

function JoinForm({ onJoin }: { readonly onJoin: (room: string) => void }) {
  const [name, setName] = useState("");
  const submit = (event: SyntheticEvent): void => {
    event.preventDefault();
    const room = name.trim();
    if (room === "") return;
    setName("");
    onJoin(room);
  };
  return (
    <form className="join" onSubmit={submit}>
      <label className="visually-hidden" htmlFor="join">
        Room to join
      </label>
      <input
        id="join"
        data-first
        value={name}
        onInput={(event) => setName(event.currentTarget.value)}
        placeholder="Join a room"
        maxLength={255}
        autoComplete="off"
        autoCapitalize="off"
      />
      <button type="submit" className="quiet" aria-label="Join the room">
        <PlusIcon />
      </button>
    </form>
  );
}

interface ItemProps {
  readonly conversation: Conversation;
  readonly isActive: boolean;
  readonly onSelect: () => void;
  readonly onLeave: () => void;
}

function Item({ conversation, isActive, onSelect, onLeave }: ItemProps) {
  const { kind, name, unread } = conversation;
  const leave = kind === "room" ? `Leave ${name}` : `Close the conversation with ${name}`;
  return (
    <li className={isActive ? "active" : undefined}>
      <button
        type="button"
        className="item"
        aria-current={isActive ? "page" : undefined}
        onClick={onSelect}
      >
        {kind === "room" ? (
          <span className="hash" aria-hidden="true">
            #
          </span>
        ) : (
          <Avatar name={name} />
        )}
        <span className="name">{name}</span>
        {unread > 0 && (
          <span className="badge">
            {unread > 99 ? "99+" : unread}
            <span className="visually-hidden"> unread</span>
          </span>
        )}
      </button>
      <button
        type="button"
        className="quiet leave"
        aria-label={leave}
        title={leave}
        onClick={onLeave}
      >
        <CloseIcon />
      </button>
    </li>
  );
}

interface MeProps {
  readonly state: ChatState;
  readonly onStatus: (status: Status) => void;
  readonly onSignOut: () => void;
}

function Me({ state: { me, status, connection }, onStatus, onSignOut }: MeProps) {
  return (
    <footer>
      <Avatar name={me} status={connection.status === "connected" ? status : "offline"} />
      <div className="who">
        <span className="name">{me}</span>
        <label className="visually-hidden" htmlFor="status">
          Your status
        </label>
        <select
          id="status"
          value={status}
          onChange={(event) => onStatus(event.currentTarget.value === "away" ? "away" : "online")}
        >
          <option value="online">Online</option>
          <option value="away">Away</option>
        </select>
      </div>
      <button
        type="button"
        className="quiet"
        aria-label="Sign out"
        title="Sign out"
        onClick={onSignOut}
      >
        <LeaveIcon />
      </button>
    </footer>
  );
}
