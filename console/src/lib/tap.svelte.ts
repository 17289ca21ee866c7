import { Refused } from "./api";
import { proxyName, type Problem } from "./flows";
import { apiStream } from "./stream";

/** One end of a request, as far as it is known (mesh.TapEnds). */
export interface End {
  namespace?: string;
  name?: string;
  zone?: string;
  identity?: string;
  address?: string;
}

/** A request that has ended or, without a method, a connection that has begun (open) or ended (mesh.TapRequest). */
export interface Request {
  time: string;
  durationMs: number;
  zone: string;
  proxy: string;
  side: string;
  source: End;
  destination: End;
  protocol: string;
  open?: boolean;
  method?: string;
  host?: string;
  path?: string;
  status?: number;
  flags?: string;
  details?: string;
  route?: string;
  policy?: string;
  denied?: boolean;
  attempts?: number;
  bytesIn: number;
  bytesOut: number;
  traceId?: string;
  requestId?: string;
}

interface Watching {
  zone: string;
  proxies?: string[];
  problems?: Problem[];
}

/** So many requests are kept; older ones make room. */
export const kept = 500;
/** What arrives within this is shown together. */
const gatherMs = 100;

export type TapState = "idle" | "asking" | "live" | "ended" | "forbidden" | "failed";

/** Live requests, from `start` until `stop`, the end that the control plane gives it, or `kept` of them and on. */
export class Tap {
  state = $state<TapState>("idle");
  /** Why it ended, failed or was refused. */
  reason = $state("");
  /** The newest first, each with a number of its own. Replaced, never changed. */
  requests = $state.raw<readonly { id: number; r: Request }[]>([]);
  seen = $state(0);
  /** Requests that were not shown, and whether that is an estimate. */
  left = $state(0);
  about = $state(false);
  watched = $state.raw<readonly string[]>([]);
  problems = $state.raw<readonly string[]>([]);
  /** While paused, what arrives is counted and kept aside; no more of it than is shown. */
  paused = $state(false);
  waiting = $state(0);

  #aside: { id: number; r: Request }[] = [];
  #next = 0;
  #watching = new Map<string, Watching>();
  #stop: AbortController | undefined;
  #timer = 0;

  /** Asks for requests by a query of GET /api/v1/tap; what was asked before ends. */
  start(query: URLSearchParams): void {
    this.stop();
    this.clear();
    this.#watching = new Map();
    this.watched = [];
    this.problems = [];
    this.reason = "";
    this.state = "asking";
    const stop = new AbortController();
    this.#stop = stop;
    void this.#run(stop, query);
  }

  stop(): void {
    this.#stop?.abort();
    this.#stop = undefined;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#show();
    if (this.state === "live" || this.state === "asking") this.#end("ended", "you stopped it");
  }

  clear(): void {
    this.requests = [];
    this.#aside = [];
    this.waiting = this.seen = this.left = 0;
    this.about = false;
    this.paused = false;
  }

  pause(): void {
    this.paused = !this.paused;
    if (!this.paused) this.#show();
  }

  async #run(stop: AbortController, query: URLSearchParams): Promise<void> {
    try {
      await apiStream(`/tap?${query}`, stop.signal, {
        opened: () => (this.state = "live"),
        event: ({ name, data }) => this.#take(name, data),
      });
      if (stop === this.#stop && this.state === "live") this.#end("ended", "the control plane ended it");
    } catch (err) {
      if (stop !== this.#stop) return;
      const text = err instanceof Error ? err.message : String(err);
      this.#end(err instanceof Refused && err.status === 403 ? "forbidden" : "failed", text);
    }
  }

  #end(state: TapState, reason: string): void {
    this.state = state;
    this.reason = reason;
  }

  #take(name: string, data: string): void {
    switch (name) {
      case "request":
        this.#aside.push({ id: this.#next++, r: JSON.parse(data) as Request });
        if (this.#aside.length > kept) this.#aside.shift();
        this.seen++;
        break;
      case "left": {
        const l = JSON.parse(data) as { count: number; share?: number };
        this.left += l.count;
        this.about ||= (l.share ?? 0) > 0;
        break;
      }
      case "watching":
        this.#watch(JSON.parse(data) as Watching);
        break;
      case "end":
        this.#show();
        this.#end("ended", (JSON.parse(data) as { reason: string }).reason);
        return;
    }
    this.#timer ||= window.setTimeout(() => {
      this.#timer = 0;
      if (this.paused) this.waiting = this.#aside.length;
      else this.#show();
    }, gatherMs);
  }

  #watch(w: Watching): void {
    this.#watching.set(w.zone, w);
    const all = [...this.#watching.values()];
    this.watched = all.flatMap((z) => (z.proxies ?? []).map((p) => `${proxyName(p)}@${z.zone}`)).sort();
    this.problems = all.flatMap((z) => (z.problems ?? []).map((p) => `${z.zone}: ${p.proxy ? `not ${proxyName(p.proxy)}: ` : ""}${p.reason}`)).sort();
  }

  #show(): void {
    this.waiting = 0;
    if (this.#aside.length === 0) return;
    this.requests = [...this.#aside.toReversed(), ...this.requests].slice(0, kept);
    this.#aside = [];
  }
}

/** An end of a request as namespace/name@zone, as far as it is known. */
export function endName(e: End): string {
  const name = e.name ? (e.namespace ? `${e.namespace}/${e.name}` : e.name) : (e.identity ?? e.address ?? "?");
  return e.zone ? `${name}@${e.zone}` : name;
}

/** What decided about a request, as far as it is said: words and values, as `comity tap` has them. */
export function why(r: Request): [string, string][] {
  const out: [string, string][] = [];
  const add = (word: string, value: string | undefined): void => {
    if (value) out.push([word, value]);
  };
  add(r.status === 403 || r.denied ? "refused by" : "policy", r.policy);
  if (r.details !== "via_upstream" && !r.details?.includes("matched_policy[")) add("why", r.details);
  add("route", r.route);
  add("flags", r.flags);
  if ((r.attempts ?? 0) > 1) add("attempts", String(r.attempts));
  return out;
}
