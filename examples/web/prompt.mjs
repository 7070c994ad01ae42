// A conversation as the text that a model's chat template makes of it.

/**
 * The prompt for `messages`, `[{ role, content }]` with contents that are strings.
 *
 * Most templates take contents as strings. Those of models that can also see take a list of parts, Llama Guard 3 1B's
 * among them, and write nothing for a string, or fail: whether the last message is in the prompt tells them apart.
 *
 * @param {(messages: object[]) => string} render The template.
 * @throws What the template threw, or an error that says that it leaves the message out.
 */
export function renderChat(render, messages) {
  const wanted = messages.at(-1).content.trim();
  let failure = new Error("the chat template leaves the message out");
  for (const shape of [(message) => message, inParts]) {
    try {
      const prompt = render(messages.map(shape));
      if (prompt.includes(wanted)) return prompt;
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

function inParts({ role, content }) {
  return { role, content: [{ type: "text", text: content }] };
}
