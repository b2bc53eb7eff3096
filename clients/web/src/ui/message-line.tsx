import type { ReactNode } from "react";

import type { Delivery, Line } from "../chat/conversation.ts";
import { Avatar, hueStyle } from "./avatar.tsx";
import { AlertIcon, CheckIcon, ClockIcon } from "./icons.tsx";

interface Props {
  readonly line: Line;
  readonly isMine: boolean;
  /** Whether it follows a line of the same user closely: then it needs no head of its own. */
  readonly goesOn: boolean;
  readonly delivery: Delivery;
  readonly onRetry: () => void;
  readonly onDiscard: () => void;
}

/** One message: who, when, what, and for one's own how far it has got. */
export function MessageLine({ line, isMine, goesOn, delivery, onRetry, onDiscard }: Props) {
  const { userId, text, timestamp } = line;
  return (
    <li className={`line ${isMine ? "mine" : ""} ${goesOn ? "goes-on" : ""}`} data-id={line.id}>
      {!isMine && (goesOn ? <span className="avatar-space" /> : <Avatar name={userId} />)}
      <div className="body">
        <p className={goesOn || isMine ? "visually-hidden" : "author"} style={hueStyle(userId)}>
          {isMine ? "You" : userId}
        </p>
        <div className="bubble">
          <p className="text">{linkify(text)}</p>
          <span className="meta">
            <time dateTime={new Date(timestamp).toISOString()}>{timeOf(timestamp)}</time>
            {isMine && <Tick delivery={delivery} />}
          </span>
        </div>
        {delivery.kind === "failed" && (
          <div className="failure" role="alert">
            <span>Not sent: {delivery.reason}</span>
            <button type="button" onClick={onRetry}>
              Try again
            </button>
            <button type="button" onClick={onDiscard}>
              Discard
            </button>
          </div>
        )}
      </div>
    </li>
  );
}

function Tick({ delivery }: { readonly delivery: Delivery }) {
  const [icon, word] = {
    pending: [<ClockIcon key="" />, "Sending"] as const,
    delivered: [<CheckIcon key="" />, "Delivered"] as const,
    failed: [<AlertIcon key="" />, "Not sent"] as const,
  }[delivery.kind];
  return (
    <span className={`tick ${delivery.kind}`} title={word}>
      {icon}
      <span className="visually-hidden">{word}</span>
    </span>
  );
}

const ADDRESS = /(https?:\/\/[^\s<>"]+[^\s<>".,;:!?)\]}'])/;

/** Make links of the web addresses in *text*. */
function linkify(text: string): ReactNode[] {
  return text.split(ADDRESS).map((part, index) =>
    index % 2 === 0 ? (
      part
    ) : (
      <a key={index} href={part} target="_blank" rel="noopener noreferrer">
        {part}
      </a>
    ),
  );
}

function timeOf(timestamp: number): string {
  return new Date(timestamp).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

/** The day of *line* in words. */
export function dayOf({ timestamp }: Line): string {
  const day = new Date(timestamp).toDateString();
  const today = new Date();
  if (day === today.toDateString()) return "Today";
  today.setDate(today.getDate() - 1);
  if (day === today.toDateString()) return "Yesterday";
  return new Date(timestamp).toLocaleDateString([], {
    weekday: "long",
    day: "numeric",
    month: "long",
  });
}
