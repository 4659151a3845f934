// node browse.mjs CHROMIUM PAGE FOLDER: opens a page as people would, narrow and wide, light and dark, and in print.
// Prints one JSON object with what went wrong and what can be seen; keeps screenshots in FOLDER.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [, , chromiumPath, page, folder] = process.argv;
const require = createRequire(`${process.cwd()}/`); // the packages lie where it is started
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");

const browser = await chromium.launch({
  executablePath: chromiumPath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const found = { console: [], requests: [], views: [] };
const views = [
  { width: 390, height: 844, colorScheme: "light" },
  { width: 1440, height: 900, colorScheme: "light" },
  { width: 390, height: 844, colorScheme: "dark" },
  { width: 1440, height: 900, colorScheme: "dark" },
];
for (const { width, height, colorScheme } of views) {
  const tab = await browser.newPage({ viewport: { width, height }, colorScheme });
  tab.on("console", (message) => found.console.push(`${message.type()}: ${message.text()}`));
  tab.on("pageerror", (error) => found.console.push(String(error)));
  tab.on("request", (request) => found.requests.push(request.url()));
  await tab.goto(pathToFileURL(page).href);
  const seen = await tab.evaluate(() => ({
    pageWidth: document.documentElement.scrollWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    charts: [...document.querySelectorAll("figure > svg")].map((svg) => {
      const box = svg.getBoundingClientRect();
      const letters = [...svg.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
      return {
        figure: svg.parentElement.id,
        left: box.left, right: box.right, width: box.width, height: box.height,
        texts: letters.length,
        least: Math.min(...letters.map((each) => Math.min(each.width, each.height))), // upright text is narrow
        outside: letters.filter((each) => each.left < box.left - 2 || each.right > box.right + 2
          || each.top < box.top - 2 || each.bottom > box.bottom + 2).length,
      };
    }),
  }));
  await tab.evaluate(() => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
  await tab.addScriptTag({ path: axe });
  const faults = await tab.evaluate(async () => (await globalThis.axe.run()).violations.map((each) => ({
    id: each.id, impact: each.impact, help: each.help, nodes: each.nodes.slice(0, 3).map((node) => node.html.slice(0, 200)),
  })));
  await tab.evaluate(() => document.querySelectorAll("details").forEach((each) => { each.open = false; }));
  await tab.screenshot({ path: `${folder}/${width}-${colorScheme}.png`, fullPage: true });
  found.views.push({ width, colorScheme, ...seen, faults });
  if (width === 1440 && colorScheme === "light") {
    await tab.pdf({ path: `${folder}/print.pdf`, format: "A4" });
  }
  await tab.close();
}
await browser.close();
console.log(JSON.stringify(found));
