// The image that is asked about, and boxes around what is in it.

import { byId, element } from "./dom.js";

const NUM_COLOURS = 8;
const SVG = "http://www.w3.org/2000/svg";

export function showImage(image) {
  const look = byId("look");
  const img = element("img", { src: image.url, alt: `The image: ${image.name || image.url}` });
  img.addEventListener("load", () => {
    image.width ??= img.naturalWidth;
    image.height ??= img.naturalHeight;
    look.style.setProperty("--ratio", img.naturalWidth / img.naturalHeight);
  });
  img.addEventListener("error", () => {
    look.replaceChildren(element("p", { className: "muted no-preview" }, "This browser has no preview of the image. The service may still read it."));
  });
  look.replaceChildren(img);
  look.hidden = false;
  byId("empty").hidden = true;
  byId("about").hidden = false;
  byId("sources").open = false;
  byId("name").textContent = image.name || image.url;
  drawBoxes(look, image);
}

export function watchBoxes() {
  byId("boxes").addEventListener("change", (event) => byId("look").classList.toggle("no-boxes", !event.target.checked));
}

/** Lights up the boxes of these categories; null: all alike. */
export function light(categories) {
  const look = byId("look");
  const isAny = categories?.some((name) => look.querySelector(`[data-category="${CSS.escape(name)}"]`));
  look.classList.toggle("lit", Boolean(isAny));
  for (const box of look.querySelectorAll("[data-category]")) {
    box.classList.toggle("on", Boolean(isAny) && categories.includes(box.dataset.category));
  }
}

function drawBoxes(look, { objects, width, height }) {
  const names = [...new Set((objects ?? []).map((one) => one.category))].sort();
  const colourOf = (name) => `c${names.indexOf(name) % NUM_COLOURS}`;
  byId("boxes-switch").hidden = byId("objects").hidden = names.length === 0;
  if (objects === null) return;
  const boxes = document.createElementNS(SVG, "svg");
  boxes.setAttribute("class", "boxes");
  boxes.setAttribute("viewBox", `0 0 ${width} ${height}`);
  boxes.setAttribute("preserveAspectRatio", "none");
  boxes.setAttribute("aria-hidden", "true");
  for (const { category, bbox } of objects) {
    const rect = document.createElementNS(SVG, "rect");
    ["x", "y", "width", "height"].forEach((name, index) => rect.setAttribute(name, bbox[index]));
    rect.setAttribute("class", `box ${colourOf(category)}`);
    rect.dataset.category = category;
    boxes.append(rect);
  }
  look.append(boxes);
  byId("objects").replaceChildren(
    ...names.map((name) => {
      const number = objects.filter((one) => one.category === name).length;
      const chip = element("li", { className: `object ${colourOf(name)}` }, number > 1 ? `${number} × ${name}` : name);
      chip.addEventListener("pointerenter", () => light([name]));
      chip.addEventListener("pointerleave", () => light(null));
      return chip;
    })
  );
}
