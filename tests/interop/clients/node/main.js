// What a Node program does with AMQP 0-9-1.  Usage: node main.js URL [CA [CERTIFICATE KEY]].
// PEM files: with a certificate the login is EXTERNAL.  Prints "ok NAME" for each step.
"use strict";
const amqp = require("amqplib");
const { readFileSync } = require("node:fs");

function expect(what, is) {
  if (!is) throw new Error("failed " + what);
  console.log("ok " + what);
}

function tls(ca, certificate, key) {
  const options = ca ? { ca: [readFileSync(ca)] } : {};
  if (!certificate) return options;
  const credentials = amqp.credentials.external();
  return { ...options, cert: readFileSync(certificate), key: readFileSync(key), credentials };
}

async function main(url, ...files) {
  const connection = await amqp.connect(url, tls(...files));
  const channel = await connection.createConfirmChannel();
  await channel.prefetch(10);
  await channel.assertQueue("node.dead", { durable: true });
  await channel.assertQueue("node.work", { durable: true, deadLetterExchange: "", deadLetterRoutingKey: "node.dead",
    maxPriority: 5 });
  for (let n = 0; n < 100; n++) {
    channel.sendToQueue("node.work", Buffer.from(String(n)), { persistent: true, headers: { n, nested: { a: [1, "b", null, true] } } });
  }
  await channel.waitForConfirms();
  expect("100 persistent publishes are confirmed", true);
  let count = 0;
  await new Promise((resolve, reject) => {
    channel.consume("node.work", (message) => {
      if (message === null) return reject(new Error("cancelled"));
      if (message.content.toString() !== String(count) || message.properties.headers.n !== count) return reject(new Error("order"));
      if (count === 7) channel.nack(message, false, false);
      else channel.ack(message);
      if (++count === 100) resolve();
    }, { consumerTag: "worker" });
  });
  expect("order and headers", true);
  await channel.cancel("worker");
  const letter = await channel.get("node.dead", { noAck: true });
  const death = letter.properties.headers["x-death"][0];
  expect("a dead letter with x-death", death.reason === "rejected" && death.count === 1 && death.time["!"] === "timestamp");
  const returned = new Promise((resolve) => channel.once("return", resolve));
  channel.publish("", "node.nowhere", Buffer.from("x"), { mandatory: true });
  expect("unroutable is returned", (await returned).fields.replyCode === 312);
  const large = Buffer.alloc(5 << 20, "abc");
  channel.sendToQueue("node.dead", large);
  await channel.waitForConfirms();
  expect("five MiB come back", (await channel.get("node.dead", { noAck: true })).content.equals(large));
  for (const priority of [1, 5, 3]) channel.sendToQueue("node.work", Buffer.from(String(priority)), { priority });
  await channel.waitForConfirms();
  const order = [];
  for (let n = 0; n < 3; n++) order.push((await channel.get("node.work", { noAck: true })).content.toString());
  expect("priorities", order.join() === "5,3,1");
  const answered = new Promise((resolve) => channel.consume("amq.rabbitmq.reply-to", resolve, { noAck: true }));
  channel.sendToQueue("node.dead", Buffer.from("ask"), { replyTo: "amq.rabbitmq.reply-to", correlationId: "c" });
  await channel.waitForConfirms();
  const question = await channel.get("node.dead", { noAck: true });
  channel.sendToQueue(question.properties.replyTo, Buffer.from("answer"), { correlationId: "c" });
  expect("direct reply-to", (await answered).content.toString() === "answer");
  await channel.deleteQueue("node.work");
  await channel.deleteQueue("node.dead");
  const bad = await connection.createChannel();
  bad.on("error", () => {});
  let code = 0;
  try { await bad.checkQueue("node.missing"); } catch (error) { code = error.code; }
  expect("a missing queue is 404", code === 404);
  await connection.close();
  console.log("done");
}

main(...process.argv.slice(2)).catch((error) => { console.log("failed", error); process.exit(1); });
