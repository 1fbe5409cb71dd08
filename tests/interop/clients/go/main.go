// What a Go program does with AMQP 0-9-1: declare, confirm, consume, nack, transactions, returns, RPC.
// Usage: amqpclient URL [CA [CERTIFICATE KEY]].  PEM files: with a certificate the login is EXTERNAL.
// Prints "ok NAME" for each step, and exits with 1 at the first that fails.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must(what string, err error) {
	if err != nil {
		fmt.Println("failed", what, err)
		os.Exit(1)
	}
}

func expect(what string, is bool) {
	if !is {
		fmt.Println("failed", what)
		os.Exit(1)
	}
	fmt.Println("ok", what)
}

func take(what string, from <-chan amqp.Delivery) amqp.Delivery {
	select {
	case one, is := <-from:
		if !is {
			fmt.Println("failed", what, "channel closed")
			os.Exit(1)
		}
		return one
	case <-time.After(60 * time.Second):
		fmt.Println("failed", what, "nothing came")
		os.Exit(1)
	}
	panic("unreachable")
}

func dial(arguments []string) (*amqp.Connection, error) {
	if len(arguments) == 1 {
		return amqp.Dial(arguments[0])
	}
	pem, err := os.ReadFile(arguments[1])
	must("ca", err)
	settings := &tls.Config{RootCAs: x509.NewCertPool()}
	expect("an authority", settings.RootCAs.AppendCertsFromPEM(pem))
	config := amqp.Config{TLSClientConfig: settings}
	if len(arguments) == 4 {
		pair, err := tls.LoadX509KeyPair(arguments[2], arguments[3])
		must("certificate", err)
		// Whatever authorities the broker names: it shall say itself what it does not like.
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		config.SASL = []amqp.Authentication{&amqp.ExternalAuth{}}
	}
	return amqp.DialConfig(arguments[0], config)
}

func main() {
	ctx := context.Background()
	connection, err := dial(os.Args[1:])
	must("dial", err)
	channel, err := connection.Channel()
	must("channel", err)
	must("confirm", channel.Confirm(false))
	must("qos", channel.Qos(10, 0, false))

	queue, err := channel.QueueDeclare("go.work", true, false, false, false, amqp.Table{
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "go.dead"})
	must("declare", err)
	_, err = channel.QueueDeclare("go.dead", true, false, false, false, nil)
	must("declare", err)
	for n := 0; n < 100; n++ {
		confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", queue.Name, true, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "text/plain", Body: []byte(fmt.Sprint(n)),
				Headers: amqp.Table{"n": int64(n), "list": []interface{}{"a", int32(1)}}})
		must("publish", err)
		if n == 99 {
			expect("100 persistent publishes are confirmed", confirmation.Wait())
		}
	}
	deliveries, err := channel.Consume(queue.Name, "", false, false, false, false, nil)
	must("consume", err)
	for n := 0; n < 100; n++ {
		one := take("consume", deliveries)
		if string(one.Body) != fmt.Sprint(n) || one.Headers["n"] != int64(n) {
			expect("order and headers", false)
		}
		if n == 7 {
			must("reject", one.Reject(false))
		} else {
			must("ack", one.Ack(false))
		}
	}
	fmt.Println("ok order and headers")
	dead, err := channel.Consume("go.dead", "", true, false, false, false, nil)
	must("consume", err)
	letter := take("dead letter", dead)
	rows, is := letter.Headers["x-death"].([]interface{})
	row := rows[0].(amqp.Table)
	_, isTime := row["time"].(time.Time)
	expect("a dead letter with x-death", is && row["count"] == int64(1) && row["reason"] == "rejected" && isTime)

	returns := channel.NotifyReturn(make(chan amqp.Return, 1))
	must("publish", channel.PublishWithContext(ctx, "", "go.nowhere", true, false, amqp.Publishing{Body: []byte("x")}))
	select {
	case one := <-returns:
		expect("unroutable is returned", one.ReplyCode == 312)
	case <-time.After(60 * time.Second):
		expect("unroutable is returned", false)
	}

	large := make([]byte, 5<<20)
	for n := range large {
		large[n] = byte(n)
	}
	must("publish", channel.PublishWithContext(ctx, "", "go.dead", false, false, amqp.Publishing{Body: large}))
	got := take("large", dead)
	expect("five MiB come back", string(got.Body) == string(large))

	replies, err := channel.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
	must("consume replies", err)
	must("ask", channel.PublishWithContext(ctx, "", "go.dead", false, false,
		amqp.Publishing{ReplyTo: "amq.rabbitmq.reply-to", CorrelationId: "c", Body: []byte("ask")}))
	question := take("question", dead)
	must("answer", channel.PublishWithContext(ctx, "", question.ReplyTo, true, false,
		amqp.Publishing{CorrelationId: question.CorrelationId, Body: []byte("answer")}))
	answer := take("answer", replies)
	expect("direct reply-to", string(answer.Body) == "answer" && answer.CorrelationId == "c" &&
		strings.HasPrefix(question.ReplyTo, "amq.rabbitmq.reply-to."))

	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	_, err = channel.QueueDeclare("go.work", false, false, false, false, nil)
	reason := <-closed
	expect("a different declaration is refused", err != nil && reason.Code == 406)

	other, err := connection.Channel()
	must("channel", err)
	must("tx", other.Tx())
	must("publish", other.PublishWithContext(ctx, "", "go.work", false, false, amqp.Publishing{Body: []byte("lost")}))
	must("rollback", other.TxRollback())
	must("publish", other.PublishWithContext(ctx, "", "go.work", false, false, amqp.Publishing{Body: []byte("kept")}))
	must("commit", other.TxCommit())
	kept, is, err := other.Get("go.work", true)
	must("get", err)
	expect("a transaction", is && string(kept.Body) == "kept")
	for _, name := range []string{"go.work", "go.dead"} {
		_, err = other.QueueDelete(name, false, false, false)
		must("delete", err)
	}
	must("close", connection.Close())
	fmt.Println("done")
}
