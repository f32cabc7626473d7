// The page: an image is chosen, asked about, and what is said of it is shown as it comes.

import { Fault, fetchModel, fetchSamples, talk } from "./api.js";
import { Card } from "./conversation.js";
import { copy } from "./copy.js";
import { byId, element, isCalm } from "./dom.js";
import { History } from "./history.js";
import { askForKey, clearNotice, showNotice, waitBusy } from "./notice.js";
import { chosen, formOf, showOptions } from "./options.js";
import { showImage, watchBoxes } from "./image.js";
import { llava } from "./records.js";
import { showAddresses, showSamples, watchSources } from "./source.js";
import { receive, newVisit } from "./visit.js";

const MOST_TRIES = 10; // while the service is busy
const MEBIBYTE = 2 ** 20;

let about = null; // what the model and the service can do
let image = null;
let shown = null; // the visit that is on the page
let cards = new Map();
let running = null; // the AbortController of the visit under way
const narrow = matchMedia("(max-width: 900px)");
const history = new History((visit) => {
  image = visit.image;
  showImage(image);
  show(visit);
  update();
});

async function begin() {
  try {
    const model = await fetchModel();
    about = model.vigc;
    byId("model").textContent = `model ${model.id}${about.engine === "endpoint" ? " behind an endpoint" : ""} · vigc ${about.vigc}`;
    showOptions(about);
    showAddresses(about.fetches_images);
    showSamples(await fetchSamples(), pick);
    update();
  } catch (error) {
    report(error, begin);
  }
}

function pick(next) {
  clearNotice();
  const size = next.blob?.size ?? 0;
  if (about && size > about.max_upload_bytes) {
    const [is, most] = [size, about.max_upload_bytes].map((bytes) => (bytes / MEBIBYTE).toFixed(1));
    return showNotice(`The image has ${is} MiB; at most ${most} MiB are taken.`);
  }
  image = next;
  showImage(image);
  update();
  byId("start").focus({ preventScroll: true });
}

/** What is to be known of answers, where the image to be asked about or the one on the page is no scene. */
function showCaution() {
  const isNeeded = [image, shown?.image].some((one) => one && !one.isScene);
  const text = isNeeded ? about?.caution : null;
  byId("caution").hidden = !text;
  byId("caution").textContent = text ?? "";
}

function update() {
  showCaution();
  byId("start").disabled = !about || !image || Boolean(running);
  byId("start").textContent = running ? "Looking …" : "Look at it";
  byId("cancel").hidden = !running;
}

async function start() {
  if (byId("start").disabled) return;
  const asked = chosen();
  if (!asked.kinds.length) return showNotice("Choose at least one kind.");
  clearNotice();
  byId("heard").replaceChildren();
  const visit = newVisit({ ...image }, asked);
  const before = shown;
  running = new AbortController();
  update();
  show(visit);
  if (narrow.matches) byId("results").scrollIntoView({ behavior: isCalm() ? "auto" : "smooth" });
  try {
    await listen(visit, running.signal);
  } catch (error) {
    if (visit.state === "waiting" && visit === shown) show(before); // nothing was said of it
    visit.state = "stopped";
    if (error.name === "AbortError") {
      clearNotice();
      readOut("Cancelled.");
    } else {
      report(error, start);
    }
  } finally {
    running = null;
    update();
    if (visit === shown) draw();
  }
}

/** Hears a visit to its end. */
async function listen(visit, signal) {
  for (let attempt = 1; ; attempt++) {
    try {
      for await (const event of talk(formOf(visit.image, visit.asked), signal)) {
        if (event.name === "image") history.add(visit, shown);
        const news = receive(visit, event);
        if (news) readOut(news);
        if (visit === shown) draw();
      }
      return;
    } catch (error) {
      if (error.status !== 503 || attempt === MOST_TRIES) throw error;
      await waitBusy(error.retryAfterS ?? 1, signal);
    }
  }
}

/** @param visit null: none */
function show(visit) {
  shown = visit;
  cards = new Map((visit?.asked.kinds ?? []).map((kind) => [kind, new Card(kind)]));
  byId("cards").replaceChildren(...[...cards.values()].map((card) => card.root));
  byId("welcome").hidden = visit !== null;
  byId("toolbar").hidden = visit === null;
  showCaution();
  history.draw(shown);
  draw();
}

function draw() {
  for (const [kind, card] of cards) card.draw(shown.talks.get(kind), shown.state);
  byId("copy-json").disabled = byId("copy-llava").disabled = !shown?.row;
}

function report(error, again) {
  if (error.status === 401) return askForKey(error.message, again);
  if (!(error instanceof Fault)) throw error;
  const canHelp = !error.status || error.status >= 500;
  showNotice(error.message, canHelp ? { again } : {});
}

/** For screen readers. */
function readOut(text) {
  byId("heard").append(element("p", {}, text));
}

async function copyRecord(button, record) {
  try {
    await copy(button, JSON.stringify(record, null, 2));
  } catch (error) {
    showNotice(`Nothing was copied: ${error.message}`);
  }
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  start();
});
byId("cancel").addEventListener("click", () => {
  running?.abort();
  byId("start").focus();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !byId("camera-dialog").open) running?.abort();
});
byId("copy-json").addEventListener("click", (event) => copyRecord(event.currentTarget, shown.row));
byId("copy-llava").addEventListener("click", (event) => copyRecord(event.currentTarget, llava(shown.row)));
watchSources(pick, (message) => showNotice(message));
watchBoxes();
begin();
