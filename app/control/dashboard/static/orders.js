/* What the page has the balancer do; a session needs no key, else the dialog asks for the admin key. */

async function order(method, path, what) {
  let key = sessionStorage.getItem("key");
  let text = "";
  do {
    const answer = await fetch(path, { method, headers: key ? { authorization: `Bearer ${key}` } : {} }).catch(() => null);
    if (answer && answer.ok) {
      if (key) sessionStorage.setItem("key", key);
      return;
    }
    const shown = key;
    if (answer && answer.status === 401) sessionStorage.removeItem("key");
    if (!answer) text = "The balancer does not respond.";
    else if (answer.status === 401) text = shown ? "This is not the admin key." : "";
    else text = await answer.json().then((told) => told.error.message, () => `Status ${answer.status}.`);
    key = await askKey(what, text);
  } while (key !== null);
}

/* Return what was typed, or null. */
function askKey(what, text) {
  const dialog = $("ask");
  set($("ask-what"), what);
  set($("ask-error"), text);
  $("ask-key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const key = dialog.returnValue === "go" ? $("ask-key").value : null;
      $("ask-key").value = "";
      resolve(key);
    }, { once: true });
  });
}
