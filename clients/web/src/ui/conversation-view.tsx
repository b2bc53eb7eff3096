import type { Chat } from "../chat/chat.ts";
import type { Conversation } from "../chat/conversation.ts";
import type { Panel } from "./chat-page.tsx";
import { Composer } from "./composer.tsx";
import { MenuIcon, PeopleIcon } from "./icons.tsx";
import { MessageList } from "./message-list.tsx";

interface Props {
  readonly chat: Chat;
  readonly me: string;
  readonly isOnline: boolean;
  readonly conversation: Conversation;
  readonly onOpen: (panel: Panel) => void;
}

/** One conversation: its head, its messages, who is typing, and the field to write in. */
export function ConversationView({ chat, me, isOnline, conversation, onOpen }: Props) {
  const { key, kind, name, count, typing, problem } = conversation;
  return (
    <>
      <header className="head">
        <button
          type="button"
          className="quiet only-small"
          aria-label="Rooms"
          onClick={() => onOpen("rooms")}
        >
          <MenuIcon />
        </button>
        <h1>
          {kind === "room" && (
            <span className="hash" aria-hidden="true">
              #
            </span>
          )}
          {name}
        </h1>
        <span className="state">
          <span className={`dot ${isOnline ? "on" : "off"}`} aria-hidden="true" />
          {isOnline ? "Connected" : "Offline"}
        </span>
        {kind === "room" && (
          <button
            type="button"
            className="quiet only-medium with-count"
            aria-label={`Who is here: ${count}`}
            onClick={() => onOpen("members")}
          >
            <PeopleIcon />
            <span aria-hidden="true">{count}</span>
          </button>
        )}
      </header>
      {problem === undefined ? (
        <>
          <MessageList chat={chat} me={me} conversation={conversation} />
          <p className="typing" aria-live="polite">
            {describeTyping(typing)}
          </p>
          <Composer
            label={kind === "room" ? `Message to #${name}` : `Message to ${name}`}
            onSend={(text) => chat.send(key, text)}
            onTyping={(isTyping) => chat.typing(key, isTyping)}
          />
        </>
      ) : (
        <div className="nothing" role="alert">
          <p>This room cannot be joined: {problem}.</p>
          <button type="button" onClick={() => chat.join(name)}>
            Try again
          </button>
        </div>
      )}
    </>
  );
}

function describeTyping(users: readonly string[]): string {
  const [first, second] = users;
  if (first === undefined) return "";
  if (second === undefined) return `${first} is typing…`;
  if (users.length === 2) return `${first} and ${second} are typing…`;
  return `${users.length} people are typing…`;
}
