#!/usr/bin/perl
# Net::Stomp against the broker: send with a receipt, receive, ack, nack, transaction.  Usage: perl main.pl HOST PORT
use strict;
use warnings;
use Net::Stomp;

my ($host, $port) = @ARGV;
my $queue = "/queue/perl-$$-" . time;
my $stomp = Net::Stomp->new({ hostname => $host, port => $port });
my $connected = $stomp->connect({ login => 'guest', passcode => 'guest', 'accept-version' => '1.1', host => '/' });
die "no CONNECTED: " . $connected->as_string unless $connected->command eq 'CONNECTED';

sub next_body {
    my ($want) = @_;
    die "$want expected, nothing came\n" unless $stomp->can_read({ timeout => 10 });
    my $frame = $stomp->receive_frame;
    die "$want expected, got " . $frame->as_string unless $frame->command eq 'MESSAGE' && $frame->body eq $want;
    return $frame;
}

# Before SUBSCRIBE: Net::Stomp takes any other frame that comes before the RECEIPT for its absence.
$stomp->send_with_receipt({ destination => $queue, body => 'one', persistent => 'true', timeout => 10 }) or die "no receipt\n";
$stomp->send_transactional({ destination => $queue, body => 'two', timeout => 10 }) or die "no transaction\n";
$stomp->subscribe({ destination => $queue, id => 'p', ack => 'client-individual', 'prefetch-count' => 1 });
my $frame = next_body('one');
$stomp->nack({ frame => $frame });
$frame = next_body('one');
die "not redelivered\n" unless $frame->headers->{redelivered} eq 'true';
$stomp->ack({ frame => $frame });
$stomp->ack({ frame => next_body('two') });
$stomp->disconnect;
print "done\n";
