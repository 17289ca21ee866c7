import { remember, remembered } from "./memory";
import type { Whoami } from "./types";

/** Remembers that there was a session: a page can't see its cookie, and need not ask where there never was one. */
const sessionKey = "comity-session";

export function hadSession(): boolean {
  return remembered(sessionKey) !== "";
}

export function forgetSession(): void {
  remember(sessionKey, "");
}

/** Where the API is, whatever prefix a proxy puts before it: the page is at <prefix>/ui/. */
export function apiURL(path: string): string {
  return new URL(`../api/v1${path}`, document.baseURI).toString();
}

/** An answer that is no success, in the words of the API. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export async function refusal(res: Response): Promise<Refused> {
  let detail = res.statusText;
  try {
    const problem = (await res.json()) as { title?: string; detail?: string };
    detail = problem.detail ?? problem.title ?? detail;
  } catch {
    // Not from the API: the status has to do.
  }
  return new Refused(res.status, detail);
}

/** Puts the token into a cookie that no script can read. */
export async function signIn(token: string): Promise<void> {
  const res = await fetch(apiURL("/session"), { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  if (!res.ok) throw await refusal(res);
  remember(sessionKey, "yes");
}

export async function signOut(): Promise<void> {
  const res = await fetch(apiURL("/session"), { method: "DELETE" });
  if (!res.ok && res.status !== 401) throw await refusal(res);
  forgetSession();
}

/** Reads what the API has at a path. */
export async function read<T>(path: string): Promise<T> {
  const res = await fetch(apiURL(path));
  if (!res.ok) throw await refusal(res);
  return (await res.json()) as T;
}

export const whoami = (): Promise<Whoami> => read("/whoami");
