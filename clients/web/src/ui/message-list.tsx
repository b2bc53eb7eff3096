import { Fragment, useEffect, useLayoutEffect, useRef, useState } from "react";

import type { Chat } from "../chat/chat.ts";
import type { Conversation, Delivery, StoredLine, UnsentLine } from "../chat/conversation.ts";
import { DownIcon } from "./icons.tsx";
import { dayOf, MessageLine } from "./message-line.tsx";

/** Older messages are fetched when the top is nearer than this, in px. */
const NEAR_TOP = 300;
/** Nearer to the end than this one is at the end, in px. */
const NEAR_END = 60;
/** Messages of one user closer together than this share a head, in ms. */
const GROUP_MS = 5 * 60_000;

const DELIVERED: Delivery = { kind: "delivered" };

interface Props {
  readonly chat: Chat;
  readonly me: string;
  readonly conversation: Conversation;
}

/** The messages; it stays at the end while one is there, and keeps its place when older ones come. */
export function MessageList({ chat, me, conversation }: Props) {
  const { key, name, kind, stored, unsent, gaps, older } = conversation;
  const { box, newer, onScroll, toEnd } = useScrolling(
    conversation,
    () => void chat.loadOlder(key),
  );
  const lines: (StoredLine | UnsentLine)[] = [...stored, ...unsent];

  return (
    <div className="messages-frame">
      <div
        ref={box}
        className="messages"
        role="log"
        aria-live="off"
        aria-label={kind === "room" ? `Messages in ${name}` : `Messages with ${name}`}
        tabIndex={0}
        onScroll={onScroll}
      >
        <p className="edge">{describeEdge(older, lines.length)}</p>
        <ol>
          {lines.map((line, index) => {
            const previous = lines[index - 1];
            const isNewDay = previous === undefined || dayOf(previous) !== dayOf(line);
            const isGap = "offset" in line && gaps.includes(line.offset);
            const goesOn =
              !isNewDay &&
              !isGap &&
              previous.userId === line.userId &&
              line.timestamp - previous.timestamp < GROUP_MS;
            return (
              <Fragment key={`${line.userId}/${line.id}`}>
                {isNewDay && <li className="divider">{dayOf(line)}</li>}
                {isGap && <li className="divider gap">Messages may be missing here</li>}
                <MessageLine
                  line={line}
                  isMine={line.userId === me}
                  goesOn={goesOn}
                  delivery={"delivery" in line ? line.delivery : DELIVERED}
                  onRetry={() => chat.send(key, line.text, line.id)}
                  onDiscard={() => chat.discard(key, line.id)}
                />
              </Fragment>
            );
          })}
        </ol>
      </div>
      {newer > 0 && (
        <button type="button" className="to-end" onClick={toEnd}>
          <DownIcon /> {newer} new
        </button>
      )}
    </div>
  );
}

function describeEdge(older: Conversation["older"], count: number): string {
  if (older === "loading" || older === "unknown") return "Loading…";
  if (older === "some") return "";
  return count === 0 ? "No messages yet: write the first." : "This is where it began.";
}

function useScrolling({ stored, unsent, older }: Conversation, onTop: () => void) {
  const box = useRef<HTMLDivElement>(null);
  const place = useRef({ isAtEnd: true, height: 0, first: 0, count: 0 });
  const [newer, setNewer] = useState(0);
  const first = stored[0]?.offset ?? 0;
  const count = stored.length + unsent.length;
  const isMineLast = unsent.length > 0;

  useLayoutEffect(() => {
    const element = box.current;
    if (element === null) return;
    const before = place.current;
    const isOlder = before.first > 0 && first < before.first;
    const grown = count - before.count;
    if (isOlder) element.scrollTop += element.scrollHeight - before.height;
    else if (before.isAtEnd || (isMineLast && grown > 0)) element.scrollTop = element.scrollHeight;
    else if (grown > 0) setNewer((so) => so + grown);
    place.current = { ...before, height: element.scrollHeight, first, count };
  }, [first, count, isMineLast, unsent]);

  // Without enough to scroll nobody could ask for more.
  useEffect(() => {
    const element = box.current;
    const isFilled = element !== null && element.scrollHeight > element.clientHeight;
    if (!isFilled && older === "some") onTop();
  });

  // A keyboard that opens, or a field that grows, must not hide the end.
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const observer = new ResizeObserver(() => {
      if (place.current.isAtEnd) element.scrollTop = element.scrollHeight;
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const onScroll = (): void => {
    const element = box.current;
    if (element === null) return;
    const { scrollTop, scrollHeight, clientHeight } = element;
    place.current.isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END;
    if (place.current.isAtEnd) setNewer(0);
    if (scrollTop < NEAR_TOP) onTop();
  };
  const toEnd = (): void => {
    const element = box.current;
    if (element !== null) element.scrollTop = element.scrollHeight;
    document.getElementById("composer")?.focus();
  };
  return { box, newer, onScroll, toEnd };
}
