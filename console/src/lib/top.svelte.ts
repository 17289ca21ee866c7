import { Refused } from "./api";
import { proxyName, type Flows } from "./flows";
import { apiStream, pauseBefore } from "./stream";

/** How often the zones are asked, and over how many of their answers is added up: 10 s, so that percentiles say something. */
const everyMs = 2_000;
const intervals = 5;
/** Answers of many zones are shown together. */
const gatherMs = 250;

export const windowSeconds = (everyMs * intervals) / 1000;

export type TopState = "counting" | "live" | "lost" | "refused" | "held";

/** What zones count, of the last seconds. It asks while it is followed, and only then. */
export class Top {
  /** The last intervals of each zone that counts. Replaced, never changed. */
  zones = $state.raw<ReadonlyMap<string, readonly Flows[]>>(new Map());
  /** Who does not tell, and why, by zone. */
  problems = $state.raw<readonly string[]>([]);
  proxies = $derived([...this.zones.values()].reduce((sum, list) => sum + (list.at(-1)?.proxies ?? 0), 0));
  state = $state<TopState>("counting");
  error = $state("");

  #zones = new Map<string, readonly Flows[]>();
  #problems = new Map<string, string[]>();
  #byProxy = false;
  #timer = 0;

  /** Follows until the returned function is called; what was shown stays. */
  follow(byProxy: boolean): () => void {
    const stop = new AbortController();
    this.#zones = new Map();
    this.#problems = new Map();
    // What was shown stays until there is something newer, if it is of the same kind.
    if (byProxy !== this.#byProxy) this.zones = new Map();
    this.#byProxy = byProxy;
    this.problems = [];
    this.state = "counting";
    void this.#run(stop, byProxy);
    return () => {
      stop.abort();
      clearTimeout(this.#timer);
      this.#timer = 0;
      this.state = "held";
    };
  }

  async #run(stop: AbortController, byProxy: boolean): Promise<void> {
    for (let failures = 0; !stop.signal.aborted; ) {
      try {
        await apiStream(`/top?ms=${everyMs}${byProxy ? "&byProxy=true" : ""}`, stop.signal, {
          event: ({ name, data }) => {
            failures = 0;
            if (name === "flows") this.#take(JSON.parse(data) as Flows);
          },
        });
        // The control plane ends what lasts too long; whoever still looks asks again.
      } catch (err) {
        if (stop.signal.aborted) return;
        this.error = err instanceof Error ? err.message : String(err);
        this.state = err instanceof Refused && err.status < 500 && err.status !== 429 ? "refused" : "lost";
        if (this.state === "refused") return;
      }
      await pauseBefore(failures++, stop.signal);
    }
  }

  #take(f: Flows): void {
    const zone = f.zone ?? "";
    this.#problems.set(
      zone,
      (f.problems ?? []).map((p) => `${zone}: ${p.proxy ? `${proxyName(p.proxy)}: ` : ""}${p.reason}`),
    );
    if (f.ms > 0) this.#zones.set(zone, [...(this.#zones.get(zone) ?? []).slice(1 - intervals), f]);
    else if (f.problems?.some((p) => !p.proxy)) this.#zones.delete(zone); // it does not count
    this.#timer ||= window.setTimeout(() => this.#show(), gatherMs);
  }

  #show(): void {
    this.#timer = 0;
    if (this.#zones.size > 0 || this.state === "live") this.zones = new Map(this.#zones);
    this.problems = [...this.#problems.values()].flat().sort();
    if (this.zones.size > 0) this.state = "live";
    this.error = "";
  }
}
