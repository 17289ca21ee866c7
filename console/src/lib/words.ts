// Numbers and times as people read them.

const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

/** A duration in its largest unit: "42 s", "3 min", "5 h", "12 d". */
export function span(ms: number): string {
  const v = Math.max(0, ms);
  if (v < minute) return `${Math.floor(v / second)} s`;
  if (v < hour) return `${Math.floor(v / minute)} min`;
  if (v < 2 * day) return `${Math.floor(v / hour)} h`;
  return `${Math.floor(v / day)} d`;
}

/** How long ago an RFC 3339 time was, "" where there is none. */
export function ago(time: string | undefined, now: number): string {
  const at = moment(time);
  return at === 0 ? "" : `${span(now - at)} ago`;
}

/** An RFC 3339 time in ms; 0 where there is none, as Go's zero time is. */
export function moment(time: string | undefined): number {
  const at = time ? Date.parse(time) : 0;
  return Number.isNaN(at) || at < 0 ? 0 : at;
}

/** Requests a second with as many digits as say something. */
export function rate(v: number): string {
  if (v === 0) return "0";
  if (v < 0.1) return "<0.1";
  if (v < 10) return v.toFixed(1);
  if (v < 10_000) return Math.round(v).toLocaleString("en");
  return `${(v / 1000).toFixed(0)}k`;
}

/** A share of 1 as percents; never "0 %" or "100 %" where it is not quite. */
export function percent(share: number): string {
  if (share <= 0) return "0 %";
  if (share >= 1) return "100 %";
  const p = share * 100;
  if (p < 1) return p < 0.1 ? "<0.1 %" : `${p.toFixed(1)} %`;
  return `${Math.min(99, Math.round(p))} %`;
}

/** The share that succeeded; "100 %" only where it is so. */
export function success(share: number): string {
  return share >= 1 ? "100 %" : `${(Math.floor(share * 10_000) / 100).toFixed(2)} %`;
}

/** Bytes, or bytes a second, in the unit that fits. */
export function bytes(v: number): string {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (v < 1024) return `${v < 10 && unit !== "B" ? v.toFixed(1) : Math.round(v)} ${unit}`;
    v /= 1024;
  }
  return `${v.toFixed(1)} GiB`;
}

export function millis(v: number): string {
  return v < 10 ? `${v.toFixed(1)} ms` : `${Math.round(v)} ms`;
}

export function count(n: number, one: string, many = `${one}s`): string {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

/** An RFC 3339 time of day, to the millisecond. */
export function clockTime(rfc: string): string {
  const at = new Date(rfc);
  return Number.isNaN(at.getTime()) ? rfc : `${at.toLocaleTimeString("en-GB")}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

export function time(ms: number): string {
  return new Date(ms).toLocaleTimeString("en-GB");
}
