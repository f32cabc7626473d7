// What the service is asked, and its answers. Every failure is a Fault, with a sentence that can be shown.

const KEY = "vigc-key";

export class Fault extends Error {
  constructor(message, { status = 0, code = null, retryAfterS = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfterS });
  }
}

/** The key of this visit; it leaves the tab with it. */
export const setKey = (key) => sessionStorage.setItem(KEY, key);

export const fetchModel = async () => (await (await ask("/v1/models")).json()).data[0];

export const fetchSamples = async () => (await (await ask("/samples")).json()).samples;

export const fetchBlob = async (path) => (await ask(path)).blob();

/** The events of one request to be talked about, {name, data}, as they come; the last one is the row. */
export async function* talk(form, signal) {
  const answer = await ask("/v1/vigc", { method: "POST", body: form, signal });
  for await (const event of events(answer.body)) {
    if (event.name === "error") throw faultOf(event.data, {});
    yield event;
    if (event.name === "row") return;
  }
  throw new Fault("The connection ended before the answer did.", { code: "cut_off" });
}

async function ask(path, init = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...init, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault("The service cannot be reached.", { code: "unreachable" });
  }
  if (answer.ok) return answer;
  const retryAfterS = Number(answer.headers.get("Retry-After")) || null;
  const body = await answer.json().catch(() => null);
  throw faultOf(body, { status: answer.status, retryAfterS });
}

function faultOf(body, { status = 0, retryAfterS = null }) {
  const { message = `The service answered with status ${status}.`, code = null } = body?.error ?? {};
  return new Fault(message, { status, code, retryAfterS });
}

/** Server-sent events, read from the body of a POST, which EventSource cannot make. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      for (const block of blocks) yield parse(block);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault("The connection was lost.", { code: "cut_off" });
  } finally {
    reader.cancel().catch(() => {}); // whoever leaves early frees the slot; a stream that failed is closed already
  }
}

function parse(block) {
  const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s)));
  return { name: fields.event, data: JSON.parse(fields.data) };
}
