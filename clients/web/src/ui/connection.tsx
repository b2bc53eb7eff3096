import { useEffect, useState } from "react";

import type { ConnectionState } from "@roomful/client";

import type { Chat, ChatState } from "../chat/chat.ts";

interface Props {
  readonly chat: Chat;
  readonly state: ChatState;
  readonly onSignOut: () => void;
}

/** Says in one line how the connection stands, as long as it is not simply there. */
export function ConnectionBanner({ chat, state, onSignOut }: Props) {
  const { connection, conversations } = state;
  const waiting = conversations
    .flatMap(({ unsent }) => unsent)
    .filter(({ delivery }) => delivery.kind === "pending").length;
  const seconds = useSecondsUntil(connection.status === "waiting" ? connection.retryAt : undefined);
  const isShown = connection.status !== "connected" && connection.status !== "idle";
  return (
    <div className={`banner ${isShown ? connection.status : "none"}`}>
      {/* Not the seconds: nobody wants them read out. */}
      <p role="status">{describe(connection, waiting)}</p>
      {connection.status === "waiting" && (
        <>
          <span className="countdown">
            {seconds > 0 ? `Next try in ${seconds} s` : "Trying now"}
          </span>
          <button type="button" onClick={() => chat.retryNow()}>
            Try now
          </button>
        </>
      )}
      {connection.status === "failed" && (
        <button type="button" onClick={onSignOut}>
          Sign in again
        </button>
      )}
    </div>
  );
}

function describe(connection: ConnectionState, waiting: number): string {
  const queue = waiting === 0 ? "" : ` ${countOf(waiting)} will be sent when you are back.`;
  switch (connection.status) {
    case "connecting":
      return connection.attempt === 0 ? "Connecting…" : "Reconnecting…";
    case "waiting":
      return `Offline.${queue}`;
    case "failed":
      return `Signed out: ${connection.error.message}.`;
    default:
      return "";
  }
}

function countOf(messages: number): string {
  return messages === 1 ? "1 message" : `${messages} messages`;
}

/** Whole seconds until *time* (ms since the epoch), counting down. */
function useSecondsUntil(time: number | undefined): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    if (time === undefined) return;
    const tick = (): void => setNow(Date.now());
    tick();
    const timer = setInterval(tick, 250);
    return () => clearInterval(timer);
  }, [time]);
  return time === undefined ? 0 : Math.max(0, Math.ceil((time - now) / 1000));
}
