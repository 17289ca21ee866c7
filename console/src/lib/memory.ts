// What a browser remembers between visits. Without storage it remembers nothing, and that is all.

/** Keeps a text; the empty text forgets it. */
export function remember(key: string, text: string): void {
  try {
    if (text === "") localStorage.removeItem(key);
    else localStorage.setItem(key, text);
  } catch {
    // No storage.
  }
}

export function remembered(key: string): string {
  try {
    return localStorage.getItem(key) ?? "";
  } catch {
    return "";
  }
}
