// What can be chosen about how an image is talked about; the service says what there is.

import { byId, element } from "./dom.js";

const CHECKED = ["conversation", "detail", "reasoning"];
const HINTS = {
  paper: "Until VIC ends its answer.",
  lean: "Four sentences; VIG only asks.",
  verified: "What is denied is said again, or dropped.",
  shipped: "As the authors' code does it.",
  none: "Not measured.",
  asked: "Is each object there?",
  blank: "Against a blank image.",
};

export function showOptions(about) {
  byId("kinds").replaceChildren(
    ...about.kinds.map((kind) => {
      const input = element("input", { type: "checkbox", name: "kinds", value: kind, checked: CHECKED.includes(kind) });
      return element("label", { className: "chip" }, input, element("span", {}, kind));
    })
  );
  fill(byId("policy"), about.policies, about.policy);
  // Sentences are tinted unless the operator chose otherwise.
  fill(byId("grounding"), about.groundings, about.grounding ?? (about.groundings.includes("asked") ? "asked" : "none"));
  byId("question").maxLength = about.max_question_chars;
}

function fill(select, values, chosen) {
  select.replaceChildren(...values.map((value) => new Option(value, value, value === chosen, value === chosen)));
  const hint = byId(`${select.id}-hint`);
  const explain = () => (hint.textContent = HINTS[select.value] ?? "");
  select.onchange = explain;
  explain();
}

/** @returns {kinds, policy, grounding, question} */
export function chosen() {
  return {
    kinds: [...byId("kinds").querySelectorAll("input:checked")].map((input) => input.value),
    policy: byId("policy").value,
    grounding: byId("grounding").value,
    question: byId("question").value.trim(),
  };
}

/** The fields of a request. */
export function formOf(image, asked) {
  const form = new FormData();
  form.set("image", image.blob ?? image.url);
  if (image.name) form.set("image_id", image.name);
  form.set("kinds", asked.kinds.join(","));
  form.set("policy", asked.policy);
  form.set("grounding", asked.grounding);
  if (asked.question) form.set("question", asked.question);
  if (image.objects) form.set("objects", JSON.stringify(image.objects));
  form.set("stream", "true");
  return form;
}
