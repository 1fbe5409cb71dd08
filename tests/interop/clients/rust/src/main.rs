// What a Rust program does with AMQP 0-9-1.  Usage: amqpclient URL [CA [P12 PASSWORD]].  CA is PEM, P12 a certificate with its key;
// with one the login is EXTERNAL.  Prints "ok NAME" for each step.
use futures_lite::stream::StreamExt;
use lapin::{
    auth::SASLMechanism, options::*, tcp::{OwnedIdentity, OwnedTLSConfig},
    types::{AMQPValue, FieldTable, LongString, ShortString}, uri::AMQPUri, BasicProperties, Connection,
    ConnectionProperties,
};

fn expect(what: &str, is: bool) {
    if !is {
        println!("failed {what}");
        std::process::exit(1);
    }
    println!("ok {what}");
}

/// The URL, and how to speak TLS to it.
fn place(words: &[String]) -> (AMQPUri, OwnedTLSConfig) {
    let mut uri: AMQPUri = words[0].parse().expect("a URL");
    // It takes names only, and localhost for an address.
    let host = words[0].split("//").nth(1).and_then(|rest| rest.split('/').next()).expect("a host");
    let host = host.rsplit('@').next().and_then(|rest| rest.split(':').next()).expect("a host");
    uri.authority.host = host.into();
    let mut tls = OwnedTLSConfig::default();
    if let Some(ca) = words.get(1) {
        tls.cert_chain = Some(std::fs::read_to_string(ca).expect("a CA"));
    }
    if let (Some(p12), Some(password)) = (words.get(2), words.get(3)) {
        let der = std::fs::read(p12).expect("a P12 file");
        tls.identity = Some(OwnedIdentity { der, password: password.clone() });
        uri.query.auth_mechanism = Some(SASLMechanism::External);
    }
    (uri, tls)
}

async fn run(words: &[String]) -> lapin::Result<()> {
    let (uri, tls) = place(words);
    let connection = Connection::connect_uri_with_config(uri, ConnectionProperties::default(), tls).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    channel.basic_qos(10, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(LongString::from("")));
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(LongString::from("rust.dead")));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("rust.work", durable, arguments).await?;
    channel.queue_declare("rust.dead", durable, FieldTable::default()).await?;
    let mut confirms = Vec::new();
    for n in 0..100 {
        let properties = BasicProperties::default().with_delivery_mode(2).with_content_type(ShortString::from("text/plain"));
        let body = format!("{n}").into_bytes();
        confirms.push(channel.basic_publish("", "rust.work", BasicPublishOptions::default(), &body, properties).await?);
    }
    let mut all = true;
    for confirm in confirms {
        all = all && confirm.await?.is_ack();
    }
    expect("100 persistent publishes are confirmed", all);
    let mut consumer = channel
        .basic_consume("rust.work", "worker", BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    for n in 0..100 {
        let delivery = consumer.next().await.expect("a delivery")?;
        if delivery.data != format!("{n}").into_bytes() {
            expect("order", false);
        }
        if n == 7 {
            delivery.reject(BasicRejectOptions { requeue: false }).await?;
        } else {
            delivery.ack(BasicAckOptions::default()).await?;
        }
    }
    expect("order", true);
    let got = BasicGetOptions { no_ack: true };
    // A get on the same channel is behind the acknowledgements.
    let letter = channel.basic_get("rust.dead", got).await?.expect("a dead letter");
    let headers = letter.delivery.properties.headers().clone().expect("headers");
    let death = match headers.inner().get("x-death").expect("x-death") {
        AMQPValue::FieldArray(rows) => match &rows.as_slice()[0] {
            AMQPValue::FieldTable(row) => row.clone(),
            _ => panic!("a row is a table"),
        },
        _ => panic!("x-death is an array"),
    };
    expect(
        "a dead letter with x-death",
        matches!(death.inner().get("count"), Some(AMQPValue::LongLongInt(1)))
            && matches!(death.inner().get("time"), Some(AMQPValue::Timestamp(_))),
    );
    let large: Vec<u8> = (0..5usize << 20).map(|n| n as u8).collect();
    channel
        .basic_publish("", "rust.dead", BasicPublishOptions::default(), &large, BasicProperties::default())
        .await?
        .await?;
    let back = channel.basic_get("rust.dead", got).await?.expect("the large one");
    expect("five MiB come back", back.delivery.data == large);
    let returning = channel
        .basic_publish("", "rust.nowhere", BasicPublishOptions { mandatory: true, ..Default::default() }, b"x", BasicProperties::default())
        .await?
        .await?;
    expect("unroutable is returned", returning.take_message().is_some());
    for name in ["rust.work", "rust.dead"] {
        channel.queue_delete(name, QueueDeleteOptions::default()).await?;
    }
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let missing = channel.queue_declare("rust.missing", passive, FieldTable::default()).await;
    expect("a missing queue is refused", missing.is_err());
    connection.close(200, "bye").await?;
    println!("done");
    Ok(())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    assert!(!words.is_empty(), "usage: amqpclient URL [CA [P12 PASSWORD]]");
    if let Err(error) = async_global_executor::block_on(run(&words)) {
        println!("failed {error}");
        std::process::exit(1);
    }
}
