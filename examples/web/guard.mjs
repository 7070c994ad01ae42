// What a Llama Guard model answered, as a verdict.
//
// It writes "safe", or "unsafe" and on the next line the codes of the categories, joined by commas. Source of format
// and names: the model cards of Llama Guard 3 8B and 1B (meta-llama/PurpleLlama); the 1B model knows no S14. All apps
// read answers alike: tests/vectors/guard.json.

/** MLCommons' hazards as Llama Guard 3 numbers them. */
export const CATEGORIES = {
  S1: "Violent Crimes",
  S2: "Non-Violent Crimes",
  S3: "Sex-Related Crimes",
  S4: "Child Sexual Exploitation",
  S5: "Defamation",
  S6: "Specialized Advice",
  S7: "Privacy",
  S8: "Intellectual Property",
  S9: "Indiscriminate Weapons",
  S10: "Hate",
  S11: "Suicide & Self-Harm",
  S12: "Sexual Content",
  S13: "Elections",
  S14: "Code Interpreter Abuse",
};

/** ASCII's alone: what trim() takes away beside it differs from language to language. */
const WHITE_SPACE_AROUND = /^[ \t\n\v\f\r]+|[ \t\n\v\f\r]+$/g;

/** A verdict fits in these many tokens, with several codes. */
export const VERDICT_TOKENS = 32;

/**
 * `{ kind, categories }` for any answer whatever: `kind` is "safe", "unsafe" or "unclear", `categories` are
 * `{ code, name }` in the order of their numbers.
 *
 * Doubt goes against the message: only a bare "safe" is safe, and whatever begins with "unsafe" is unsafe.
 */
export function parseVerdict(answer) {
  const text = typeof answer === "string" ? answer.replace(WHITE_SPACE_AROUND, "") : "";
  if (/^safe\.?$/i.test(text)) return { kind: "safe", categories: [] };
  if (/^unsafe\b/i.test(text)) return { kind: "unsafe", categories: categories(text) };
  return { kind: "unclear", categories: [] };
}

function categories(text) {
  const numbers = [...text.matchAll(/\bS(\d{1,2})\b/gi)].map((match) => Number(match[1]));
  return [...new Set(numbers)]
    .sort((a, b) => a - b)
    .map((number) => ({ code: `S${number}`, name: CATEGORIES[`S${number}`] ?? "unknown category" }));
}
