/* The requests under way, and the last ones that have ended. */

const STATES = {
  reading: "is read", parsing: "is read", refused: "is refused", queued: "waits", dialling: "connects",
  sent: "its prompt is read", responding: "responds", ended: "ends",
};
const OUTCOMES = {
  success: "done", client_error: "was wrong", upstream_error: "server failed", timeout: "timed out",
  rejected: "turned away", client_disconnect: "client left", internal_error: "balancer failed",
};
const FAULTS = {
  connect: "refused the connection", connect_timeout: "did not connect", read_timeout: "kept silent", reset: "broke off",
  protocol: "spoke no HTTP", status_429: "had too much to do (429)", status_5xx: "failed (5xx)", context: "has too short a context",
};
const FAILED = new Set(["upstream_error", "timeout", "rejected", "internal_error", "client_error"]);
const MOST_ENDED = 500;
const PAGE = 25;

const log = { underWay: [], ended: [], shown: PAGE, open: new Set() };

/* The first news after a connection hold all that there is. */
function takeRequests(news, first) {
  if (first) log.ended = [];
  if (news.under_way) log.underWay = news.under_way;
  const last = log.ended.length ? log.ended[0].number : 0;
  const others = news.ended.filter((one) => one.number > last).reverse();
  log.ended = [...others, ...log.ended].slice(0, MOST_ENDED);
}

const brief = (seconds) => (seconds < 0.01 ? `${Math.round(1000 * seconds)} ms` : seconds < 10 ? `${seconds.toFixed(seconds < 1 ? 2 : 1)} s` : age(seconds));
const known = (seconds) => (seconds === null || seconds === undefined ? null : brief(seconds));
const who = (one) => one.username || one.client;
const place = (one) => (!one.server ? null : one.slot === null ? one.server : `${one.server}, slot ${one.slot}`);
const outcome = (one) => (one.outcome ? (FAILED.has(one.outcome) ? `${OUTCOMES[one.outcome]} (${one.status})` : OUTCOMES[one.outcome]) : STATES[one.state]);
const reason = (one) => one.reason.replaceAll("_", " ") + (one.held_seconds ? `, after ${brief(one.held_seconds)} beside held places` : "");

const weighed = (place) => `${place.server}: ${brief(place.read_seconds)} to read${place.others_seconds ? `, ${brief(place.others_seconds)} for others` : ""}`;

function speed(one) {
  if (!one.tokens || one.tokens.completion < 2) return null;
  const wrote = one.first_token_seconds === null ? null : one.seconds - one.first_token_seconds;
  return wrote ? (one.tokens.completion - 1) / wrote : null;
}

function tokens(one) {
  if (!one.tokens) return null;
  const about = one.tokens.estimated ? "about " : "";
  return `${about}${compact(one.tokens.prompt)} → ${compact(one.tokens.completion)}`;
}

/* Where the time went: what it waited for, one after another, in seconds. */
function phases(one) {
  const begun = one.sent_seconds === null ? one.seconds : one.sent_seconds;
  return [
    ["body", "Body", Math.min(one.read_seconds, begun)],
    ["queue", "Queue", one.wait_seconds],
    ["connect", "Server found and connected", Math.max(0, begun - one.read_seconds - one.wait_seconds)],
    ["load", "Model loaded", one.load_seconds],
    ["prompt", "Prompt", one.prompt_seconds],
    ["answer", one.prompt_seconds || one.first_token_seconds !== null ? "Response" : "Prompt and response", one.seconds - begun - one.load_seconds - one.prompt_seconds],
  ].filter(([, , seconds]) => seconds > 0.01 * one.seconds);  // less could not be seen
}

function wanted(one) {
  const asked = $("requests-client").value.trim().toLowerCase();
  const result = $("requests-outcome").value;
  const failed = FAILED.has(one.outcome);
  return (!$("requests-model").value || one.model === $("requests-model").value)
    && (!$("requests-server").value || one.server === $("requests-server").value)
    && (!asked || [one.client, one.username || "", one.session, one.id].some((text) => text.toLowerCase().includes(asked)))
    && (!result || (result === "failed" ? failed : result === "under way" ? !one.outcome : one.outcome === result));
}

function choices(select, all, values) {
  keep(select, ["", ...values], (value) => `choice ${value}`, (value) => {
    const option = make("option");
    option.value = value;
    return option;
  }, (option, value) => set(option, value || all));
}

function showRequests(now) {
  const all = [...[...log.underWay].reverse(), ...log.ended];
  $("requests-part").hidden = !all.length;
  if (!all.length) return;
  const names = (of) => [...new Set(all.map(of).filter(Boolean))].sort();
  choices($("requests-model"), "all models", names((one) => one.model));
  choices($("requests-server"), "all servers", names((one) => one.server));
  const failed = log.ended.filter((one) => FAILED.has(one.outcome)).length;
  const waiting = log.underWay.filter((one) => one.state === "queued").length;
  set($("requests-flying"), `${log.underWay.length} under way${waiting ? `, ${waiting} of them waiting` : ""}`);
  set($("requests-ended"), `${log.ended.length} ended`);
  set($("requests-failed"), `${failed} failed`);
  $("requests-failed").dataset.some = failed > 0;
  const found = all.filter(wanted);
  const shown = found.slice(0, log.shown);
  const listed = shown.flatMap((one) => {
    const key = `${one.id} ${one.at}`;
    return log.open.has(key) ? [{ one, key }, { one, key, detail: true }] : [{ one, key }];
  });
  keep($("requests"), listed.length ? listed : [null], (item) => (item === null ? "none" : `${item.detail ? "detail" : "row"} ${item.key}`),
    requestRow, (row, item) => fillRequest(row, item, now));
  $("requests-more").hidden = found.length <= log.shown;
  set($("requests-more"), `Show ${Math.min(PAGE, found.length - log.shown)} more of ${found.length}`);
}

const HEADS = ["Time", "Model", "Server", "Client", "Outcome", "Waited", "First token", "Tokens", "Tokens/s", "Took"];

function requestRow(item) {
  const row = make("tr");
  if (item === null || item.detail) {
    const cell = make("td", item === null ? "none" : "detail", item === null ? "no such requests" : undefined);
    cell.colSpan = HEADS.length;
    row.append(cell);
    return row;
  }
  HEADS.forEach((label, index) => {
    const cell = make("td", index > 4 ? "number" : "");
    cell.dataset.label = label;
    const text = make(index ? "span" : "button", index ? "" : "opens");
    if (!index) text.addEventListener("click", () => {
      if (!log.open.delete(row.dataset.request)) log.open.add(row.dataset.request);
      showRequests(shownAt);
    });
    cell.append(text);
    row.append(cell);
  });
  return row;
}

function fillRequest(row, item, now) {
  if (item === null) return;
  const { one, key, detail } = item;
  row.dataset.request = key;
  row.dataset.is = !one.outcome ? "flying" : FAILED.has(one.outcome) ? "failed" : "ended";
  if (detail) {
    fillDetail(row.firstChild, one, now);
    return;
  }
  const rate = speed(one);
  const cells = [new Date(one.at).toLocaleTimeString(), one.model, place(one), who(one), outcome(one), known(one.wait_seconds || null),
    known(one.first_token_seconds), tokens(one), rate && rate.toFixed(1), one.outcome ? brief(one.seconds) : age(since(now, one.at))];
  cells.forEach((text, index) => {
    row.children[index].classList.toggle("blank", text === null);
    labelled(row.children[index].firstChild, text);
  });
  row.firstChild.firstChild.setAttribute("aria-expanded", log.open.has(key));
}

function fillDetail(cell, one, now) {
  if (one.outcome) timeline(cell, one);
  const used = one.tokens;
  const pairs = [
    ["Why there", one.reason ? reason(one) : null],
    ["Expected in its cache", one.expected_share === null ? null : percent(100 * one.expected_share)],
    ["First token, expected", known(one.expected_seconds)],
    ["Servers considered", one.considered.length > 1 ? one.considered.map(weighed).join("; ") : null],
    ["Prompt", used && `${compact(used.prompt)} tokens${used.cached === null ? "" : `, ${compact(used.cached)} of them from the cache`}`],
    ["Instance", one.instance !== one.model ? one.instance : null],
    ["Asked for", one.asked_model || null],
    ["Changed in the conversation", one.change && `${CHANGES[one.change.kind]}, message ${one.change.message + 1}`],
    ["Tried before", one.failures.map((failure) => `${failure.server} ${FAULTS[failure.fault] || failure.fault}`).join(", ") || null],
    ["Error", one.error || null],
    ["Key or address", one.client], ["Session", one.session || null], ["Path", one.path],
    ["Began", `${new Date(one.at).toLocaleString()}, ${age(since(now, one.at))} ago`], ["Id", one.id],
  ].filter(([, value]) => value !== null);
  facts(cell, pairs);
  let button = cell.querySelector("button");
  if (!button) {
    cell.append((button = make("button", "", "Cancel this request")));
    button.addEventListener("click", () => order("DELETE", `/llmhealth-requests/${encodeURIComponent(button.dataset.id)}`, "Cancel this request"));
  }
  button.dataset.id = one.id;
  button.hidden = Boolean(one.outcome) || !mayOrder;
}

function timeline(cell, one) {
  let line = cell.querySelector(".timeline");
  if (!line) cell.append((line = make("div", "timeline")));
  const total = one.seconds || 1;
  keep(line, phases(one), ([name]) => name, ([name]) => {
    const part = make("span");
    part.dataset.is = name;
    return part;
  }, (part, [, label, seconds]) => {
    part.style.setProperty("flex-grow", Math.max(0.02, seconds / total));
    labelled(part, `${label} ${brief(seconds)}`);
  });
}

for (const id of ["requests-model", "requests-server", "requests-outcome", "requests-client"]) {
  $(id).addEventListener("input", () => {
    log.shown = PAGE;
    showRequests(shownAt);
  });
}
$("requests-more").addEventListener("click", () => {
  log.shown += PAGE;
  showRequests(shownAt);
});
