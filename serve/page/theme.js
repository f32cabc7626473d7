// Light or dark, set before the page is drawn. Loaded as a plain script for that.
"use strict";
(() => {
  const root = document.documentElement;
  const kept = localStorage.getItem("vigc-theme");
  if (kept) root.dataset.theme = kept;
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const prefers = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      root.dataset.theme = (root.dataset.theme || prefers) === "dark" ? "light" : "dark";
      localStorage.setItem("vigc-theme", root.dataset.theme);
    });
  });
})();
