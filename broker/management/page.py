"""The status page at `/`: one static page that reads /api and shows queues and counters.

A larger console is not built yet.  Everything shown is written as text, never as markup.
"""

from __future__ import annotations

from typing import Final

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>gridmsg</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.3rem; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #ddd; }
td.n, th.n { text-align: right; } .bad { color: #a00; }
</style></head><body>
<h1 id="title">gridmsg</h1><p id="line">…</p>
<table><thead><tr><th>Queue</th><th class="n">Ready</th><th class="n">Unacknowledged</th>
<th class="n">Consumers</th></tr></thead><tbody id="queues"></tbody></table>
<p><a href="/api/overview">/api/overview</a> · <a href="/metrics">/metrics</a> ·
<a href="/health/ready">/health/ready</a></p>
<script>
const show = (id, text) => { document.getElementById(id).textContent = text; };
async function look() {
  try {
    const get = async path => {
      const answer = await fetch(path);
      if (!answer.ok) throw new Error(path + ": " + answer.status);
      return answer.json();
    };
    const overview = await get("/api/overview"), queues = await get("/api/queues");
    const own = overview.gridmsg, counters = own.counters;
    show("title", overview.node);
    show("line", `${own.role}, epoch ${own.epoch}, ${overview.object_totals.connections} connections; ` +
      `${counters.published_count} published, ${counters.delivered_count} delivered since start` +
      (own.is_blocked ? " - PUBLISHERS ARE BLOCKED" : ""));
    document.getElementById("line").className = own.is_blocked ? "bad" : "";
    const body = document.createElement("tbody");
    body.id = "queues";
    for (const queue of queues) {
      const row = body.insertRow();
      [queue.name, queue.messages_ready, queue.messages_unacknowledged, queue.consumers].forEach((value, index) => {
        const cell = row.insertCell();
        cell.textContent = value;
        if (index) cell.className = "n";
      });
    }
    document.getElementById("queues").replaceWith(body);
  } catch (error) { show("line", String(error)); }
  setTimeout(look, 2000);
}
look();
</script></body></html>
""".encode()
