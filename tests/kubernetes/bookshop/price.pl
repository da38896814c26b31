# What a book costs: HTTP by hand, one request for each connection.
use strict;
use warnings;
use IO::Socket::INET;

my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die "$!";
$SIG{PIPE} = "IGNORE";
while (my $client = $server->accept) {
    my $request = <$client> // "";
    while (my $line = <$client>) { last if $line eq "\r\n" }
    my ($title) = $request =~ m{^GET /price/(\S+)};
    my $text = defined $title ? "$title costs 12.50\n" : "alive\n";
    print $client "HTTP/1.1 200 OK\r\nContent-Length: " . length($text) . "\r\nConnection: close\r\n\r\n$text";
    close $client;
}
