#!/usr/bin/perl
# Net::Stomp against the broker: send with a receipt, receive, ack, nack, transaction.  
# Usage: perl main.pl HOST PORT [LOGIN PASSCODE [CA [CERTIFICATE KEY]]].  PEM files: with a certificate nothing is said of a login.
use strict;
use warnings;
use Net::Stomp;

my ($host, $port, $login, $passcode, $ca, $certificate, $key) = @ARGV;
my $queue = "/queue/perl-$$-" . time;
my %place = (hostname => $host, port => $port);
if ($ca) {
    my %files = $certificate ? (SSL_cert_file => $certificate, SSL_key_file => $key) : ();
    # 1 is SSL_VERIFY_PEER; the name is not checked unless asked for.
    %place = (%place, ssl => 1, ssl_options => {
        SSL_ca_file => $ca, SSL_verify_mode => 1, SSL_verifycn_scheme => 'www', SSL_verifycn_name => $host, %files });
}
my $stomp = Net::Stomp->new(\%place);
my %login = $certificate ? () : (login => $login // 'guest', passcode => $passcode // 'guest');
my $connected = $stomp->connect({ %login, 'accept-version' => '1.1', host => '/' });
die "no CONNECTED: " . $connected->as_string unless $connected->command eq 'CONNECTED';

sub next_body {
    my ($want) = @_;
    die "$want expected, nothing came\n" unless $stomp->can_read({ timeout => 60 });
    my $frame = $stomp->receive_frame;
    die "$want expected, got " . $frame->as_string unless $frame->command eq 'MESSAGE' && $frame->body eq $want;
    return $frame;
}

# Before SUBSCRIBE: Net::Stomp takes any other frame that comes before the RECEIPT for its absence.
$stomp->send_with_receipt({ destination => $queue, body => 'one', persistent => 'true', timeout => 60 }) or die "no receipt\n";
$stomp->send_transactional({ destination => $queue, body => 'two', timeout => 60 }) or die "no transaction\n";
$stomp->subscribe({ destination => $queue, id => 'p', ack => 'client-individual', 'prefetch-count' => 1 });
my $frame = next_body('one');
$stomp->nack({ frame => $frame });
$frame = next_body('one');
die "not redelivered\n" unless $frame->headers->{redelivered} eq 'true';
$stomp->ack({ frame => $frame });
$stomp->ack({ frame => next_body('two') });
$stomp->disconnect;
print "done\n";
