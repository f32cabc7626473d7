// Rows as records of LLaVA's instruction format, the same that `vigc export --format llava` writes.

const IMAGE_TOKEN = "<image>";

const clean = (text) => text.replaceAll(IMAGE_TOKEN, "").trim();

/** One record for each kept conversation that has a question and an answer. */
export function llava(row) {
  return row.conversations
    .filter((one) => one.status === "kept")
    .map((one) => ({ kind: one.kind, question: clean(one.question || one.instruction), answer: clean(one.answer) }))
    .filter(({ question, answer }) => question && answer)
    .map(({ kind, question, answer }) => ({
      id: `${row.image_id}:${kind}`,
      image: row.image_id,
      conversations: [
        { from: "human", value: `${IMAGE_TOKEN}\n${question}` },
        { from: "gpt", value: answer },
      ],
    }));
}
