// Server-sent events over fetch (WHATWG HTML, 9.2). EventSource can't tell a refusal from an outage, and can't resume
// after it gave up.

export interface ServerEvent {
  name: string;
  id: string;
  data: string;
}

/** Parses the text of a stream as it comes. */
export class EventParser {
  #rest = "";
  #name = "";
  #id = "";
  #data: string[] = [];

  /** Takes the next piece and returns the events that it completes. */
  take(piece: string): ServerEvent[] {
    const lines = (this.#rest + piece).split("\n");
    this.#rest = lines.pop() ?? "";
    const out: ServerEvent[] = [];
    for (const line of lines) this.#line(line.endsWith("\r") ? line.slice(0, -1) : line, out);
    return out;
  }

  #line(line: string, out: ServerEvent[]): void {
    if (line === "") {
      if (this.#data.length > 0) out.push({ name: this.#name || "message", id: this.#id, data: this.#data.join("\n") });
      this.#name = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment: the other end lives
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (field === "event") this.#name = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#id = value;
  }
}
