//! LevelDB: iterators, comparators and filters behind virtual functions, from one thread and from four.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::workload::{Run, Word, Workload};

pub struct LevelDb;

impl Program for LevelDb {
    fn name(&self) -> &'static str {
        "leveldb"
    }

    fn source(&self) -> Source {
        Source::Debian("leveldb")
    }

    fn needs(&self) -> &'static [&'static str] {
        // Its benchmark shares a header with its tests.
        &["libgtest-dev", "libgmock-dev"]
    }

    fn executable(&self) -> &'static str {
        "db_bench"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        // Its CMake files build a benchmark only with other projects' sources inside its own.
        let port = "-DLEVELDB_PLATFORM_POSIX=1 -DHAVE_FDATASYNC=1 -DHAVE_O_CLOEXEC=1 -DHAVE_FULLFSYNC=0";
        let sources = "$(ls db/*.cc table/*.cc util/*.cc benchmarks/db_bench.cc | grep -v -e _test.cc -e leveldbutil -e windows -e testutil.cc)";
        let files = "util/testutil.cc";
        let compile = format!(
            "printf '#define HAVE_FDATASYNC 1\\n#define HAVE_O_CLOEXEC 1\\n#define HAVE_FULLFSYNC 0\\n#define HAVE_CRC32C 0\\n\
             #define HAVE_SNAPPY 0\\n' >include/port_config.h; mkdir -p include/port && cp include/port_config.h include/port/; \
             for file in {sources} {files}; do echo \"$CXX\" -std=c++17 -fno-exceptions -Iinclude -I. {port} -DNDEBUG -c $file -o $file.o; done \
             | xargs -P 2 -I LINE sh -c LINE && \
             \"$CXX\" -o db_bench $(find db table util benchmarks -name '*.cc.o') -lgmock -lgtest -lpthread"
        );
        tree.step("sh", &["-c", &compile])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![
            benchmark("1 thread", "--threads=1", "--reads=600000"),
            benchmark("4 threads", "--threads=4", "--reads=150000"),
        ]
    }
}

/// Fills a database and reads it, at random places and in order.
fn benchmark(name: &'static str, threads: &'static str, reads: &'static str) -> Box<dyn Workload> {
    let what = "--benchmarks=fillseq,readrandom,readseq,readreverse,seekrandom";
    let plain = [what, "--num=200000", "--cache_size=268435456", "--compression_ratio=1", threads, reads];
    let place = [Word::Plain("--db=leveldb-data")];
    Box::new(Run {
        name,
        executable: "db_bench",
        arguments: plain.into_iter().map(Word::Plain).chain(place).collect(),
        environment: &[],
        // Most other lines hold times.
        is_answer: |line| line.starts_with("Entries:") || line.starts_with("Keys:"),
    })
}
