// Elements, with texts as texts: nothing on this page is ever parsed as HTML.

export const byId = (id) => document.getElementById(id);

/** An element; properties are set on it, `data` and `aria` as attributes, and children may be texts or null. */
export function element(tag, { data = {}, aria = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.dataset, data);
  for (const [name, value] of Object.entries(aria)) made.setAttribute(`aria-${name}`, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

export const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
