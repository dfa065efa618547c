# Mixed load for a POSIX shell, without a single child: numbers, words, patterns, functions, case, parameter expansion.

fib() {
    if [ "$1" -lt 2 ]; then
        result=$1
    else
        fib $(($1 - 1))
        set -- "$1" "$result"
        fib $(($1 - 2))
        result=$((result + $2))
    fi
}

count() {
    i=0 even=0 odd=0 three=0
    while [ "$i" -lt "$1" ]; do
        case $i in
        *[02468]) even=$((even + 1)) ;;
        *) odd=$((odd + 1)) ;;
        esac
        case $((i % 3)) in 0) three=$((three + 1)) ;; esac
        i=$((i + 1))
    done
    echo "$even $odd $three"
}

words() {
    i=0 all=
    while [ "$i" -lt "$1" ]; do
        word=/usr/share/some/place/name-$i.tar.gz
        base=${word##*/}
        stem=${base%%.*}
        all=$((${all:-0} * 31 % 1000003 + ${#stem} + ${#base}))
        for part in a b c "$stem"; do
            [ "$part" = "$base" ] || all=$((all + ${#part}))
        done
        i=$((i + 1))
    done
    echo "$all"
}

fields() {
    i=0 sum=0
    while [ "$i" -lt "$1" ]; do
        IFS=:
        set -- "$1" $LINE
        IFS=' '
        shift
        sum=$((sum + $# + ${#3}))
        set -- "$TIMES"
        i=$((i + 1))
    done
    echo "$sum"
}

fib 17
echo "$result"
count 80000
words 30000
LINE=root:x:0:0:root:/root:/bin/sh
TIMES=60000
fields $TIMES
