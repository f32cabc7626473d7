// One sentence of an answer: its tint, its changed words, and the objects that it names though they are absent.

import { words } from "./difference.js";
import { element } from "./dom.js";

const FULL_TINT = 2; // nats of grounding from which on a tint is not stronger

/**
 * Fills `item` again, if there is anything new.
 * @param changed for each word, whether the other answer lacks it
 * @param tag what a changed word is: "del" or "ins"
 */
export function drawSentence(item, sentence, changed, tag) {
  const drawn = JSON.stringify([sentence, changed]);
  if (item.drawn === drawn) return;
  item.drawn = drawn;
  const { text, grounding } = sentence;
  const absent = sentence.objects_absent ?? [];
  item.className = ["sentence", absent.length && "untrue", grounding !== null && (grounding < 0 ? "denied" : "borne")]
    .filter(Boolean)
    .join(" ");
  item.style.setProperty("--tint", Math.min(Math.abs(grounding ?? 0) / FULL_TINT, 1));
  item.replaceChildren(element("span", { className: "text" }, ...pieces(text, changed, absent, tag)), ...notes(grounding, absent));
}

function notes(grounding, absent) {
  const made = [];
  if (absent.length) {
    made.push(element("span", { className: "badge" }, `not in the image: ${absent.join(", ")}`));
  }
  if (grounding !== null) {
    const sign = grounding < 0 ? "−" : "+";
    const label = element("span", { className: "hidden" }, "grounding ");
    const title = `Grounding: ${grounding.toFixed(2)} nats`;
    made.push(element("span", { className: "grounding", title }, label, `${sign}${Math.abs(grounding).toFixed(1)}`));
  }
  return made;
}

/** Neighbouring words that are alike in both respects stay in one piece. */
function pieces(text, changed, absent, tag) {
  const isAbsent = absentWords(text, absent);
  const groups = [];
  words(text).forEach((word, index) => {
    const last = groups.at(-1);
    const [isChanged, isUntrue] = [Boolean(changed[index]), isAbsent[index]];
    if (last?.isChanged === isChanged && last.isUntrue === isUntrue) last.words.push(word);
    else groups.push({ isChanged, isUntrue, words: [word] });
  });
  return groups.flatMap(({ isChanged, isUntrue, words: some }, index) => {
    const inner = isUntrue ? element("mark", { className: "absent" }, some.join(" ")) : some.join(" ");
    const piece = isChanged ? element(tag, {}, inner) : inner;
    return index ? [" ", piece] : [piece];
  });
}

function absentWords(text, absent) {
  const marked = words(text).map(() => false);
  for (const name of absent) {
    const parts = name.toLowerCase().split(/\s+/);
    words(text).forEach((_, start) => {
      const found = words(text).slice(start, start + parts.length).map((word) => word.toLowerCase().replace(/[^\p{L}\p{N}-]/gu, ""));
      const isNamed = parts.every((part, index) => found[index] === part || (index === parts.length - 1 && isPlural(found[index], part)));
      if (isNamed) marked.fill(true, start, start + parts.length);
    });
  }
  return marked;
}

const isPlural = (word, name) => word === `${name}s` || word === `${name}es` || (name.endsWith("y") && word === `${name.slice(0, -1)}ies`);
