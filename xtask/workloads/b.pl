# Mixed load for the Perl interpreter: scalars, hashes, arrays, objects, regular expressions, closures, sort.
use strict;
use warnings;

package Counter;
sub new { my ($class, $step) = @_; return bless { step => $step, n => 0 }, $class }
sub tick { my $self = shift; $self->{n} += $self->{step}; return $self->{n} }

package Doubling;
our @ISA = ('Counter');
sub tick { my $self = shift; $self->{n} = ($self->{n} * 2 + $self->{step}) % 65521; return $self->{n} }

package main;

sub sieve {
    my ($n) = @_;
    my @composite;
    my $count = 0;
    for my $i (2 .. $n) {
        next if $composite[$i];
        $count++;
        for (my $j = $i * $i; $j <= $n; $j += $i) { $composite[$j] = 1 }
    }
    return $count;
}

sub objects {
    my ($n) = @_;
    my @all = map { $_ % 3 ? Counter->new($_) : Doubling->new($_) } 1 .. 50;
    my $sum = 0;
    for (1 .. $n) { $sum += $_->tick & 255 for @all }
    return $sum;
}

sub words {
    my ($n) = @_;
    my %tally;
    for my $i (1 .. $n) {
        my $line = "item=$i; colour=" . ('red', 'green', 'blue')[$i % 3] . "; size=" . ($i * 7 % 50);
        while ($line =~ /(\w+)=(\w+)/g) { $tally{"$1:" . length $2}++ }
        $line =~ s/(\d+)/<$1>/g;
        $tally{total} += length $line;
    }
    return join ' ', map { "$_=$tally{$_}" } sort keys %tally;
}

sub closures {
    my ($n) = @_;
    my @chain = map { my $k = $_; sub { return ($_[0] * $k + 1) % 10007 } } 1 .. 6;
    my $s = 0;
    for my $i (1 .. $n) {
        my $x = $i;
        $x = $_->($x) for @chain;
        $s += $x;
    }
    return $s;
}

sub ordered {
    my ($n) = @_;
    my @rows = map { { id => $_, key => ($_ * 7919) % 10007, name => sprintf('%05x', $_ * 31) } } 1 .. $n;
    my @by = sort { $a->{key} <=> $b->{key} or $a->{name} cmp $b->{name} } @rows;
    return join ',', map { $_->{id} } @by[0 .. 9], @by[-5 .. -1];
}

sub fib { my $n = shift; return $n < 2 ? $n : fib($n - 1) + fib($n - 2) }

print sieve(250000),   "\n";
print objects(6000),   "\n";
print words(20000),    "\n";
print closures(40000), "\n";
print ordered(15000),  "\n";
print fib(21),         "\n";
