/* Sections fold, and stay so in this browser. */

function fold(section, folded) {
  section.dataset.folded = folded;
  section.querySelector("h2 button").setAttribute("aria-expanded", !folded);
}

for (const section of document.querySelectorAll("main > section:not(.hint)")) {
  const heading = section.querySelector("h2");
  const button = make("button", "folds", heading.textContent);
  heading.replaceChildren(button);
  fold(section, localStorage.getItem(section.id) === "folded");
  button.addEventListener("click", () => {
    const folded = section.dataset.folded !== "true";
    fold(section, folded);
    localStorage.setItem(section.id, folded ? "folded" : "open");
  });
}
