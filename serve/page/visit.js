// One picture being talked about: what has been heard so far. Cards and history are drawn from this alone.

/** @param picture see source.js; @param asked {kinds, policy, grounding, question} */
export function newVisit(picture, asked) {
  const talks = new Map(asked.kinds.map((kind) => [kind, newTalk(kind, asked.question)]));
  return { picture, asked, talks, row: null, state: "running" };
}

function newTalk(kind, question) {
  return { kind, question, vig: [], vic: [], conversation: null };
}

/** Takes an event in. @returns what of it can be read out, or null. */
export function hear(visit, { name, data }) {
  const talk = visit.talks.get(data.kind);
  if (name === "image") {
    visit.picture.width = data.width;
    visit.picture.height = data.height;
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
