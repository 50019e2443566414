// Markdown to elements that cannot run, load or imitate anything: HTML in a text is shown as text,
// and what is left is sanitised before it comes near the page.

import { Marked } from "./vendor/marked-18.2.1/marked.esm.js";
import DOMPurify from "./vendor/dompurify-3.5.0/purify.es.mjs";

const TAGS = [
  "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code",
  "em", "strong", "del", "a", "table", "thead", "tbody", "tr", "th", "td",
];
const LANGUAGE = /^language-[\w+#.-]{1,30}$/;

const escaped = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ href, text }) => escaped(`![${text}](${href})`),  // nothing is loaded from elsewhere
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A" && node.hasAttribute("href")) {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
  if (node.hasAttribute("class") && (node.nodeName !== "CODE" || !LANGUAGE.test(node.className))) {
    node.removeAttribute("class");
  }
});

// Returns the elements of a text.
export function render(text) {
  const fragment = DOMPurify.sanitize(marked.parse(text), {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "title", "start", "align", "class"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const block of fragment.querySelectorAll("pre")) addBar(block);
  for (const table of fragment.querySelectorAll("table")) {
    const box = document.createElement("div");
    box.className = "wide-table";
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "Table");
    table.replaceWith(box);
    box.append(table);
  }
  return fragment;
}

// Puts a bar with the language and a button above a block of code.
function addBar(block) {
  const box = document.createElement("div"), bar = document.createElement("div");
  const language = document.createElement("span"), button = document.createElement("button");
  const code = block.querySelector("code");
  box.className = "code";
  bar.className = "bar";
  language.textContent = code?.className.replace("language-", "") || "code";
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy code");
  button.dataset.action = "copy-code";
  bar.append(language, button);
  block.replaceWith(box);
  block.tabIndex = 0;  // so that what is wider than the page can be scrolled by key
  box.append(bar, block);
}
