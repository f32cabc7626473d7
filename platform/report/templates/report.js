"use strict";
(() => {
  const FORMAT = "vigc marks 1";
  const page = document.body;
  const root = document.documentElement;
  const all = (selector, where = document) => [...where.querySelectorAll(selector)];
  const stored = (name, value) => {
    try {
      if (value === undefined) return localStorage.getItem(name);
      localStorage.setItem(name, value);
    } catch { /* a browser that stores nothing for files: marks last as long as the page */ }
    return null;
  };

  // light and dark
  const theme = stored("vigc-theme");
  if (theme) root.dataset.theme = theme;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    stored("vigc-theme", root.dataset.theme);
  });

  // which rows, with boxes or without
  const show = (name) => {
    for (const tab of all(".tab")) tab.setAttribute("aria-pressed", String(tab.dataset.tab === name));
    for (const cards of all(".cards")) cards.hidden = cards.dataset.tab !== name;
  };
  for (const tab of all(".tab")) tab.addEventListener("click", () => show(tab.dataset.tab));
  show(document.querySelector('.tab[aria-pressed="true"]').dataset.tab);
  document.getElementById("show-boxes").addEventListener("change", (event) => {
    page.classList.toggle("no-boxes", !event.target.checked);
  });

  // marks: one for each sentence of the data set, however often the page shows it
  const place = (sentence) => ({
    image_id: sentence.closest("[data-image]").dataset.image,
    pass: sentence.closest("[data-pass]").dataset.pass,
    kind: sentence.closest("[data-kind]").dataset.kind,
    answer: sentence.closest("[data-answer]").dataset.answer,
    sentence: Number(sentence.dataset.sentence),
  });
  const sentences = new Map();
  for (const sentence of all(".sentence")) {
    const key = JSON.stringify(Object.values(place(sentence)));
    if (!sentences.has(key)) sentences.set(key, []);
    sentences.get(key).push(sentence);
  }
  const keyOf = (sentence) => JSON.stringify(Object.values(place(sentence)));
  const memory = `vigc-marks-${page.dataset.report}`;
  const marks = new Map();
  const draw = (key) => {
    const mark = marks.get(key);
    for (const sentence of sentences.get(key)) {
      if (mark) sentence.dataset.marked = mark;
      else delete sentence.dataset.marked;
      for (const button of all(".mark", sentence)) button.setAttribute("aria-pressed", String(button.dataset.mark === mark));
    }
    const wrong = [...marks.values()].filter((one) => one === "wrong").length;
    document.getElementById("num-marks").textContent = marks.size ? `${marks.size} marked, ${wrong} wrong` : "0 marked";
    document.getElementById("download").disabled = marks.size === 0;
  };
  const set = (sentence, mark) => {
    const key = keyOf(sentence);
    if (!mark || marks.get(key) === mark) marks.delete(key);
    else marks.set(key, mark);
    draw(key);
    stored(memory, JSON.stringify([...marks]));
  };
  for (const [key, mark] of JSON.parse(stored(memory) || "[]")) {
    if (sentences.has(key)) { marks.set(key, mark); draw(key); }
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".mark");
    if (!button) return;
    const sentence = button.closest(".sentence");
    set(sentence, button.dataset.mark);
    sentence.focus({ preventScroll: true });
  });
  const step = (from, by) => {
    const visible = all(".cards:not([hidden]) .sentence").filter((one) => one.checkVisibility());
    const at = from ? visible.indexOf(from) : by > 0 ? -1 : visible.length;
    const next = visible[at + by];
    if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const sentence = event.target.closest(".sentence");
    if (!sentence && event.target !== page) return;
    const key = event.key.toLowerCase();
    if (key === "j" || (sentence && key === "arrowdown")) step(sentence, 1);
    else if (key === "k" || (sentence && key === "arrowup")) step(sentence, -1);
    else if (sentence && key === "r") { set(sentence, "right"); }
    else if (sentence && key === "w") { set(sentence, "wrong"); }
    else if (sentence && key === "u") { set(sentence, null); }
    else return;
    event.preventDefault();
  });
  document.getElementById("download").addEventListener("click", () => {
    const made = [...marks].map(([key, mark]) => {
      const shown = sentences.get(key);
      const isRandom = shown.some((one) => one.closest(".cards").dataset.tab === "random");
      return { ...place(shown[0]), text: shown[0].querySelector(".text").textContent, mark, section: isRandom ? "random" : "chosen" };
    });
    const content = { format: FORMAT, out: page.dataset.out, report: page.dataset.report, marks: made };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
    link.download = "marks.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
})();
