import { useEffect, useState } from "react";

import { rememberedName, signInByName, signOut, start, type Session } from "../session.ts";
import { ChatPage } from "./chat-page.tsx";
import { SignIn } from "./sign-in.tsx";

/** The whole page: the sign-in, or the chat of who is signed in. */
export function App() {
  const [session, setSession] = useState<Session>();
  const [isRestoring, setRestoring] = useState(() => rememberedName() !== undefined);

  useEffect(() => {
    const name = rememberedName();
    if (name === undefined) return;
    signInByName(name)
      .then(setSession)
      .catch(() => undefined) // then one signs in by hand
      .finally(() => setRestoring(false));
  }, []);

  useEffect(() => {
    if (session === undefined) return;
    start(session);
    return () => session.chat.stop();
  }, [session]);

  if (isRestoring) return <p className="restoring">Signing in…</p>;
  if (session === undefined) return <SignIn onSignIn={setSession} />;
  const leave = (): void => {
    signOut(session);
    setSession(undefined);
  };
  return <ChatPage key={session.me} chat={session.chat} onSignOut={leave} />;
}
