// What the tests ask of Transformers.js, the same in Node and in a page.
//
// `request`: { model, dtypes, device?, ids, n, texts, messages? }; `ids` are the tokens of a prompt.
// Returns, for each dtype: the logits after the prompt, the `n` tokens that follow it greedily and how long they took, and what
// is said to `messages`; and the token ids of each of `texts`.

/** Runs in the page as it stands: no name from outside may appear in it. */
export async function probe(library, request) {
  const { Tensor, pipeline } = library;
  const { model, dtypes, device, ids, n, texts, messages } = request;
  const answers = {};
  let tokens;
  for (const dtype of dtypes) {
    const generator = await pipeline("text-generation", model, { dtype, device });
    const inputs = {
      input_ids: new Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
      attention_mask: new Tensor("int64", new BigInt64Array(ids.length).fill(1n), [1, ids.length]),
    };
    const { logits } = await generator.model(inputs);
    const [, length, width] = logits.dims;
    const begin = performance.now();
    const made = await generator.model.generate({ ...inputs, max_new_tokens: n, do_sample: false });
    const seconds = (performance.now() - begin) / 1000;
    const said = messages && (await generator(messages, { max_new_tokens: n, do_sample: false }));
    answers[dtype] = {
      positions: length,
      logits: Array.from(logits.data.slice(-width)),
      seconds,
      generated: made.tolist()[0].slice(ids.length).map(Number),
      said: said?.[0].generated_text.at(-1).content,
    };
    tokens ??= texts.map((text) => Array.from(generator.tokenizer(text, { add_special_tokens: false }).input_ids.data, Number));
    await generator.dispose();
  }
  return { answers, tokens };
}
