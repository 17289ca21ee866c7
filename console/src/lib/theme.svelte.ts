import { remember } from "./memory";

/** "system" follows the machine; the others hold here and are remembered. */
export type Choice = "system" | "light" | "dark";

const key = "comity-theme";
const order: readonly Choice[] = ["system", "light", "dark"];

class Theme {
  choice = $state<Choice>("system");

  constructor() {
    const now = document.documentElement.dataset.theme; // set by theme.js
    if (now === "light" || now === "dark") this.choice = now;
  }

  next(): void {
    this.choice = order[(order.indexOf(this.choice) + 1) % order.length] ?? "system";
    if (this.choice === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = this.choice;
    remember(key, this.choice === "system" ? "" : this.choice);
  }
}

export const theme = new Theme();
