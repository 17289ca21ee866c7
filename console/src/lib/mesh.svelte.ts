import { forgetSession, hadSession, Refused } from "./api";
import type { ServerEvent } from "./events";
import { apiStream, pauseAfter } from "./stream";
import type { About, Attention, Change, Failover, Link, Policy, Traffic, Zone } from "./types";

/** A page that nobody looks at lets go of its stream after this long, and resumes when somebody does. */
const hiddenFor = 30_000;

export type Connection = "connecting" | "live" | "lost" | "paused" | "refused";

const severities = ["critical", "warning", "info"];

/** What the control plane last said of the mesh, and whether it still says so. */
export class Mesh {
  /** Every record by its path (client.OverviewChange). Replaced, never changed. */
  #records = $state.raw<ReadonlyMap<string, unknown>>(new Map());
  connection = $state<Connection>("connecting");
  /** When the control plane was last heard, by this machine's clock; 0 before. */
  heard = $state(0);
  /** When the next try begins, while the connection is lost. */
  retryAt = $state(0);
  /** How far the control plane's clock is ahead of this machine's, in ms. */
  skew = $state(0);
  error = $state("");
  loaded = $derived(this.#records.size > 0);

  about = $derived(this.#records.get("about") as About | undefined);
  zones = $derived(this.#kind<Zone>("zones"));
  links = $derived(this.#kind<Link>("links"));
  traffic = $derived(this.#kind<Traffic>("traffic"));
  failover = $derived(this.#kind<Failover>("failover"));
  policies = $derived(this.#kind<Policy>("policies"));
  attention = $derived(
    this.#kind<Attention>("attention").sort((a, b) => severities.indexOf(a.severity) - severities.indexOf(b.severity) || (a.id < b.id ? -1 : 1)),
  );

  #last = "";
  #failures = 0;
  #stop: AbortController | undefined;
  #timer = 0;

  /** The records of a kind, in the order of their paths. */
  #kind<T>(kind: string): T[] {
    const out: [string, T][] = [];
    for (const [path, value] of this.#records) if (path.startsWith(`${kind}/`)) out.push([path, value as T]);
    return out.sort((a, b) => (a[0] < b[0] ? -1 : 1)).map(([, value]) => value);
  }

  /** Follows the stream until the returned function is called. */
  follow(): () => void {
    const look = (): void => this.#visibility();
    const online = (): void => {
      if (this.connection === "lost") this.retry();
    };
    document.addEventListener("visibilitychange", look);
    window.addEventListener("online", online);
    this.retry();
    return () => {
      document.removeEventListener("visibilitychange", look);
      window.removeEventListener("online", online);
      clearTimeout(this.#timer);
      this.#stop?.abort();
    };
  }

  /** Tries now. */
  retry(): void {
    clearTimeout(this.#timer);
    this.#stop?.abort();
    if (!hadSession()) {
      this.#refused();
      return;
    }
    const stop = new AbortController();
    this.#stop = stop;
    if (this.connection !== "lost") this.connection = "connecting";
    void this.#run(stop);
  }

  /** Nobody is signed in, any more: nothing stays on the page. */
  #refused(): void {
    forgetSession();
    this.connection = "refused";
    this.#records = new Map();
    this.#last = "";
  }

  #visibility(): void {
    if (document.visibilityState === "visible") {
      if (this.connection === "paused") this.retry();
      return;
    }
    const stop = this.#stop;
    setTimeout(() => {
      if (document.visibilityState === "visible" || stop !== this.#stop || this.connection === "refused") return;
      clearTimeout(this.#timer);
      stop?.abort();
      this.connection = "paused";
    }, hiddenFor);
  }

  async #run(stop: AbortController): Promise<void> {
    try {
      await this.#session(stop);
      throw new Error("the control plane ended the stream");
    } catch (err) {
      if (stop !== this.#stop || stop.signal.aborted) return;
      if (err instanceof Refused && (err.status === 401 || err.status === 403)) {
        this.#refused();
        return;
      }
      this.error = err instanceof Error ? err.message : String(err);
      this.connection = "lost";
      const wait = pauseAfter(this.#failures++);
      this.retryAt = Date.now() + wait;
      this.#timer = window.setTimeout(() => this.retry(), wait);
    }
  }

  #session(stop: AbortController): Promise<void> {
    return apiStream(
      "/overview/stream",
      stop.signal,
      {
        opened: (res) => {
          const date = Date.parse(res.headers.get("Date") ?? "");
          // The header has whole seconds: less than that is no news.
          if (!Number.isNaN(date)) this.skew = Math.abs(date - Date.now()) < 2_000 ? 0 : date - Date.now();
          if (this.loaded) this.#live(); // it resumes; where nothing changed nothing comes
        },
        alive: () => (this.heard = Date.now()),
        event: (event) => this.#take(event),
      },
      this.#last === "" ? {} : { "Last-Event-ID": this.#last },
    );
  }

  #live(): void {
    this.connection = "live";
    this.error = "";
    this.#failures = 0;
  }

  #take(event: ServerEvent): void {
    if (event.name !== "snapshot" && event.name !== "patch") return; // of a newer control plane
    const { records } = JSON.parse(event.data) as Change;
    const next = new Map(event.name === "patch" ? this.#records : []);
    for (const [path, value] of Object.entries(records)) {
      if (value === null) next.delete(path);
      else next.set(path, value);
    }
    this.#records = next;
    this.#last = event.id;
    this.#live();
  }
}
