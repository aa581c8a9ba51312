# Calls as Perl programs make them, with Frontier::Client: `perl frontier.pl URL`.
#
# Each line of input is one call as JSON, {"method": ..., "params": [VALUE...], "objects": true}; each line of output what
# came back, {"value": VALUE} or {"died": TEXT}. A VALUE is [TYPE, CONTENT]; the type `scalar` is a bare Perl scalar, whose
# type Frontier guesses. Without "objects", answers are bare scalars too, as most programs take them.

use strict;
use warnings;
use Encode qw(decode_utf8 encode_utf8);
use Frontier::Client;
use JSON::PP;

my ($url) = @ARGV;
my %client = map { $_ => Frontier::Client->new(url => $url, use_objects => $_) } 0, 1;
my $json = JSON::PP->new->utf8->canonical;
$| = 1;

# LWP sends bytes, and XML that names no encoding is UTF-8.
my %make = (
    int => sub { $client{1}->int($_[0]) },
    double => sub { $client{1}->double($_[0]) },
    boolean => sub { $client{1}->boolean($_[0]) },
    string => sub { $client{1}->string(encode_utf8($_[0])) },
    base64 => sub { $client{1}->base64($_[0]) },
    dateTime => sub { $client{1}->date_time($_[0]) },
    array => sub { [map { make($_) } @{ $_[0] }] },
    struct => sub {
        my ($members) = @_;
        return { map { encode_utf8($_) => make($members->{$_}) } keys %$members };
    },
    scalar => sub { $_[0] },
);

my %type = (
    'Frontier::RPC2::Integer' => 'int',
    'Frontier::RPC2::Boolean' => 'boolean',
    'Frontier::RPC2::String' => 'string',
    'Frontier::RPC2::Base64' => 'base64',
    'Frontier::RPC2::DateTime::ISO8601' => 'dateTime',
);

sub make {
    my ($type, $content) = @{ $_[0] };
    return $make{$type}->($content);
}

sub told {
    my ($value) = @_;
    my $ref = ref $value;
    return ['array', [map { told($_) } @$value]] if $ref eq 'ARRAY';
    return ['struct', { map { $_ => told($value->{$_}) } keys %$value }] if $ref eq 'HASH';
    return [$type{$ref}, $value->value . ''] if $ref;
    return ['scalar', "$value"];
}

while (my $line = <STDIN>) {
    my $asked = $json->decode($line);
    my $client = $client{ $asked->{objects} ? 1 : 0 };
    my $value = eval { $client->call($asked->{method}, map { make($_) } @{ $asked->{params} }) };
    print $json->encode($@ ? { died => "$@" } : { value => told($value) }), "\n";
}
