/** Listeners of one kind of event. */

/** Stops the listening that the call which returned it began; may be called twice. */
export type Unsubscribe = () => void;

/** A set of listeners, called in the order they were added. */
export class Listeners<T> {
  readonly #listeners = new Set<{ readonly call: (value: T) => void }>();

  /** Call *listener* with each value from now on; the same function may be added twice. */
  add(listener: (value: T) => void): Unsubscribe {
    const entry = { call: listener };
    this.#listeners.add(entry);
    return () => {
      this.#listeners.delete(entry);
    };
  }

  /**
   * Give *value* to every listener.
   *
   * A listener that throws does not stop the others, nor the stream of events: its error is
   * thrown again on its own, where the host reports it as uncaught.
   */
  emit(value: T): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener.call(value);
      } catch (fault) {
        queueMicrotask(() => {
          throw fault;
        });
      }
    }
  }

  get size(): number {
    return this.#listeners.size;
  }
}
