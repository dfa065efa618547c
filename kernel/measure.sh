#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Measures nginx, redis, dbench and netperf (UDP) with relpoline.ko and without it: the programs of the relpolines RFC.
# For a machine that runs a kernel with real retpolines. Rounds are interleaved (A B, B A, …). At the end comes a block
# of text to send back: it names the processor, the kernel and its mitigations, and nothing else of the machine.
#
#   sudo kernel/measure.sh [--rounds N] [--seconds N] [--dir DIR] [--only LIST] [--busy]
#        kernel/measure.sh --check                 what is missing; changes nothing, needs no root
#        kernel/measure.sh --rehearse [...]        all but the module: what is called "with" is without it, too
#        kernel/measure.sh --table FILE            the table of the rounds in FILE ("ROUND PROGRAM with|without VALUE")
#
# Default: 10 rounds of 20 seconds, some 40 minutes. By apt: nginx-light wrk redis-server redis-tools dbench, and netperf
# (in Debian's non-free). What is not there is left out, and said. It needs relpoline (in PATH or target/release) and a built relpoline.ko.
#
# Safe beside what runs: it stops no service, starts its own on 127.0.0.1 (ports 18080, 16379, 16865), writes only to a
# folder of its own (DIR, or /tmp: 2 GB), and at its end, also after ^C, takes away all that it has put there, the module too.
# What it does to a server is to use its processors. So it refuses a busy machine, unless told --busy.
set -euo pipefail
rounds=10 seconds=20 dir=${TMPDIR:-/tmp} only=nginx,redis,dbench,netperf is_busy=no what=measure

fail() { echo "measure: $1" >&2; exit 1; }
is_number() { case $1 in '' | *[!0-9]* | 0) fail "$2 wants a number above 0, not \"$1\"" ;; esac; }
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=${2-}; is_number "$rounds" --rounds; shift ;;
        --seconds) seconds=${2-}; is_number "$seconds" --seconds; shift ;;
        --dir) dir=${2-}; [ -d "$dir" ] || fail "--dir wants a folder, not \"$dir\""; shift ;;
        --only) only=${2-}; shift ;;
        --busy) is_busy=yes ;;
        --check) what=check ;;
        --rehearse) what=rehearse ;;
        --table) what=table; rounds_file=${2-}; [ -r "$rounds_file" ] || fail "--table wants a file, not \"$rounds_file\""; shift ;;
        *) fail "\"$1\" is not an option; the first lines of this file tell what is" ;;
    esac
    shift
done

# Medians, the median of the paired ratios, and an interval that holds the true median of the ratios in at least 95 of 100
# cases: from the k-th lowest to the k-th highest, by the binomial distribution. Fewer than 6 rounds allow of none.
table() {
    echo "program   without        with     ratio   interval of the ratio     (throughput: more is better)"
    for program in nginx redis dbench udp_rr udp_stream; do
        awk -v program=$program '
            function sort(list, n,    i, j, t) {
                for (i = 2; i <= n; i++)
                    for (j = i; j > 1 && list[j] < list[j-1]; j--) { t = list[j]; list[j] = list[j-1]; list[j-1] = t }
            }
            function median(list, n) { sort(list, n); return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2 }
            $2 == program && $4 + 0 > 0 { value[$3, $1] = $4; seen[$1] = 1 }
            $2 == program && !($4 + 0 > 0) { lost++ }
            END {
                for (round in seen)
                    if (("with", round) in value && ("without", round) in value) {
                        n++; a[n] = value["without", round]; b[n] = value["with", round]; r[n] = b[n] / a[n]
                    }
                if (!n) { if (lost) printf "%-10s gave no value\n", program; exit }
                ratio = median(r, n)
                term = 1; for (i = 0; i < n; i++) term /= 2
                outside = 0; k = 0
                for (i = 0; i < n / 2; i++) { outside += 2 * term; if (outside > 0.05) break; k = i + 1; kept = outside; term = term * (n - i) / (i + 1) }
                line = sprintf("%-10s %9.1f %11.1f    %6.3f   ", program, median(a, n), median(b, n), ratio)
                if (k) line = line sprintf("%.3f – %.3f (%.1f %%)", r[k], r[n + 1 - k], 100 * (1 - kept))
                else line = line "too few rounds for one: " n
                if (lost) line = line sprintf("   %d values missing", lost)
                print line
            }' "$1"
    done
}
if [ $what = table ]; then table "$rounds_file"; exit; fi

cd "$(dirname "$0")/.."
PATH=$PATH:$PWD/target/release:/usr/sbin:/sbin
release=$(uname -r)
module=${RELPOLINE_KO:-}
for place in "target/kernel/$release/relpoline.ko" "/lib/modules/$release/updates/dkms/relpoline.ko" \
    "/lib/modules/$release/updates/dkms/relpoline.ko.xz" "/lib/modules/$release/updates/dkms/relpoline.ko.zst"; do
    if [ -z "$module" ] && [ -f "$place" ]; then module=$place; fi
done

# What is in the way, one a line.
hindrances() {
    if [ $what != rehearse ]; then of_the_module; fi
    of_the_machine
}
of_the_module() {
    local state
    [ -n "$module" ] && [ -f "$module" ] ||
        echo "there is no relpoline.ko for Linux $release; install relpoline-dkms, or: cargo xtask kernel-build --release $release"
    command -v relpoline >/dev/null || echo "the command relpoline is missing: cargo build --release"
    state=$(cat /sys/devices/system/cpu/vulnerabilities/spectre_v2 2>/dev/null || echo unknown)
    case $state in *Retpolines*) ;; *) echo "this kernel runs without retpolines: $state" ;; esac
    [ ! -e /sys/module/relpoline ] || echo "the module is loaded; unload it by: relpoline kernel unload"
}
of_the_machine() {
    if [ "$(df -Pk "$dir" | awk 'END {print $4}')" -lt 2000000 ]; then echo "$dir has less than 2 GB free; name another folder: --dir"; fi
    # Somebody else's work would be disturbed, and would disturb the figures.
    if [ $is_busy = no ] && awk -v n="$(nproc)" '{exit !($1 > n / 4)}' /proc/loadavg; then
        echo "the machine is busy (load $(cut -d' ' -f1 /proc/loadavg) on $(nproc) processors); wait, or say --busy"
    fi
    for port in 18080 16379 16865; do
        if grep -qi "$(printf '0100007F:%04X 00000000:0000 0A\|00000000:%04X 00000000:0000 0A' $port $port)" /proc/net/tcp; then
            echo "port $port is in use"
        fi
    done
}
has() { case ,$only, in *,"$1",*) shift; command -v "$@" >/dev/null ;; *) return 1 ;; esac; }
programs=''
if has nginx nginx && has nginx wrk; then programs="$programs nginx"; fi
if has redis redis-server && has redis redis-benchmark; then programs="$programs redis"; fi
if has dbench dbench; then programs="$programs dbench"; fi
if has netperf netperf && has netperf netserver; then programs="$programs udp_rr udp_stream"; fi
left_out=''
for program in nginx redis dbench udp_rr; do
    case " $programs " in *" $program "*) ;; *) left_out="$left_out ${program/udp_rr/netperf}" ;; esac
done

if [ $what = check ]; then
    hindrances | sed 's/^/in the way: /'
    echo "measured: ${programs# }"
    if [ -n "$left_out" ]; then echo "left out:$left_out (not installed, or not in --only)"; fi
    # shellcheck disable=SC2086 # words are counted
    set -- $programs
    echo "it would take $(((2 * rounds * $# * (seconds + 4)) / 60 + 1)) minutes"
    [ -z "$(hindrances)" ]
    exit
fi
[ $what = rehearse ] || [ "$(id -u)" = 0 ] || fail "only root may load modules; try sudo (or --check, or --rehearse)"
found=$(hindrances)
[ -z "$found" ] || fail "$found"
[ -n "$programs" ] || fail "no program is there to be measured; apt-get install nginx-light wrk redis-server redis-tools dbench netperf"

work=$(mktemp -d "$dir/relpoline-measure.XXXXXX")
servers=''
clean() {
    trap - EXIT
    # shellcheck disable=SC2086 # several
    [ -z "$servers" ] || kill $servers 2>/dev/null || true
    if [ -e /sys/module/relpoline ] && ! relpoline kernel unload; then
        echo "measure: the module is still loaded, see above; when that is gone: relpoline kernel unload" >&2
    fi
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM HUP

mkdir "$work/www" "$work/dbench" "$work/redis"
head -c 1024 /dev/zero >"$work/www/index.html"
cat >"$work/nginx.conf" <<CONF
worker_processes auto; daemon off; pid $work/nginx.pid; error_log $work/nginx.log;
events { worker_connections 1024; }
http { access_log off; client_body_temp_path $work/body; proxy_temp_path $work/proxy; fastcgi_temp_path $work/fast;
       uwsgi_temp_path $work/uwsgi; scgi_temp_path $work/scgi; server { listen 127.0.0.1:18080; root $work/www; } }
CONF
# nginx's workers give up being root.
chmod a+rX "$work" "$work/www" "$work/www/index.html"
start() { "$@" >>"$work/servers.log" 2>&1 & servers="$servers $!"; }
case $programs in *nginx*) start nginx -c "$work/nginx.conf" ;; esac
case $programs in *redis*)
    start redis-server --port 16379 --bind 127.0.0.1 --save '' --appendonly no --dir "$work/redis" --maxmemory 256mb --daemonize no ;;
esac
case $programs in *udp*) start netserver -D -4 -L 127.0.0.1 -p 16865 ;; esac
sleep 2
for server in $servers; do
    kill -0 "$server" 2>/dev/null || fail "a server did not start: $(tail -n 3 "$work/servers.log")"
done

# Each prints a throughput, or nothing.
measure_nginx() { timeout $((seconds + 10)) wrk -t2 -c64 -d"${seconds}s" http://127.0.0.1:18080/ | awk '/Requests\/sec/ {print $2}'; }
measure_redis() {
    local before after
    before=$(redis_sets)
    timeout "$seconds" redis-benchmark -p 16379 -c 50 -n 1000000000 -r 100000 -t set -q >/dev/null 2>&1 || true
    after=$(redis_sets)
    awk -v n=$((after - before)) -v s="$seconds" 'BEGIN {print n / s}'
}
redis_sets() { redis-cli -p 16379 info commandstats | awk -F'[=,]' '/cmdstat_set:/ {n = $2} END {print n + 0}'; }
measure_dbench() { timeout $((seconds + 30)) dbench -D "$work/dbench" -t "$seconds" 4 2>/dev/null | awk '/^Throughput/ {print $2}'; }
netperf_udp() { timeout $((seconds + 10)) netperf -4 -H 127.0.0.1 -p 16865 -l "$seconds" -P 0 -t "$@" 2>/dev/null; }
measure_udp_rr() { netperf_udp UDP_RR | awk 'NF >= 6 {print $6; exit}'; }
# What was received, which is the second line.
measure_udp_stream() { netperf_udp UDP_STREAM -- -m 1024 | awk 'NF == 4 {print $4; exit}'; }

enter() { # with | without
    if [ $what = rehearse ]; then return; fi
    if [ "$1" = with ]; then
        relpoline kernel load --module "$module" >/dev/null
    elif [ -e /sys/module/relpoline ]; then
        relpoline kernel unload
    fi
}
complaints() { dmesg 2>/dev/null | grep -cE 'BUG:|WARNING:|Oops|general protection|stall' || true; }

before=$(complaints)
: >"$work/rounds"
: >"$work/status"
for round in $(seq "$rounds"); do
    # A B, then B A: what drifts does not favour either.
    if [ $((round % 2)) = 1 ]; then order="without with"; else order="with without"; fi
    for state in $order; do
        enter "$state"
        for program in $programs; do
            # Once unmeasured, so that both begin warm, and the module has learned.
            value=$(seconds=3; measure_"$program" || true)
            value=$(measure_"$program" || true)
            echo "$round $program $state ${value:-0}" | tee -a "$work/rounds"
        done
        if [ "$state" = with ] && [ $what = measure ]; then relpoline kernel status >"$work/status"; fi
        enter without
        if [ "$(complaints)" != "$before" ]; then fail "the kernel has complained; see: dmesg. Nothing more is done"; fi
    done
done

cat <<BLOCK

8<------------------------------------------------------------------------ send back from here
machine: $(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo), microcode $(awk -F': ' '/microcode/ {print $2; exit}' /proc/cpuinfo), $(nproc) processors$(grep -q hypervisor /proc/cpuinfo && echo ', a guest' || true)
kernel:  $release
spectre_v2: $(cat /sys/devices/system/cpu/vulnerabilities/spectre_v2)
retbleed: $(cat /sys/devices/system/cpu/vulnerabilities/retbleed 2>/dev/null || echo -)
srso: $(cat /sys/devices/system/cpu/vulnerabilities/spec_rstack_overflow 2>/dev/null || echo -)
relpoline: $(if [ $what = rehearse ]; then echo "a rehearsal, without the module"; else relpoline --version; fi), $rounds rounds of $seconds s, interleaved; left out:${left_out:- nothing}

$(table "$work/rounds")

$(cat "$work/status")

rounds:
$(cat "$work/rounds")
8<------------------------------------------------------------------------ to here
BLOCK
