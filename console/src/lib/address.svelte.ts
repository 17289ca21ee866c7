// The address says what is shown, so that it can be kept, sent and gone back to.

/** The pages: the mesh, one service, what passes between services (top), live requests (tap). */
export type Page = "mesh" | "service" | "top" | "tap";

const pages: readonly Page[] = ["mesh", "service", "top", "tap"];

/** The address of a page that shows what the values say; empty ones are left out. */
export function address(page: Page, values: Record<string, string> = {}): string {
  const out = new URLSearchParams(page === "mesh" ? {} : { page });
  for (const [name, value] of Object.entries(values)) if (value !== "") out.set(name, value);
  return `?${out}`;
}

class Address {
  #values = $state.raw(new URLSearchParams(location.search));
  readonly page = $derived(pages.find((p) => p === this.#values.get("page")) ?? "mesh");

  /** What is said under a name, "" for nothing. */
  get(name: string): string {
    return this.#values.get(name) ?? "";
  }

  /** Says something else of what is shown: no step to go back to. The empty text takes it out. */
  set(name: string, value: string): void {
    if (this.get(name) === value) return;
    const url = new URL(location.href);
    if (value === "") url.searchParams.delete(name);
    else url.searchParams.set(name, value);
    history.replaceState(null, "", url);
    this.read();
  }

  /** Goes to another page, by an address that `address` made. */
  go(to: string): void {
    if (new URL(to, location.href).href === location.href) return;
    history.pushState(null, "", to);
    this.read();
    scrollTo(0, 0);
  }

  /** Takes over what the browser says: it went back or forth. */
  read(): void {
    this.#values = new URLSearchParams(location.search);
  }

  /** Follows a link to a page of this console without loading it again; other links, and new tabs, are the browser's. */
  click(event: MouseEvent): void {
    if (event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const to = (event.target as Element | null)?.closest?.("a")?.getAttribute("href");
    if (!to?.startsWith("?")) return;
    event.preventDefault();
    this.go(to);
  }
}

export const shown = new Address();
