import type { Conversation } from "../chat/conversation.ts";
import { Avatar } from "./avatar.tsx";
import { CloseIcon } from "./icons.tsx";

interface Props {
  readonly conversation: Conversation | undefined;
  readonly me: string;
  readonly onTalkTo: (user: string) => void;
  readonly onClose: () => void;
}

/** Who is in the room; a click begins a direct conversation. */
export function MembersPanel({ conversation, me, onTalkTo, onClose }: Props) {
  if (conversation?.kind !== "room") return null;
  const { members, count } = conversation;
  return (
    <aside id="members-panel" className="panel members" aria-label="Who is here">
      <header>
        <h2>
          Here now <span className="count">{count}</span>
        </h2>
        <button
          type="button"
          className="quiet only-medium"
          aria-label="Close"
          data-first
          onClick={onClose}
        >
          <CloseIcon />
        </button>
      </header>
      {members.length === 0 && count > 0 && (
        <p className="hint">Too many to name: only their number is told.</p>
      )}
      <ul>
        {members.map(({ userId, status }) => (
          <li key={userId}>
            {userId === me ? (
              <span className="item">
                <Avatar name={userId} status={status} />
                <span className="name">{userId} (you)</span>
                <Status status={status} />
              </span>
            ) : (
              <button
                type="button"
                className="item"
                title={`Write to ${userId}`}
                onClick={() => onTalkTo(userId)}
              >
                <Avatar name={userId} status={status} />
                <span className="name">{userId}</span>
                <Status status={status} />
              </button>
            )}
          </li>
        ))}
      </ul>
    </aside>
  );
}

function Status({ status }: { readonly status: string }) {
  return <span className={status === "online" ? "visually-hidden" : "status"}>{status}</span>;
}
