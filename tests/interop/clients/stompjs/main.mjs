// @stomp/stompjs over WebSocket: login, text and binary, receipts, ack and nack, transactions, selectors, browsing, close.
// Usage: npm install; node main.mjs URL [LOGIN PASSCODE [CA [CERTIFICATE KEY]]].  PEM files: with a certificate nothing is said of a
// login.  Prints "ok N"; exits with 1 and a reason otherwise.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { Client } = require("@stomp/stompjs");
const { WebSocket } = require("ws");
globalThis.WebSocket = globalThis.WebSocket ?? WebSocket;

const [url, login = "guest", passcode = "guest", ca, certificate, key] = process.argv.slice(2);

const queue = `/queue/stompjs-${process.pid}-${Date.now()}`;
let checks = 0;
const fail = (text) => { console.error(text); process.exit(1); };
const check = (is, text) => { if (!is) fail(text); checks += 1; };
setTimeout(() => fail("timeout"), 90000);

const client = new Client({
  brokerURL: url,
  connectHeaders: certificate ? { host: "/" } : { login, passcode, host: "/" },
  reconnectDelay: 0,
  heartbeatIncoming: 3000,
  heartbeatOutgoing: 3000,
  onStompError: (frame) => fail(`ERROR ${frame.headers.message}: ${frame.body}`),
});
if (ca) {
  // A browser takes both from its own store; here the socket is made by hand.
  const files = { ca: readFileSync(ca), cert: certificate && readFileSync(certificate), key: key && readFileSync(key) };
  client.webSocketFactory = () => new WebSocket(url, ["v12.stomp"], files);
  client.onWebSocketError = (event) => fail(`WebSocket: ${event.message}`);
}
const receipt = (act) => new Promise((done) => {
  const id = `r${checks}-${Math.random()}`;
  client.watchForReceipt(id, done);
  act(id);
});
const inbox = [];
const waiting = [];
const got = (message) => (waiting.length ? waiting.shift()(message) : inbox.push(message));
const next = () => new Promise((done) => (inbox.length ? done(inbox.shift()) : waiting.push(done)));
const connected = new Promise((done) => { client.onConnect = done; });
client.activate();

const frame = await connected;
check(frame.headers.version === "1.2", `version ${frame.headers.version}`);
let subscription = client.subscribe(queue, got, { ack: "client-individual" });
await receipt((id) => client.publish({ destination: queue, body: "héllo\n", headers: { receipt: id, "ab": "c\\d:\n", persistent: "true" } }));
let message = await next();
check(message.body === "héllo\n" && message.headers.ab === "c\\d:\n", "text");
message.nack();
message = await next();
check(message.headers.redelivered === "true", "redelivered");
message.ack();
const bytes = new Uint8Array([0, 255, 254, 10, 0]);
client.publish({ destination: queue, binaryBody: bytes, headers: { "content-type": "application/octet-stream" } });
message = await next();
check(Buffer.compare(Buffer.from(message.binaryBody), Buffer.from(bytes)) === 0, "binary");
message.ack();
const big = "x".repeat(300000);
for (let n = 0; n < 20; n += 1) client.publish({ destination: queue, body: `${n}${big}` });
for (let n = 0; n < 20; n += 1) {
  message = await next();
  check(message.body.length === `${n}${big}`.length && message.body.startsWith(`${n}x`), `big ${n}`);
  message.ack();
}
const transaction = client.begin();
client.publish({ destination: queue, body: "committed", headers: { transaction: transaction.id } });
transaction.commit();
message = await next();
check(message.body === "committed", "transaction");
message.ack();
subscription.unsubscribe();
subscription = client.subscribe(queue, got, { selector: "n = 2" });
for (const n of ["1", "2"]) client.publish({ destination: queue, body: n, headers: { n } });
message = await next();
check(message.body === "2", "selector");
subscription.unsubscribe();
client.subscribe(queue, got, { browser: "true" });
message = await next();
check(message.body === "1", "browse");
message = await next();
check(message.headers.browser === "end", "the browser's end");
await new Promise((done) => setTimeout(done, 4000));
check(client.connected, "heart-beats");
const closed = new Promise((done) => { client.onWebSocketClose = done; });
await client.deactivate();
const event = await closed;
check(event.code === 1000, `close code ${event.code}`);
console.log(`ok ${checks}`);
process.exit(0);
