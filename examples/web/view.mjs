// The conversation as elements. Whatever a person or a model wrote enters as text, never as HTML.

const VERDICTS = { judging: "Judging …", safe: "Safe", unsafe: "Unsafe", unclear: "Unclear" };
const STICKY = 80;

/** The list of messages. It follows the last one, unless somebody scrolled up to read. */
export class Log {
  #list;
  #scroller;

  constructor(list, scroller) {
    this.#list = list;
    this.#scroller = scroller;
  }

  clear() {
    this.#list.replaceChildren();
  }

  /** What a person wrote; `verdict` shows the guard's opinion of it. */
  user(text) {
    const item = this.#add("user", element("p", { className: "text" }, text));
    const verdicts = element("p", { className: "verdict" });
    return {
      verdict: ({ kind, categories = [] }) => {
        const chips = [element("span", { className: `chip ${kind}` }, VERDICTS[kind])];
        for (const { code, name } of categories) {
          chips.push(element("span", { className: "chip category" }, `${code} ${name}`));
        }
        verdicts.replaceChildren(...chips);
        item.append(verdicts);
        this.#follow();
      },
      withdraw: () => verdicts.remove(),
      remove: () => item.remove(),
    };
  }

  /** What the model writes, piece by piece. Screen readers wait for `finish`. */
  assistant() {
    const text = element("p", { className: "text" });
    const item = this.#add("assistant waiting", text);
    item.setAttribute("aria-busy", "true");
    const settle = () => {
      item.classList.remove("waiting");
      item.setAttribute("aria-busy", "false");
    };
    return {
      append: (piece) => {
        item.classList.remove("waiting");
        text.append(piece);
        this.#follow();
      },
      finish: (whole, facts) => {
        settle();
        text.textContent = whole;
        item.append(element("p", { className: "facts" }, facts));
        this.#follow();
      },
      fail: () => (text.textContent === "" ? item.remove() : settle()),
    };
  }

  note(text) {
    this.#add("note", element("p", {}, text));
  }

  /** An error: what happened, what to do, and the library's own words for those who want them. */
  problem({ what, todo, detail }) {
    const words = element("details", {}, element("summary", {}, "Details"), element("pre", {}, detail));
    const item = this.#add("problem", element("strong", {}, what), element("p", {}, todo), words);
    item.setAttribute("role", "alert");
  }

  #add(className, ...children) {
    const item = element("li", { className }, ...children);
    this.#list.append(item);
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    return item;
  }

  #follow() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    if (scrollHeight - scrollTop - clientHeight < STICKY) this.#scroller.scrollTop = scrollHeight;
  }
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
