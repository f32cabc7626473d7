// One image that is asked about, and the events about it so far. Cards and history are drawn from this alone.

/** @param image see source.js; @param asked {kinds, policy, grounding, question} */
export function newVisit(image, asked) {
  const talks = new Map(asked.kinds.map((kind) => [kind, newTalk(kind, asked.question)]));
  return { image, asked, talks, row: null, state: "waiting" };
}

function newTalk(kind, question) {
  return { kind, question, vig: [], vic: [], conversation: null };
}

/** Applies an event. @returns the part that a screen reader reads out, or null. */
export function receive(visit, { name, data }) {
  const talk = visit.talks.get(data.kind);
  if (name === "image") {
    visit.image.width = data.width;
    visit.image.height = data.height;
    visit.state = "running";
  } else if (name === "question") {
    talk.question = data.question;
    talk.vig = data.vig_sentences;
    return data.vig_answer
      ? `${data.kind}: VIG asks: ${data.question} VIG says: ${data.vig_answer}`
      : `${data.kind}: ${data.question}`;
  } else if (name === "step") {
    talk.vic = [...talk.vic, ...data.sentences];
    return data.kept ? `VIC, ${data.kind}: ${data.kept}` : null;
  } else if (name === "conversation") {
    // What the model denied is gone from it, and grounding has been measured.
    talk.question = data.question ?? talk.question;
    talk.vig = data.vig_sentences;
    talk.vic = data.sentences;
    talk.conversation = data;
  } else if (name === "row") {
    visit.row = data;
    visit.state = "done";
    return "Finished.";
  }
  return null;
}
