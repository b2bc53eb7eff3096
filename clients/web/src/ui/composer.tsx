import { useEffect, useRef, useState, type SyntheticEvent, type KeyboardEvent } from "react";

import { SendIcon } from "./icons.tsx";

/** After this long without a key one has stopped typing, in ms. */
const PAUSE_MS = 5000;

interface Props {
  readonly label: string;
  readonly onSend: (text: string) => void;
  readonly onTyping: (isTyping: boolean) => void;
}

/** The field to write in: Enter sends, Shift+Enter begins a new line. */
export function Composer({ label, onSend, onTyping }: Props) {
  const [text, setText] = useState("");
  const field = useRef<HTMLTextAreaElement>(null);
  const pause = useRef<ReturnType<typeof setTimeout>>(undefined);

  useEffect(() => {
    if (matchMedia("(pointer: fine)").matches) field.current?.focus();
    return () => clearTimeout(pause.current);
  }, []);
  useEffect(() => fit(field.current), [text]);

  const write = (next: string): void => {
    setText(next);
    clearTimeout(pause.current);
    if (next.trim() === "") {
      onTyping(false);
      return;
    }
    onTyping(true);
    pause.current = setTimeout(() => onTyping(false), PAUSE_MS);
  };
  const submit = (event: SyntheticEvent): void => {
    event.preventDefault();
    if (text.trim() === "") return;
    clearTimeout(pause.current);
    onSend(text.trim());
    setText("");
    field.current?.focus();
  };
  const onKey = (event: KeyboardEvent): void => {
    // While an input method composes, Enter takes its proposal.
    if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) submit(event);
  };

  return (
    <form className="composer" onSubmit={submit}>
      <label className="visually-hidden" htmlFor="composer">
        {label}
      </label>
      <textarea
        id="composer"
        ref={field}
        rows={1}
        value={text}
        placeholder={label}
        enterKeyHint="send"
        onInput={(event) => write(event.currentTarget.value)}
        onKeyDown={onKey}
      />
      <button
        type="submit"
        className="primary send"
        aria-label="Send"
        disabled={text.trim() === ""}
      >
        <SendIcon />
      </button>
    </form>
  );
}

/** Make *field* as high as its text. */
function fit(field: HTMLTextAreaElement | null): void {
  if (field === null) return;
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}
