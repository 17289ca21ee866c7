// Where zones are on the map: on an ellipse, in the order of cloud and region, so that what belongs together is
// side by side. Pure arithmetic.

import type { Zone } from "./types";

export interface Point {
  x: number;
  y: number;
}

export interface Placed extends Point {
  zone: Zone;
  /** Direction from the middle, in radians. */
  angle: number;
}

export interface Curve {
  d: string;
  /** Where the label goes: nearer to where the way begins, so that the two of a pair stay apart. */
  label: Point;
  middle: Point;
  /** Where an arrow shows the direction, and how far it is turned, in degrees. */
  arrow: Point & { turn: number };
}

export const width = 760;
export const height = 420;

/** With up to so many zones each has a card, with more a dot. */
export const mostCards = 8;
export const card = { width: 158, height: 62 };

export function place(zones: readonly Zone[]): Placed[] {
  const key = (z: Zone): string => `${z.spec.cloud ?? "~"}\0${z.spec.region ?? "~"}\0${z.name}`;
  const list = [...zones].sort((a, b) => (key(a) < key(b) ? -1 : 1));
  const n = list.length;
  const middle = { x: width / 2, y: height / 2 };
  if (n === 1 && list[0]) return [{ zone: list[0], ...middle, angle: -Math.PI / 2 }];
  const margin = n <= mostCards ? { x: card.width / 2 + 22, y: card.height / 2 + 26 } : { x: 130, y: 84 };
  const radius = { x: width / 2 - margin.x, y: height / 2 - margin.y };
  const first = n === 2 ? Math.PI : -Math.PI / 2;
  return list.map((zone, i) => {
    const angle = first + (2 * Math.PI * i) / n;
    return { zone, angle, x: middle.x + radius.x * Math.cos(angle), y: middle.y + radius.y * Math.sin(angle) };
  });
}

/** The way from one zone to another: bowed to its left, so that the way back lies beside it. */
export function curve(a: Point, b: Point, bow: number): Curve {
  const dx = b.x - a.x;
  const dy = b.y - a.y;
  const length = Math.hypot(dx, dy) || 1;
  const control = { x: (a.x + b.x) / 2 + (dy / length) * bow, y: (a.y + b.y) / 2 - (dx / length) * bow };
  const at = (t: number): Point => ({
    x: (1 - t) ** 2 * a.x + 2 * (1 - t) * t * control.x + t ** 2 * b.x,
    y: (1 - t) ** 2 * a.y + 2 * (1 - t) * t * control.y + t ** 2 * b.y,
  });
  const before = at(0.57);
  const after = at(0.63);
  return {
    d: `M${round(a.x)} ${round(a.y)}Q${round(control.x)} ${round(control.y)} ${round(b.x)} ${round(b.y)}`,
    label: at(0.42),
    middle: at(0.5),
    arrow: { ...at(0.6), turn: (Math.atan2(after.y - before.y, after.x - before.x) * 180) / Math.PI },
  };
}

export interface Group {
  cloud: string;
  /** Through the zones of the cloud, to be drawn as a broad band. */
  d: string;
}

/** The clouds that have several zones side by side. */
export function groups(placed: readonly Placed[]): Group[] {
  const by = new Map<string, Placed[]>();
  for (const p of placed) if (p.zone.spec.cloud) by.set(p.zone.spec.cloud, [...(by.get(p.zone.spec.cloud) ?? []), p]);
  return [...by].filter(([, list]) => list.length > 1).map(([cloud, list]) => ({ cloud, d: `M${list.map((p) => `${round(p.x)} ${round(p.y)}`).join("L")}` }));
}

function round(v: number): number {
  return Math.round(v * 10) / 10;
}
