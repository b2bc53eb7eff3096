import { useState, type SubmitEvent } from "react";

import { DevSignInOff, signInByName, signInByToken, type Session } from "../session.ts";
import { Logo } from "./icons.tsx";

interface Props {
  readonly onSignIn: (session: Session) => void;
}

/** Asks for a name; where the server does not take one, for a token. */
export function SignIn({ onSignIn }: Props) {
  const [needsToken, setNeedsToken] = useState(false);
  return (
    <main className="sign-in">
      <div className="card">
        <h1>
          <Logo /> Roomful
        </h1>
        <p className="lead">Rooms whose messages arrive: each once, in one order.</p>
        {needsToken ? (
          <TokenForm onSignIn={onSignIn} />
        ) : (
          <NameForm onSignIn={onSignIn} onOff={() => setNeedsToken(true)} />
        )}
      </div>
    </main>
  );
}

function NameForm({ onSignIn, onOff }: Props & { readonly onOff: () => void }) {
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);

  const submit = (event: SubmitEvent<HTMLFormElement>): void => {
    event.preventDefault();
    const name = readField(event.currentTarget, "name");
    if (name === "" || isBusy) return;
    setBusy(true);
    setProblem("");
    signInByName(name)
      .then(onSignIn)
      .catch((fault: unknown) => {
        if (fault instanceof DevSignInOff) onOff();
        else
          setProblem(fault instanceof TypeError ? "The server cannot be reached." : String(fault));
      })
      .finally(() => setBusy(false));
  };

  return (
    <form onSubmit={submit}>
      <label htmlFor="name">Your name</label>
      <input id="name" name="name" autoComplete="username" maxLength={64} required autoFocus />
      <button type="submit" className="primary" disabled={isBusy}>
        Sign in
      </button>
      <p className="problem" role="alert">
        {problem}
      </p>
      <p className="hint">Open a second window with another name to talk to yourself.</p>
    </form>
  );
}

function TokenForm({ onSignIn }: Props) {
  const [problem, setProblem] = useState("");

  const submit = (event: SubmitEvent<HTMLFormElement>): void => {
    event.preventDefault();
    try {
      onSignIn(signInByToken(readField(event.currentTarget, "token")));
    } catch (fault) {
      setProblem(fault instanceof Error ? fault.message : String(fault));
    }
  };

  return (
    <form onSubmit={submit}>
      <p className="note" role="status">
        Signing in with a name is off: this server does not run with <code>--dev</code>.
      </p>
      <label htmlFor="token">Token</label>
      <textarea id="token" name="token" rows={4} spellCheck={false} required autoFocus />
      <button type="submit" className="primary">
        Sign in
      </button>
      <p className="problem" role="alert">
        {problem}
      </p>
      <p className="hint">
        Make one with <code>roomful token --user alice</code>.
      </p>
    </form>
  );
}

function readField(form: HTMLFormElement, name: string): string {
  const value = new FormData(form).get(name);
  return typeof value === "string" ? value.trim() : "";
}
