// Takes the picture of docs/console.md from a running demo, while it copes with a fault:
//
//	node test/console/screenshot.mjs URL TOKENFILE OUT.png COMMAND ARGS...
//
// The command breaks something; the picture is taken when the page has said so.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { launch } from "./browser.mjs";

const [url, tokenFile, out, command, ...args] = process.argv.slice(2);
const browser = await launch();
const page = await browser.newPage({ viewport: { width: 1280, height: 1000 }, colorScheme: "light" });
await page.goto(`${url}/`);
await page.getByLabel("Token").fill(readFileSync(tokenFile, "utf8").trim());
await page.getByRole("button", { name: "Sign in" }).click();
await page.getByRole("status").filter({ hasText: /^Live$/ }).waitFor();
// Zones have told of their traffic.
await page.getByRole("button", { name: /, [1-9][\d.]* requests a second$/ }).nth(2).waitFor({ timeout: 60_000 });
if (command) {
  execFileSync(command, args);
  await page.getByRole("region", { name: "Needs attention" }).getByText(/ is down$/).first().waitFor({ timeout: 60_000 });
  await page.getByRole("region", { name: "Needs attention" }).getByText(/^shop\/pay /).first().waitFor({ timeout: 60_000 });
  // What went to the zone goes to the other one.
  await page.getByRole("button", { name: /^aws-east to onprem, .* (5|6|7|8|9|10)[\d.]* requests a second/ }).waitFor({ timeout: 60_000 });
}
await page.mouse.move(0, 0);
await page.screenshot({ path: out });
await browser.close();
