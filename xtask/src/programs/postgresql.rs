//! PostgreSQL: `pgbench -S` for short requests, the same with a connection each (`-C`), and a session of
//! aggregates for the executor.
//!
//! All variants share one cluster, made by the retpoline build, so they read the very same pages. It runs as
//! `nobody`, since PostgreSQL refuses root, and listens on a unix socket alone.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Program, Source};
use crate::build::Tree;
use crate::measure;
use crate::place::Place;
use crate::procfs;
use crate::server::{self, CLIENT_CPU, SERVER_CPU, Server};
use crate::variant::Variant;
use crate::workload::{Better, CPU_PER_REQUEST, Metric, Sample, Setting, THROUGHPUT, Workload, digest};

pub struct PostgreSql;

/// Debian's fixed numbers of `nobody` and `nogroup`.
pub const NOBODY: u32 = 65534;

impl Program for PostgreSql {
    fn name(&self) -> &'static str {
        "postgresql"
    }

    fn source(&self) -> Source {
        Source::Debian("postgresql-15")
    }

    fn executable(&self) -> &'static str {
        "inst/bin/postgres"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        let prefix = format!("--prefix={}", tree.dir.join("inst").display());
        tree.step("./configure", &[&prefix, "--without-readline", "--without-zlib"])?;
        // What instruments code for a profile adds calls of exit, which libpq's build checks for, but not
        // then.
        const INSTRUMENTED: &str = "enable_coverage=yes";
        tree.make(&["-s", INSTRUMENTED])?;
        tree.make(&["-s", INSTRUMENTED, "install"])
    }

    fn prepare(&self, setting: &Setting) -> Result<()> {
        let done = setting.run.join("prepared");
        if done.exists() {
            return Ok(());
        }
        let data = setting.run.join("data");
        if data.exists() {
            fs::remove_dir_all(&data)?;
        }
        fs::create_dir(&data)?;
        if procfs::am_root() {
            chown(&data, Some(NOBODY), Some(NOBODY))?;
        }
        let mut initdb = setting.start("inst/bin/initdb", None);
        initdb.args(["-A", "trust", "-U", "bench", "--no-sync", "--no-locale", "-E", "UTF8", "-D"]).arg(&data);
        measure::run(unprivileged(&mut initdb), LIMIT)?;
        let cluster = Cluster::start(setting)?;
        measure::run(cluster.client(setting, "pgbench").args(["-i", "-q", "-s", "10", "postgres"]), LIMIT)?;
        cluster.query(setting, &[FACTS, "vacuum (analyze, freeze) facts"])?;
        cluster.server.stop()?;
        Ok(fs::write(done, "")?)
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![Box::new(Aggregates { name: "aggregates", queries: AGGREGATES }), Box::new(SELECTS), Box::new(CONNECTIONS)]
    }

    fn training(&self) -> Option<Box<dyn Workload>> {
        Some(Box::new(Aggregates { name: "other queries", queries: OTHERS }))
    }
}

const LIMIT: Duration = Duration::from_secs(180);

const FACTS: &str = "create table facts as select i as id, i % 97 as kind, (i * 7919::bigint % 10007)::int as amount,
    (i % 1000) / 8.0::float8 as price, 'item ' || i % 211 as name from generate_series(1, 400000) i;";

/// Scans, hash aggregation, expressions, text functions, a join, a sort and a window.
const AGGREGATES: &str = "
    select count(*), sum(amount), min(price), max(price), avg(amount) from facts;
    select kind, count(*), sum(amount * 2 + id % 7), sum(price * 1.5) from facts group by kind order by kind limit 5;
    select sum(case when amount % 3 = 0 then 1 when price > 60 and kind < 50 then 2 else 3 end) from facts;
    select name, count(distinct kind), max(length(name || kind)) from facts group by name order by 2 desc, 1 limit 5;
    select count(*) from facts where name like '%em 1_' or upper(name) = 'ITEM 77';
    select sum(a.amount - b.amount) from facts a join facts b on a.id = b.amount;
    select sum(r) from (select rank() over (partition by kind order by amount) as r from facts where id < 120000) w;
    select sum(i * 3 % 11), sum(sqrt(i)::int) from generate_series(1, 400000) i;";

/// What the peers are trained on: look-ups by key, sorts, sub-selects, dates and arrays, with some of the
/// same operators.
const OTHERS: &str = "
    select abalance from pgbench_accounts where aid = 4711;
    select count(*) from generate_series(1, 3000) i join pgbench_accounts on aid = i * 7 where abalance = 0;
    select id, price from facts where kind = 13 order by price desc, id limit 7;
    select count(*) from facts f where exists (select 1 from facts g where g.id = f.amount and g.kind < 10);
    select extract(month from date '2020-01-01' + kind), sum(price), max(amount) from facts group by 1 order by 1;
    select array_length(array_agg(substr(name, 3)), 1), count(*) filter (where amount between 50 and 500) from facts;
    select sum(length(md5(name))) from facts where id < 60000;
    with recursive r(n) as (select 1 union all select n + 1 from r where n < 60000) select avg(n * 2.0) from r;";

/// A running cluster.
struct Cluster {
    server: Server,
    socket: SocketDir,
    data: PathBuf,
}

/// The directory of the socket, removed in the end.
struct SocketDir(PathBuf);

impl Cluster {
    fn start(setting: &Setting) -> Result<Cluster> {
        // A socket's path may have 107 bytes; the work directory's may be longer.
        let socket = SocketDir(std::env::temp_dir().join(format!("xtask-pg-{}", std::process::id())));
        fs::create_dir_all(&socket.0)?;
        if procfs::am_root() {
            chown(&socket.0, Some(NOBODY), Some(NOBODY))?;
        }
        let data = setting.run.join("data");
        let mut command = setting.start("inst/bin/postgres", Some(SERVER_CPU));
        command.arg("-D").arg(&data).arg("-k").arg(&socket.0).args(["-h", ""]);
        let options = ["fsync=off", "jit=off", "max_parallel_workers_per_gather=0", "shared_buffers=256MB"];
        let quiet = ["work_mem=64MB", "autovacuum=off", "max_wal_size=4GB", "checkpoint_timeout=1d"];
        command.args(options.iter().chain(&quiet).flat_map(|option| ["-c", option]));
        // SIGINT is its fast shutdown: sessions are ended, everything is written.
        let log = setting.run.join("server.log");
        let mut server = Server::start(unprivileged(&mut command), libc::SIGINT, &log)?;
        server.wait_until(|| answers(setting, &socket.0)).with_context(|| format!("see {}", log.display()))?;
        Ok(Cluster { server, socket, data })
    }

    fn client(&self, setting: &Setting, name: &str) -> Command {
        let mut command = setting.client(&format!("inst/bin/{name}"), CLIENT_CPU);
        command.arg("-h").arg(&self.socket.0).args(["-U", "bench"]);
        command
    }

    /// Runs commands in one session, each in its own transaction, and returns what they printed.
    fn query(&self, setting: &Setting, commands: &[&str]) -> Result<String> {
        let mut command = self.client(setting, "psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        command.args(["-d", "postgres"]);
        command.args(commands.iter().flat_map(|sql| ["-c", sql]));
        Ok(String::from_utf8_lossy(&measure::run(&mut command, LIMIT)?.stdout).into_owned())
    }

    fn postmaster(&self) -> Result<u32> {
        server::pid_from(&self.data.join("postmaster.pid"))
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        // What stays behind is an empty directory in /tmp.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn answers(setting: &Setting, socket: &Path) -> bool {
    let mut command = setting.client("inst/bin/pg_isready", CLIENT_CPU);
    measure::run(command.arg("-q").arg("-h").arg(socket), LIMIT).is_ok()
}

/// Makes root's command run as nobody, who may stand in no directory of root's.
pub fn unprivileged(command: &mut Command) -> &mut Command {
    if procfs::am_root() { command.uid(NOBODY).gid(NOBODY).current_dir("/") } else { command }
}

/// A session of aggregates, measured by the processor time of its backend.
struct Aggregates {
    name: &'static str,
    queries: &'static str,
}

impl Workload for Aggregates {
    fn name(&self) -> &'static str {
        self.name
    }

    fn metrics(&self) -> &'static [Metric] {
        &[Metric { name: "server CPU", unit: "s", better: Better::Less }]
    }

    fn run(&self, setting: &Setting) -> Result<Sample> {
        let cluster = Cluster::start(setting)?;
        // The backend reads its own accounting at the end: all it has used since it was forked.
        let own_time = "select pg_read_file('/proc/self/schedstat')";
        let text = cluster.query(setting, &[self.queries, own_time])?;
        cluster.server.stop()?;
        let (answer, used) = text.trim_end().rsplit_once('\n').context("psql printed too little")?;
        let nanoseconds = procfs::on_cpu(used).context("no schedstat from the backend")?;
        Ok(Sample { values: vec![nanoseconds as f64 / 1e9], answer: digest(answer.as_bytes()) })
    }

    fn example(&self, place: &Place, program: &str, variant: Variant) -> String {
        example(place, program, variant, "psql -X -f FILE_WITH_QUERIES")
    }
}

/// Look-ups by primary key, two at a time.
struct Selects {
    name: &'static str,
    /// Whether each look-up comes over a connection of its own, for which the server forks.
    connecting: bool,
    /// Look-ups of each client.
    count: u64,
}

const SELECTS: Selects = Selects { name: "pgbench -S", connecting: false, count: 25_000 };
const CONNECTIONS: Selects = Selects { name: "pgbench -S -C", connecting: true, count: 600 };
const CLIENTS: u64 = 2;

impl Selects {
    fn arguments(&self, each: u64) -> String {
        let connect = if self.connecting { "-C " } else { "" };
        format!("-S {connect}-n -c {CLIENTS} -j 1 -t {each}")
    }
}

impl Workload for Selects {
    fn name(&self) -> &'static str {
        self.name
    }

    fn metrics(&self) -> &'static [Metric] {
        &[THROUGHPUT, CPU_PER_REQUEST]
    }

    fn run(&self, setting: &Setting) -> Result<Sample> {
        let cluster = Cluster::start(setting)?;
        let postmaster = cluster.postmaster()?;
        let answer =
            cluster.query(setting, &["select sum(aid), sum(abalance) from pgbench_accounts where aid % 7 = 3"])?;
        let before = procfs::waited_children_ticks(postmaster)?;
        let each = setting.count(self.count);
        let mut load = cluster.client(setting, "pgbench");
        let done = measure::run(load.args(self.arguments(each).split(' ')).arg("postgres"), LIMIT)?;
        // The postmaster learns of the backends' ends, and of their times, a moment after pgbench.
        std::thread::sleep(Duration::from_millis(200));
        let ticks = procfs::waited_children_ticks(postmaster)? - before;
        cluster.server.stop()?;
        let per_second = rate(&String::from_utf8_lossy(&done.stdout))?;
        let per_request = ticks as f64 * 10_000.0 / (each * CLIENTS) as f64;
        Ok(Sample { values: vec![per_second, per_request], answer: digest(answer.as_bytes()) })
    }

    fn example(&self, place: &Place, program: &str, variant: Variant) -> String {
        example(place, program, variant, &format!("pgbench {}", self.arguments(self.count)))
    }
}

/// The figure in `tps = 1234.5 (without initial connection time)`, or in `(including reconnection times)`.
fn rate(report: &str) -> Result<f64> {
    let figure = report.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    figure.with_context(|| format!("pgbench said:\n{report}"))
}

fn example(place: &Place, program: &str, variant: Variant, load: &str) -> String {
    let binaries = place.built(program, variant).join("inst/bin");
    let data = place.work.join("run").join(program).join("data");
    format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups {bin}/postgres -D {data} -k /tmp -h ''  \
         # load: {bin}/{load} -h /tmp -U bench postgres",
        bin = binaries.display(),
        data = data.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_pgbench_is_read() {
        let report = "number of clients: 2\ntps = 10234.5 (without initial connection time)\n";
        assert_eq!(rate(report).ok(), Some(10234.5));
        assert!(rate("nothing").is_err());
    }
}
