import { apiURL, refusal } from "./api";
import { EventParser, type ServerEvent } from "./events";

/** Streams say that they live every 20 s at most; this long without a word, one does not. */
const silence = 40_000;
const firstPause = 500;
const lastPause = 10_000;

export interface Listener {
  /** The stream has begun. */
  opened?(res: Response): void;
  /** Something came, be it that the other end lives. */
  alive?(): void;
  event(event: ServerEvent): void;
}

/**
 * Reads a stream of the API until it ends or stop is aborted. It rejects with Refused if it is refused, and with the reason if it fails,
 * is silent for too long, or is stopped. Whichever way it ends, the connection does, so the control plane knows.
 */
export async function apiStream(path: string, stop: AbortSignal, to: Listener, headers: Record<string, string> = {}): Promise<void> {
  const end = new AbortController();
  let dog = 0;
  const alive = (): void => {
    clearTimeout(dog);
    dog = window.setTimeout(() => end.abort(new Error(`nothing was heard for ${silence / 1000} s`)), silence);
    to.alive?.();
  };
  try {
    const res = await fetch(apiURL(path), { headers: { Accept: "text/event-stream", ...headers }, signal: AbortSignal.any([stop, end.signal]), cache: "no-store" });
    if (!res.ok || res.body === null) throw await refusal(res);
    alive();
    to.opened?.(res);
    const parser = new EventParser();
    const reader = res.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      for (const event of parser.take(value)) {
        if (event.name !== "error") {
          to.event(event);
          continue;
        }
        const problem = JSON.parse(event.data) as { detail?: string; title?: string };
        throw new Error(problem.detail ?? problem.title ?? "the stream failed");
      }
    }
  } finally {
    clearTimeout(dog);
    end.abort();
  }
}

/** How long to wait before the next try, in ms: half of it by chance, so that all who lost a server do not come back at once. */
export function pauseAfter(failures: number): number {
  return Math.min(lastPause, firstPause * 2 ** failures) * (0.5 + Math.random() / 2);
}

/** Waits before the next try, or until signal is aborted. */
export function pauseBefore(failures: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, pauseAfter(failures));
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}
