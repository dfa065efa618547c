#!/usr/bin/env bash
# Attaches to nginx under wrk and to PostgreSQL's backends under pgbench, detaches, again and again, and says what
# that did: failed requests (there must be none), how long threads stood still, processor time and throughput with and
# without, and whether every byte of text is back. Exit status 1 when a request failed or a byte differs.
#
# usage: bench/attach.sh [PAIRS]     as root; needs wrk, python3, and the programs of
#                                    `cargo xtask build-programs nginx postgresql --variants retpoline`
# RELPOLINE: the command [target/release/relpoline]; PROGRAMS: what was built [target/bench-programs/build]
set -euo pipefail
cd "$(dirname "$0")/.."
pairs=${1:-7}
relpoline=$(realpath "${RELPOLINE:-target/release/relpoline}")
programs=$(realpath "${PROGRAMS:-target/bench-programs/build}")
work=$(mktemp -d)
chmod 755 "$work"
servers=()
trap 'for pid in "${servers[@]}"; do kill -INT "$pid" 2>/dev/null && wait "$pid" || true; done; rm -rf "$work"' EXIT

# Pairs of windows without and with the engine, under one unbroken load.
measure() { # measure NAME writes|FILE-WITH-PROGRESS PID...
    python3 - "$relpoline" "$pairs" "$@" <<'PYTHON'
import re, statistics, subprocess, sys, time
relpoline, pairs, name, count, pids = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:]

def processor_ns():
    return sum(int(open(f"/proc/{pid}/schedstat").read().split()[0]) for pid in pids)

def requests():
    """What was answered so far, in some unit: nginx' writes, or pgbench's transactions at its next line of progress."""
    if count == "writes":
        return sum(int(re.search(r"syscw: (\d+)", open(f"/proc/{pid}/io").read())[1]) for pid in pids)
    lines = len(open(count).readlines())
    while len(open(count).readlines()) == lines:
        time.sleep(0.002)
    ends, rates = zip(*[map(float, line) for line in re.findall(r"progress: ([\d.]+) s, ([\d.]+) tps", open(count).read())])
    return sum((end - begin) * rate for begin, end, rate in zip((0, *ends), ends, rates))

def window(seconds):
    n, began, ns = requests(), time.monotonic(), processor_ns()
    time.sleep(seconds)
    n, took, ns = requests() - n, time.monotonic() - began, processor_ns() - ns
    return ns / n, n / took

def stops(verb):
    said = subprocess.run([relpoline, verb, *pids], capture_output=True, text=True)
    if said.returncode:
        sys.exit(f"{name}: {verb}: {said.stderr}")
    return [float(ms) for ms in re.findall(r"stood still for ([\d.]+) ms", said.stdout)]

def changed_bytes():
    changed = 0
    for pid in pids:
        memory = open(f"/proc/{pid}/mem", "rb")
        for line in open(f"/proc/{pid}/maps"):
            fields = line.split()
            if fields[1] != "r-xp" or len(fields) < 6 or not fields[5].startswith("/"):
                continue
            start, end = (int(part, 16) for part in fields[0].split("-"))
            memory.seek(start)
            file = open(fields[5], "rb")
            file.seek(int(fields[2], 16))
            changed += sum(a != b for a, b in zip(memory.read(end - start), file.read(end - start)))
    return changed

time.sleep(1)
first = stops("attach")  # the first one maps the engine
stops("detach")
cpu, rate, attached, detached = [], [], [], []
for _ in range(pairs):
    without = window(1.9)
    attached += stops("attach")
    time.sleep(1)  # learning
    with_ = window(1.9)
    detached += stops("detach")
    cpu.append(with_[0] / without[0])
    rate.append(with_[1] / without[1])
said = lambda values, unit="": f"median {statistics.median(values):.3f}{unit}, {min(values):.3f} to {max(values):.3f}{unit}"
print(f"{name}: {pairs} pairs, {len(pids)} process(es)")
print(f"  stop, first attach   {said(first, ' ms')}")
print(f"  stop, attach again   {said(attached, ' ms')}")
print(f"  stop, detach         {said(detached, ' ms')}")
print(f"  processor time per request, with / without: {said(cpu)}")
print(f"  requests per second, with / without:        {said(rate)}")
changed = changed_bytes()
print(f"  bytes of text that differ from the files after the last detach: {changed}")
sys.exit(changed != 0)
PYTHON
}

nginx() {
    mkdir -p "$work/html" "$work/logs"
    for _ in {1..64}; do echo 'A page of four kilobytes, served again and again over loopback.'; done >"$work/html/page.html"
    cat >"$work/nginx.conf" <<CONF
user nobody nogroup; daemon off; worker_processes 1; pid $work/nginx.pid; error_log $work/logs/error.log warn;
events { worker_connections 256; }
http { access_log off; sendfile on; keepalive_requests 1000000000; client_body_temp_path $work/b; proxy_temp_path $work/p;
  server { listen 127.0.0.1:7999; root $work/html; } }
CONF
    taskset -c 1 "$programs/nginx/retpoline/objs/nginx" -p "$work" -c "$work/nginx.conf" &
    servers+=($!)
    sleep 1
    taskset -c 0 wrk -t1 -c16 -d$((pairs * 6 + 8))s http://127.0.0.1:7999/page.html >"$work/wrk" &
    local load=$!
    measure nginx writes "$(pgrep -P "$(cat "$work/nginx.pid")")"
    wait $load
    grep -E 'requests in|Socket|Non-2xx' "$work/wrk" | sed 's/^ */  wrk: /'
    ! grep -qE 'Socket|Non-2xx' "$work/wrk" && ! grep -q . "$work/logs/error.log"
}

postgresql() {
    local bin=$programs/postgresql/retpoline/inst/bin user='setpriv --reuid 65534 --regid 65534 --clear-groups'
    mkdir "$work/pg"
    chown 65534:65534 "$work/pg"
    cd /
    $user "$bin/initdb" -A trust -U bench --no-sync --no-locale -E UTF8 -D "$work/pg/data" >/dev/null
    $user taskset -c 1 "$bin/postgres" -D "$work/pg/data" -k "$work/pg" -h '' -c fsync=off -c jit=off -c autovacuum=off \
        -c shared_buffers=256MB -c log_min_messages=error >"$work/pg/log" 2>&1 &
    servers+=($!)
    until "$bin/pg_isready" -q -h "$work/pg" -U bench -d postgres; do sleep 0.2; done
    "$bin/pgbench" -h "$work/pg" -U bench -i -q -s 10 postgres 2>/dev/null
    taskset -c 0 "$bin/pgbench" -h "$work/pg" -U bench -S -n -c 2 -j 1 -P 1 -T $((pairs * 8 + 10)) postgres >"$work/pgbench" 2>&1 &
    local load=$!
    sleep 1
    # shellcheck disable=SC2046
    measure "postgresql, pgbench -S" "$work/pgbench" \
        $(pgrep -P "$(head -1 "$work/pg/data/postmaster.pid")" -f 'bench postgres')
    wait $load
    grep -E 'actually processed|number of failed' "$work/pgbench" | sed 's/^/  pgbench: /'
    grep -q 'failed transactions: 0 ' "$work/pgbench" && ! grep -E 'FATAL|PANIC|terminated' "$work/pg/log"
}

echo "$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs), $(nproc) processors, $(uname -r), load $(cut -d' ' -f1 /proc/loadavg)"
nginx
postgresql
