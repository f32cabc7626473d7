// Where VIC differs from what VIG had said: sentences are matched in their order, then the words of those that changed.

const ALIKE = 0.5; // share of words that two sentences have in common, from which on one is the other, changed

const bare = (word) => word.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");

export const words = (text) => text.split(/\s+/).filter(Boolean);

/**
 * Pairs of sentences, in order, such that as much as possible is alike.
 * @returns {[number, number][]} indices into `before` and `after`
 */
export function pair(before, after) {
  const left = before.map((text) => words(text).map(bare));
  const right = after.map((text) => words(text).map(bare));
  return align(left, right, (one, other) => {
    const share = (2 * align(one, other, same).length) / (one.length + other.length);
    return share >= ALIKE ? share : 0;
  });
}

/**
 * Which words of each sentence have no counterpart in the other.
 * @returns {[boolean[], boolean[]]}
 */
export function changedWords(before, after) {
  const [left, right] = [words(before).map(bare), words(after).map(bare)];
  const [gone, come] = [left.map(() => true), right.map(() => true)];
  for (const [i, j] of align(left, right, same)) gone[i] = come[j] = false;
  return [gone, come];
}

const same = (one, other) => (one === other ? 1 : 0);

/** The pairs, in order, with the greatest sum of `worth`; those worth nothing are no pairs. */
function align(left, right, worth) {
  const best = Array.from({ length: left.length + 1 }, () => new Float64Array(right.length + 1));
  const values = left.map((one) => right.map((other) => worth(one, other)));
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      const paired = values[i][j] > 0 ? values[i][j] + best[i + 1][j + 1] : 0;
      best[i][j] = Math.max(paired, best[i + 1][j], best[i][j + 1]);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < left.length && j < right.length; ) {
    if (values[i][j] > 0 && best[i][j] === values[i][j] + best[i + 1][j + 1]) pairs.push([i++, j++]);
    else if (best[i][j] === best[i + 1][j]) i++;
    else j++;
  }
  return pairs;
}
