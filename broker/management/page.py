"""The status page at `/`: one static page that reads /api and shows what `gridmsg status` does, every two seconds.

A larger console is not built yet.  Everything shown is written as text, never as markup.
Tests: tests/unit/broker/management/test_api.py.
"""

from __future__ import annotations

from typing import Final

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>gridmsg</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #8884; --faint: #777; --bad: #c22; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
#line { margin: .2rem 0 0; color: var(--faint); } .bad, #line.bad { color: var(--bad); font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--faint); } th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
tr > :first-child { padding-left: 0; } td.n, th.n { text-align: right; }
footer { margin-top: 1.6rem; color: var(--faint); }
</style></head><body>
<h1 id="title">gridmsg</h1><p id="line" role="status">asking the broker …</p>
<table><tbody id="facts"></tbody></table>
<h2>Queues</h2>
<table><thead><tr><th>Name</th><th class="n">Ready</th><th class="n">Unacknowledged</th>
<th class="n">Consumers</th></tr></thead><tbody id="queues"></tbody></table>
<footer><a href="/api/overview">/api/overview</a> · <a href="/api/queues">/api/queues</a> · <a href="/metrics">/metrics</a> ·
<a href="/health/ready">/health/ready</a> · on the command line: <code>gridmsg status</code></footer>
<script>
const byId = id => document.getElementById(id);
const show = (text, isBad) => { byId("line").textContent = text; byId("line").className = isBad ? "bad" : ""; };
const get = async path => {
  // By its origin: the page's own address may hold a login, which fetch refuses.
  const answer = await fetch(location.origin + path);
  if (!answer.ok) throw new Error(path + " answered " + answer.status);
  return answer.json();
};
const fill = (id, rows) => {
  const body = document.createElement("tbody");
  body.id = id;
  for (const { cells, isBad } of rows) {
    const row = body.insertRow();
    if (isBad) row.className = "bad";
    for (const value of cells) {
      const cell = row.insertCell();
      const isNumber = typeof value === "number";
      cell.textContent = isNumber ? value.toLocaleString("en") : value;
      if (isNumber) cell.className = "n";
    }
  }
  byId(id).replaceWith(body);
};
let before = null;
const rate = (counters, name, now) => {
  const total = counters[name].toLocaleString("en");
  if (before === null || before.counters[name] > counters[name]) return total;
  const perSecond = (counters[name] - before.counters[name]) * 1000 / (now - before.now);
  return total + " (" + perSecond.toFixed(0) + "/s)";
};
async function look() {
  try {
    const [overview, queues] = await Promise.all([get("/api/overview"), get("/api/queues")]);
    const own = overview.gridmsg, counters = own.counters, totals = overview.object_totals, now = performance.now();
    byId("title").textContent = document.title = overview.node;
    if (own.is_blocked) show("publishers are blocked: the store waits for space", true);
    else show(own.role + ", epoch " + own.epoch + ", version " + overview.product_version, own.role !== "active");
    const dead = queues.filter(one => one.name === "dead-letter").reduce((sum, one) => sum + one.messages, 0);
    fill("facts", [
      { cells: ["Data folder", own.data] },
      { cells: ["Listens", overview.listeners.map(one => one.protocol + " " + one.ip_address + ":" + one.port).join(", ")] },
      { cells: ["Holds", totals.connections + " connections, " + totals.consumers + " consumers, " +
        totals.queues + " queues, " + totals.exchanges + " exchanges"] },
      { cells: ["Published", rate(counters, "published_count", now)] },
      { cells: ["Delivered", rate(counters, "delivered_count", now)] },
      { cells: ["Unroutable", rate(counters, "unroutable_count", now)] },
      { cells: ["Dead letters", dead ? dead + " (gridmsg deadletter list)" : "none"], isBad: dead > 0 },
    ]);
    fill("queues", queues.map(one => ({
      cells: [one.name, one.messages_ready, one.messages_unacknowledged, one.consumers],
      isBad: one.name === "dead-letter" && one.messages > 0,
    })));
    before = { counters, now };
  } catch (error) {
    before = null;
    show(error instanceof TypeError ? "the broker does not answer" : error.message, true);
  }
  setTimeout(look, 2000);
}
look();
</script></body></html>
""".encode()
