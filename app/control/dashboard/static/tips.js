/* What a word means, by hovering over it or by focusing it. */

const TIPS = {
  Status: "Idle, busy and at work are well; a click on the name says why one is not",
  "In flight": "Requests that a server has now, of as many as it may have",
  Slots: "Requests that a llama.cpp server works on at once: filled is at work (orange for others), framed holds a prompt",
  GPU: "The highest load of the last five seconds, as the machine's agent tells it",
  Loaded: "Models that are in its memory now",
  "Reads tokens/s": "How fast it reads what is in no cache of a prompt, as measured",
  "Writes tokens/s": "Half of its last responses came faster",
  "First token": "From a request's arrival until something could be read; of a server, half of its last streams took less",
  Waited: "In the queue, for a place at a server",
  Tokens: "Those of the prompt, and those of the response",
  Took: "From a request's arrival to the end of its response",
  Outcome: "Red ones failed, or were turned away",
  "From caches": "Tokens of prompts that no server had to read",
};

const tip = make("div", "tip");
tip.id = "tip";
tip.role = "tooltip";
tip.hidden = true;
document.body.append(tip);

for (const head of document.querySelectorAll("thead th")) {
  const text = TIPS[head.textContent];
  if (!text) continue;
  const word = head.querySelector("button") || head;
  word.dataset.tip = text;
  word.setAttribute("aria-description", text);
  if (word === head) head.tabIndex = 0;
}

function explain(event) {
  const word = event.target.closest && event.target.closest("[data-tip]");
  tip.hidden = !word;
  if (!word) return;
  set(tip, word.dataset.tip);
  const box = word.getBoundingClientRect();
  tip.style.setProperty("left", `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`);
  tip.style.setProperty("top", `${box.bottom + 6}px`);
}

for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, explain);
document.addEventListener("focusout", () => (tip.hidden = true));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tip.hidden = true;
});
