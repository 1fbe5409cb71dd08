// go-stomp against the broker: versions, acks, nacks, transactions, receipts, selectors.
// Usage: gostomp HOST:PORT LOGIN PASSCODE [CA [CERTIFICATE KEY]].  PEM files: with a certificate nothing is said of a login.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/go-stomp/stomp/v3"
	"github.com/go-stomp/stomp/v3/frame"
)

func must(err error, what string) {
	if err != nil {
		fmt.Println(what+":", err)
		os.Exit(1)
	}
}

func dial(arguments []string, options ...func(*stomp.Conn) error) (*stomp.Conn, error) {
	if len(arguments) < 6 {
		options = append(options, stomp.ConnOpt.Login(arguments[1], arguments[2]))
	}
	if len(arguments) == 3 {
		return stomp.Dial("tcp", arguments[0], options...)
	}
	pem, err := os.ReadFile(arguments[3])
	must(err, "ca")
	settings := &tls.Config{RootCAs: x509.NewCertPool()}
	settings.RootCAs.AppendCertsFromPEM(pem)
	if len(arguments) == 6 {
		pair, err := tls.LoadX509KeyPair(arguments[4], arguments[5])
		must(err, "certificate")
		// Whatever authorities the broker names: it shall say itself what it does not like.
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	socket, err := tls.Dial("tcp", arguments[0], settings)
	must(err, "TLS")
	return stomp.Connect(socket, options...)
}

func next(sub *stomp.Subscription, want string) *stomp.Message {
	select {
	case m, ok := <-sub.C:
		if !ok || m.Err != nil {
			fmt.Println(want, "expected, the subscription ended:", m)
			os.Exit(1)
		}
		if string(m.Body) != want {
			fmt.Printf("%q expected, got %q\n", want, m.Body)
			os.Exit(1)
		}
		return m
	case <-time.After(60 * time.Second):
		fmt.Println(want, "expected, nothing came")
		os.Exit(1)
	}
	return nil
}

func main() {
	for _, version := range []stomp.Version{stomp.V10, stomp.V11, stomp.V12} {
		queue := fmt.Sprintf("/queue/gostomp-%s-%d", version, time.Now().UnixNano())
		conn, err := dial(os.Args[1:], stomp.ConnOpt.Host("/"),
			stomp.ConnOpt.AcceptVersion(version), stomp.ConnOpt.HeartBeat(3*time.Second, 3*time.Second),
			stomp.ConnOpt.HeartBeatError(30*time.Second),
			// With a timeout, go-stomp 3.1.3 loses a RECEIPT that is quicker than its own wait.
			stomp.ConnOpt.UnsubscribeReceiptTimeout(0))
		must(err, "dial")
		if conn.Version() != version {
			fmt.Println(version, "asked for, got", conn.Version())
			os.Exit(1)
		}
		sub, err := conn.Subscribe(queue, stomp.AckClientIndividual)
		must(err, "subscribe")
		must(conn.Send(queue, "text/plain", []byte("one"), stomp.SendOpt.Receipt,
			stomp.SendOpt.Header("persistent", "true"), stomp.SendOpt.Header("k", "v:\\")), "send")
		m := next(sub, "one")
		if m.Header.Get("k") != "v:\\" && version != stomp.V10 {
			fmt.Printf("header: %q\n", m.Header.Get("k"))
			os.Exit(1)
		}
		if version.SupportsNack() {
			must(conn.Nack(m), "nack")
			m = next(sub, "one")
		}
		must(conn.Ack(m), "ack")
		tx := conn.Begin()
		must(tx.Send(queue, "text/plain", []byte("two")), "send in a transaction")
		must(tx.Commit(), "commit")
		m = next(sub, "two")
		tx = conn.Begin()
		must(tx.Ack(m), "ack in a transaction")
		must(tx.Commit(), "commit")
		must(sub.Unsubscribe(), "unsubscribe")
		sub, err = conn.Subscribe(queue, stomp.AckAuto, stomp.SubscribeOpt.Header("selector", "n = 2"))
		must(err, "subscribe with a selector")
		for _, n := range []string{"1", "2"} {
			must(conn.Send(queue, "text/plain", []byte(n), stomp.SendOpt.Header("n", n)), "send")
		}
		m = next(sub, "2")
		if m.Header.Get(frame.ContentLength) != "1" {
			fmt.Println("content-length:", m.Header.Get(frame.ContentLength))
			os.Exit(1)
		}
		time.Sleep(4 * time.Second)
		must(conn.Send(queue, "text/plain", []byte("3"), stomp.SendOpt.Receipt), "send after heart-beats")
		must(conn.Disconnect(), "disconnect")
	}
	fmt.Println("done")
}
