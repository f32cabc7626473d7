// What went wrong, and what can be done about it.

import { setKey } from "./api.js";
import { byId, element } from "./dom.js";

export function clearNotice() {
  byId("notice").replaceChildren();
}

/** @param again what a button does, if trying again can help */
export function showNotice(message, { again = null, label = "Try again" } = {}) {
  const button = again && element("button", { type: "button", className: "plain" }, label);
  button?.addEventListener("click", again);
  show(element("p", {}, message), button);
}

/** Asks for a key and goes on with it. */
export function askForKey(message, again) {
  const input = element("input", { type: "password", id: "key", autocomplete: "off", required: true });
  const form = element(
    "form",
    { className: "key" },
    element("p", {}, message),
    element("label", { htmlFor: "key" }, "Key of this service (kept until this tab is closed)"),
    element("div", { className: "row" }, input, element("button", { className: "primary", type: "submit" }, "Use the key"))
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(input.value.trim());
    clearNotice();
    again();
  });
  show(form);
  input.focus();
}

/** Counts down. @throws AbortError through the signal */
export async function waitBusy(seconds, signal) {
  const left = element("span", { aria: { live: "off" } }, String(seconds));
  show(element("p", {}, "The service is busy. Trying again in ", left, " s …"));
  for (let second = seconds; second > 0; second--) {
    left.textContent = second;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    signal.throwIfAborted();
  }
  clearNotice();
}

function show(...children) {
  const notice = element("div", { className: "notice" }, ...children.filter(Boolean));
  byId("notice").replaceChildren(notice);
  notice.scrollIntoView({ block: "nearest" });
}
