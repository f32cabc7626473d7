// Where images come from: a file, a drop, the clipboard, an address, the camera, or a sample.

import { fetchBlob } from "./api.js";
import { canFilm, film } from "./camera.js";
import { byId, element } from "./dom.js";

/**
 * @typedef Image
 * @property {?Blob} blob what is sent; null for an address, which the service fetches itself
 * @property {string} url what is shown
 * @property {string} name its image_id
 * @property {?object[]} objects what is there, if somebody said so
 */

/**
 * @param onPick takes an Image
 * @param onFault takes a sentence that says why there is none
 */
export function watchSources(onPick, onFault) {
  const pick = (blob, name) => {
    if (blob.type && !blob.type.startsWith("image/")) {
      onFault(`${name} is no image (${blob.type}). Choose a JPEG, PNG, WebP or GIF.`);
    } else {
      onPick({ blob, url: URL.createObjectURL(blob), name, objects: null });
    }
  };
  const pickFile = (file) => pick(file, file.name);
  const at = (address) => {
    if (!/^(https?|data):/.test(address)) onFault("An address begins with https:// or http://.");
    else if (address.startsWith("data:")) pickData(address, pick, onFault);
    else if (byId("address").dataset.fetched === "no") onFault(NO_ADDRESSES);
    else onPick({ blob: null, url: address, name: "", objects: null });
  };

  for (const input of [byId("file"), byId("snapshot")]) {
    input.addEventListener("change", () => {
      if (input.files.length) pickFile(input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  byId("choose").addEventListener("click", () => byId("file").click());
  byId("camera").addEventListener("click", async () => {
    if (!canFilm()) return byId("snapshot").click();
    try {
      const taken = await film();
      if (taken) pick(taken, "camera.jpg");
    } catch (error) {
      onFault(`The camera cannot be used: ${error.message}.`);
    }
  });
  byId("use-address").addEventListener("click", () => at(byId("address").value.trim()));
  byId("address").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    at(byId("address").value.trim());
  });
  watchDrops(pickFile, at);
  watchPastes(pick, at);
}

const NO_ADDRESSES =
  "This service fetches no images (it was started without --allow-hosts). Save the image and drop it here.";

/** Says at the field whether addresses are any use. */
export function showAddresses(areFetched) {
  byId("address").dataset.fetched = areFetched ? "yes" : "no";
  byId("address-hint").hidden = areFetched;
  byId("address-hint").textContent = areFetched ? "" : "Off here: the service was started without --allow-hosts.";
}

export function showSamples(samples, onPick) {
  byId("samples").hidden = samples.length === 0;
  byId("sample-list").replaceChildren(
    ...samples.map((sample, number) => {
      const image = element("img", { src: sample.image, alt: "", width: sample.width, height: sample.height });
      const button = element("button", { type: "button", className: "thumb", aria: { label: `Sample ${number + 1}` } }, image);
      button.addEventListener("click", async () => {
        const blob = await fetchBlob(sample.image);
        onPick({ blob, url: URL.createObjectURL(blob), name: `${sample.id}.jpg`, objects: sample.objects, isScene: true,
          width: sample.width, height: sample.height });
      });
      return element("li", {}, button);
    })
  );
}

function watchDrops(pickFile, at) {
  const drop = byId("drop");
  addEventListener("dragenter", () => drop.classList.add("over"));
  addEventListener("dragleave", (event) => event.relatedTarget === null && drop.classList.remove("over"));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    const address = event.dataTransfer.getData("text/uri-list");
    if (file) pickFile(file);
    else if (address) at(address);
  });
}

function watchPastes(pick, at) {
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    const text = event.clipboardData.getData("text/plain").trim();
    const isTyping = event.target.closest?.("input, textarea") ?? null;
    if (file) pick(file, file.name || "pasted.png");
    else if (!isTyping && /^(https?|data:image)/.test(text)) at(text);
    else return;
    event.preventDefault();
  });
}

function pickData(address, pick, onFault) {
  const [, type, data] = address.match(/^data:(image\/[\w.+-]+);base64,(.*)$/s) ?? [];
  try {
    pick(new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], { type }), "pasted");
  } catch {
    onFault("This data: address holds no image in base64.");
  }
}
