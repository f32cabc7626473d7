// The card of one conversation: the question, what VIG said, and what VIC says as it says it.

import { changedWords, pair, words } from "./difference.js";
import { count, element } from "./dom.js";
import { light } from "./image.js";
import { drawSentence } from "./sentence.js";

const REASONS = { unparsed: "no question and answer could be read in what VIG said", empty_answer: "the answer is empty" };

export class Card {
  constructor(kind) {
    this.status = element("span", { className: "status" });
    this.question = element("p", { className: "question" });
    this.vig = sentenceList("What VIG said");
    this.vic = sentenceList("What VIC says");
    this.sum = element("p", { className: "sum muted" });
    this.vigSide = element("section", { className: "vig" }, element("h4", {}, "VIG said"), this.vig);
    this.vicSide = element("section", { className: "vic" }, element("h4", {}, "VIC says"), this.vic);
    this.answers = element("div", { className: "answers" }, this.vigSide, this.vicSide);
    this.root = element(
      "article",
      { className: "card", data: { kind } },
      element("header", {}, element("h3", {}, kind), this.status),
      this.question,
      this.answers,
      this.sum
    );
  }

  /** @param state of the visit: waiting (for its turn), running, done, stopped */
  draw(talk, state) {
    const isOver = talk.conversation !== null || state === "done" || state === "stopped";
    const isHeard = talk.vig.length + talk.vic.length > 0 || talk.question !== "";
    this.root.classList.toggle("running", !isOver);
    this.status.textContent = statusOf(talk, state);
    this.question.textContent = talk.question;
    this.question.hidden = !talk.question;
    this.answers.hidden = !isHeard;
    this.vigSide.hidden = talk.vig.length === 0;
    const { before, after, sum } = compare(talk, isOver);
    drawList(this.vig, talk.vig, before, "del");
    drawList(this.vic, talk.vic, after, "ins");
    this.vic.classList.toggle("waiting", !isOver && talk.question !== "");
    this.sum.textContent = talk.conversation ? sum : "";
    this.sum.hidden = !this.sum.textContent;
  }
}

function statusOf({ vig, vic, question, conversation }, state) {
  if (conversation?.status === "rejected") {
    return `left out: ${conversation.reasons.map((reason) => REASONS[reason] ?? reason).join("; ")}`;
  }
  if (conversation) return count(conversation.num_tokens, "token");
  if (state === "waiting") return "waiting …";
  if (state !== "running") return "stopped";
  if (!vig.length && !question) return "VIG looks …";
  return vic.length ? `VIC looks again · ${count(vic.length, "sentence")}` : "VIC looks again …";
}

/** Which words changed, sentence by sentence. Where VIC has not come yet nothing is struck. */
function compare({ vig, vic }, isOver) {
  if (!vig.length) return { before: [], after: vic.map(() => []), sum: "" };
  const [left, right] = [vig, vic].map((side) => side.map((one) => one.text));
  const pairs = pair(left, right);
  const reached = isOver ? left.length : (pairs.at(-1)?.[0] ?? -1);
  const before = left.map((text, index) => words(text).map(() => index < reached));
  const after = right.map((text) => words(text).map(() => true));
  let numKept = 0;
  for (const [i, j] of pairs) {
    [before[i], after[j]] = changedWords(left[i], right[j]);
    numKept += before[i].some(Boolean) || after[j].some(Boolean) ? 0 : 1;
  }
  return { before, after, sum: summary(vig, vic, numKept, pairs.length) };
}

function summary(vig, vic, numKept, numPairs) {
  const parts = [`${numKept} of ${count(vig.length, "sentence")} stayed`];
  if (numPairs > numKept) parts.push(`${numPairs - numKept} changed`);
  if (vig.length > numPairs) parts.push(`${vig.length - numPairs} dropped`);
  if (vic.length > numPairs) parts.push(`${vic.length - numPairs} new`);
  const [before, after] = [numAbsent(vig), numAbsent(vic)];
  if (before !== null && before + after > 0) parts.push(`objects that are not there: ${before} → ${after}`);
  return parts.join(" · ");
}

function numAbsent(sentences) {
  const named = sentences.map((one) => one.objects_absent);
  return named.includes(null) ? null : new Set(named.flat()).size;
}

function drawList(list, sentences, changed, tag) {
  while (list.children.length > sentences.length) list.lastElementChild.remove();
  while (list.children.length < sentences.length) list.append(element("li", { tabIndex: list.children.length ? -1 : 0 }));
  sentences.forEach((sentence, index) => {
    const item = list.children[index];
    item.objects = sentence.objects_named;
    drawSentence(item, sentence, changed[index], tag);
  });
}

/** Arrow keys go through the sentences; the one in focus, or under the pointer, lights up its boxes. */
function sentenceList(label) {
  const list = element("ol", { className: "sentences", aria: { label } });
  const itemOf = (event) => event.target.closest("li");
  list.addEventListener("keydown", (event) => {
    const item = itemOf(event);
    const next = { ArrowDown: item?.nextElementSibling, ArrowUp: item?.previousElementSibling }[event.key];
    if (!next) return;
    event.preventDefault();
    for (const one of list.children) one.tabIndex = one === next ? 0 : -1;
    next.focus();
  });
  for (const name of ["focusin", "pointerover"]) list.addEventListener(name, (event) => light(itemOf(event)?.objects ?? null));
  for (const name of ["focusout", "pointerleave"]) list.addEventListener(name, () => light(null));
  return list;
}
