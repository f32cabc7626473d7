// To the clipboard, with a word that it is there.

import { byId } from "./dom.js";

const SHOWN_MS = 2500;

export async function copy(button, text) {
  await write(text);
  const label = (button.dataset.label ??= button.textContent);
  button.textContent = "Copied ✓";
  button.classList.add("done");
  byId("said").textContent = `${label}: copied to the clipboard.`;
  clearTimeout(button.timer);
  button.timer = setTimeout(() => {
    button.textContent = label;
    button.classList.remove("done");
    byId("said").textContent = "";
  }, SHOWN_MS);
}

async function write(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Pages that came by plain HTTP from another machine have no clipboard, only this.
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "hidden";
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (!isCopied) throw new Error("The browser did not allow copying.");
}
