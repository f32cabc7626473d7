// The images that were asked about in this visit, newest first. A reload forgets them.

import { byId, element } from "./dom.js";

const MOST = 30;

export class History {
  #visits = [];
  #onChoose;

  constructor(onChoose) {
    this.#onChoose = onChoose;
  }

  add(visit, shown) {
    this.#visits = [visit, ...this.#visits.filter((one) => one !== visit)].slice(0, MOST);
    this.draw(shown);
  }

  draw(shown) {
    byId("history").hidden = this.#visits.length < 2;
    byId("visits").replaceChildren(...this.#visits.map((visit, index) => this.#item(visit, index, visit === shown)));
  }

  #item(visit, index, isShown) {
    const { image, asked } = visit;
    const number = this.#visits.length - index;
    const label = `Visit ${number}: ${image.name || image.url}, ${asked.question || asked.kinds.join(", ")}`;
    const button = element(
      "button",
      { type: "button", className: "thumb", title: label, aria: { label } },
      element("img", { src: image.url, alt: "" })
    );
    if (isShown) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      this.#onChoose(visit);
      byId("visits").children[index]?.querySelector("button").focus();
    });
    return element("li", {}, button);
  }
}
