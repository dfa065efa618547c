#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Measures nginx, redis and dbench with relpoline.ko and without it, in interleaved rounds (A B B A …), on a machine
# that runs a kernel with real retpolines: the programs of the relpolines RFC. Prints each round, then for each
# program the medians, their ratio, and the spread of the paired ratios.
#
#   sudo kernel/measure.sh [ROUNDS] [SECONDS]       default: 8 rounds of 20 seconds
#
# Needs: relpoline (in PATH or target/release), a built relpoline.ko, and by apt: nginx-light wrk redis-server
# redis-tools dbench. Stops no service that runs: it starts its own on ports 18080 and 16379.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-8} seconds=${2:-20}

fail() { echo "measure: $1" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "only root may load modules; try sudo"
PATH=$PATH:$PWD/target/release:/usr/sbin
module=${RELPOLINE_KO:-target/kernel/$(uname -r)/relpoline.ko}
[ -f "$module" ] || fail "$module is not there; build it by: cargo xtask kernel-build --release $(uname -r)"
for program in relpoline nginx wrk redis-server redis-benchmark dbench; do
    command -v $program >/dev/null || fail "$program is missing; apt-get install nginx-light wrk redis-server redis-tools dbench, cargo build --release"
done
grep -q Retpolines /sys/devices/system/cpu/vulnerabilities/spectre_v2 ||
    fail "this kernel runs without retpolines: $(cat /sys/devices/system/cpu/vulnerabilities/spectre_v2)"
[ ! -e /sys/module/relpoline ] || fail "the module is loaded; unload it by: relpoline kernel unload"

work=$(mktemp -d)
nginx_pid='' redis_pid=''
clean() {
    [ -z "$nginx_pid" ] || kill "$nginx_pid" 2>/dev/null || true
    [ -z "$redis_pid" ] || kill "$redis_pid" 2>/dev/null || true
    [ ! -e /sys/module/relpoline ] || relpoline kernel unload || true
    rm -rf "$work"
}
trap clean EXIT

mkdir "$work/www" "$work/dbench"
head -c 1024 /dev/zero >"$work/www/index.html"
cat >"$work/nginx.conf" <<CONF
worker_processes auto; daemon off; pid $work/nginx.pid; error_log $work/nginx.log;
events { worker_connections 1024; }
http { access_log off; server { listen 127.0.0.1:18080; root $work/www; } }
CONF
chmod -R a+rX "$work"
nginx -c "$work/nginx.conf" & nginx_pid=$!
redis-server --port 16379 --save '' --daemonize no >"$work/redis.log" & redis_pid=$!
sleep 2

measure_nginx() { wrk -t2 -c64 -d"${seconds}s" http://127.0.0.1:18080/ | awk '/Requests\/sec/ {print $2}'; }
measure_redis() {
    timeout "$seconds" redis-benchmark -p 16379 -c 50 -n 100000000 -t set --csv >"$work/redis.out" 2>&1 || true
    redis-cli -p 16379 info commandstats | awk -F'[=,]' '/cmdstat_set:/ {print $2}'
    redis-cli -p 16379 config resetstat >/dev/null
}
measure_dbench() { dbench -q -D "$work/dbench" -t "$seconds" 4 2>/dev/null | awk '/^Throughput/ {print $2}'; }

enter() { # with | without
    if [ "$1" = with ]; then
        relpoline kernel load --module "$module" >/dev/null
    elif [ -e /sys/module/relpoline ]; then
        relpoline kernel unload
    fi
}

echo "machine: $(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo), $(nproc) processors, Linux $(uname -r)"
redis-cli -p 16379 config resetstat >/dev/null
for round in $(seq "$rounds"); do
    # A B, then B A: what drifts does not favour either.
    if [ $((round % 2)) = 1 ]; then order="without with"; else order="with without"; fi
    for state in $order; do
        enter "$state"
        for program in nginx redis dbench; do
            # Once unmeasured, so that both begin warm, and the module has learned.
            seconds_measured=$seconds; seconds=3; measure_$program >/dev/null; seconds=$seconds_measured
            value=$(measure_$program)
            echo "$round $program $state $value" | tee -a "$work/rounds"
        done
        if [ "$state" = with ] && [ "$round" = "$rounds" ]; then relpoline kernel status; fi
        enter without
    done
done

echo
echo "program   without      with   ratio   paired ratios, lowest to highest   (throughput: more is better)"
for program in nginx redis dbench; do
    awk -v program=$program '
        function median(list, n,    i, j, t) {
            for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j] < list[j-1]; j--) { t = list[j]; list[j] = list[j-1]; list[j-1] = t }
            return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
        }
        $2 == program { value[$3, $1] = $4; if ($1 > rounds) rounds = $1 }
        END {
            for (i = 1; i <= rounds; i++) { a[i] = value["without", i]; b[i] = value["with", i]; r[i] = b[i] / a[i] }
            ratio = median(r, rounds)
            printf "%-8s %9.1f %9.1f   %5.3f   %5.3f – %5.3f\n", program, median(a, rounds), median(b, rounds), ratio, r[1], r[rounds]
        }' "$work/rounds"
done
