/* Who used how much: asked for now and then, as it changes slowly and is long. */

const USAGE_PAUSE = 30000;
const usage = { rows: [], days: 0, at: 0 };

async function readUsage() {
  const days = Number($("usage-days").value);
  if (days === usage.days && Date.now() - usage.at < USAGE_PAUSE) return;
  Object.assign(usage, { days, at: Date.now() });
  const response = await fetch(`/llmhealth-usage?days=${days}`).catch(() => null);
  $("usage-part").hidden = !(response && response.ok);
  if (!response || !response.ok) return;
  usage.rows = (await response.json()).usage;
  showUsage();
}

function showUsage() {
  const by = $("usage-by").value;
  const sums = new Map();
  for (const row of usage.rows) {
    const name = row[by] || "–";
    const sum = sums.get(name) || { name, requests: 0, failed: 0, prompt_tokens: 0, cached_tokens: 0, generated_tokens: 0 };
    for (const key of ["requests", "failed", "prompt_tokens", "cached_tokens", "generated_tokens"]) sum[key] += row[key];
    sums.set(name, sum);
  }
  const tokensOf = (sum) => sum.prompt_tokens + sum.generated_tokens;
  const sorted = [...sums.values()].sort((a, b) => (by === "day" ? (a.name < b.name ? 1 : -1) : tokensOf(b) - tokensOf(a))).slice(0, 50);
  const most = Math.max(1, ...sorted.map(tokensOf));
  set($("usage-name"), $("usage-by").selectedOptions[0].textContent);
  rows($("usage"), sorted, (sum) => sum.name, (sum) => [sum.name, sum.requests, sum.failed || null, compact(sum.prompt_tokens),
    sum.prompt_tokens ? percent(100 * sum.cached_tokens / sum.prompt_tokens) : null, compact(sum.generated_tokens)]);
  for (const [index, sum] of sorted.entries()) {
    $("usage").children[index].firstChild.style.setProperty("--share", `${(100 * tokensOf(sum)) / most}%`);
  }
  $("usage-csv").href = `/llmhealth-usage?days=${usage.days}&format=csv`;
}

$("usage-days").addEventListener("input", readUsage);
$("usage-by").addEventListener("input", showUsage);
