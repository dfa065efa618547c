# What the peers are trained on: the common parts of the language, none of the programs that are measured.
use strict;
use warnings;

package Stack {
    sub new  { my $class = shift; return bless {items => []}, $class }
    sub push { my ($self, $item) = @_; push @{$self->{items}}, $item; return }
    sub pop  { my $self = shift; return pop @{$self->{items}} }
    sub size { return scalar @{$_[0]{items}} }
}

package main;

sub calculate {
    my $stack = Stack->new;
    for my $token (split ' ', $_[0]) {
        if ($token =~ /^-?\d+$/) { $stack->push($token) }
        else {
            my ($right, $left) = ($stack->pop, $stack->pop);
            $stack->push($token eq '+' ? $left + $right : $token eq '*' ? $left * $right : $left - $right);
        }
    }
    return $stack->pop;
}

sub histogram {
    my %count;
    my $text = join ' ', map { sprintf '%s%02d', chr(97 + $_ % 26), $_ % 13 } 1 .. $_[0];
    $count{$1} += $2 while $text =~ /([a-m])(\d+)/g;
    (my $plain = $text) =~ tr/a-z//d;
    return join(',', map { "$_=$count{$_}" } sort keys %count), length $plain;
}

sub knapsack {
    my ($room, @weights) = @_;
    my @best = (0) x ($room + 1);
    for my $weight (@weights) {
        for (my $at = $room; $at >= $weight; $at--) {
            my $with = $best[$at - $weight] + $weight * 3 % 11;
            $best[$at] = $with if $with > $best[$at];
        }
    }
    return $best[$room];
}

sub walk { my ($node, $visit) = @_; return unless $node; walk($node->[0], $visit); $visit->($node->[1]); walk($node->[2], $visit) }

sub tree { my ($low, $high) = @_; return undef if $low > $high; my $mid = int(($low + $high) / 2); return [tree($low, $mid - 1), $mid, tree($mid + 1, $high)] }

my $sum = 0;
$sum += calculate("$_ 3 + 4 * $_ - 2 +") for 1 .. 6000;
my $visited = 0;
walk(tree(1, 12000), sub { $visited += $_[0] % 5 });
print "$sum $visited ", knapsack(900, map { $_ % 37 + 3 } 1 .. 90), "\n";
print join(' ', histogram(30000)), "\n";
print scalar(grep { $_ & 1 } sort { $b <=> $a } map { $_ * 7919 % 1009 } 1 .. 20000), "\n";
