//! What the pages show as typed at a terminal: the lines of a block that begin with `$`, in README and docs/.
//!
//! Such a block speaks of the reader's own: process 4711, a server, a file of his. Here stands what takes their place, and
//! what is left out, with the reason. Each block of each page is in this table, or the test says which one is not.

/// What becomes of a block.
pub enum Fate {
    /// It is run by a shell that stops at the first failure, in a directory of its own: what is `given` first, then its lines,
    /// with these words in the places of others.
    Run { given: &'static str, instead: &'static [(&'static str, &'static str)] },
    /// It is not, for this reason.
    Left(&'static str),
}

/// A block: its page, how its first line begins, and what becomes of it.
pub struct Block {
    pub page: &'static str,
    pub begins: &'static str,
    pub fate: Fate,
}

/// What each block that is run finds. `tool` ends soon; `server` does when it is killed, which it is in the end; both have retpolines.
pub const GIVEN: &str = r#"
cat > tool.c <<'END'
#include <stdio.h>
#include <unistd.h>
static unsigned add(unsigned x) { return x + 3; }
static unsigned twist(unsigned x) { return x ^ 5; }
unsigned (*volatile table[2])(unsigned) = { add, twist };
__attribute__((noinline)) unsigned execute_ex(unsigned x) { return table[x % 10 == 9](x) + 1; }
__attribute__((noinline)) unsigned ngx_http_handler(unsigned x) { return table[0](x) + 1; }
int main(void) {
    unsigned x = 0;
    for (long i = 0; ENDS ? i < 2000000 : 1; i++) {
        x = ngx_http_handler(execute_ex(x));
        if (!ENDS && i % 100000 == 0) usleep(1000);
    }
    printf("%u\n", x);
    return 0;
}
END
FLAGS="-O2 -mindirect-branch=thunk -mindirect-branch-register -fcf-protection=none -Wl,--build-id"
gcc $FLAGS -DENDS=1 tool.c -o tool
# No longer than what the system keeps of a name.
name=served$$
gcc $FLAGS -DENDS=0 tool.c -o $name
serve() { "$@" > /dev/null & server=$!; trap 'kill $server' EXIT; sleep 0.3; }
# What a trial or a search finds is a status, too: it saves, it may, it costs, there is nothing to promote.
either() { local status=0; "$@" || status=$?; case $status in 0|3|4|5) ;; *) return $status ;; esac; }
"#;

const SERVED: &str = "serve ./$name";
const MODULE: &str = "it loads a module into the kernel: cargo xtask kernel-test, and cargo xtask dist --dkms --check";

/// All of them.
pub const BLOCKS: &[Block] = &[
    Block { page: "README.md", begins: "cargo run --release -- demo", fate: Fate::Left("cli/demo.rs; the other line is this test") },
    Block {
        page: "README.md",
        begins: "relpoline try -- python3 app.py",
        fate: Fate::Run {
            given: "mkdir bin; cp tool bin/python3; cp tool bin/nginx; PATH=$PWD/bin:$PATH; serve ./$name",
            instead: &[
                ("relpoline try --", "either relpoline try -n 2 --"),
                // Somebody may have an nginx.
                ("--name nginx", "--name $name"),
                ("/usr/sbin/nginx", "bin/nginx"),
                ("relpoline top ", "relpoline top --once "),
            ],
        },
    },
    Block {
        page: "README.md",
        begins: "cargo install --path crates/cli",
        fate: Fate::Run {
            given: "HOME=$PWD",
            // That a release build of the command installs is shown by cargo xtask dist.
            instead: &[("cargo install --path crates/cli", "true")],
        },
    },
    Block {
        page: "docs/attach.md",
        begins: "relpoline attach 4711",
        fate: Fate::Run {
            given: SERVED,
            instead: &[
                ("--name nginx", "--name $name"),
                // Without systemd: cli/chosen.rs makes a control group of that name.
                ("relpoline attach --unit nginx.service", "true"),
            ],
        },
    },
    Block { page: "docs/bpf-migration.md", begins: "cargo rustc --release", fate: Fate::Left("crates/bpf/tests/c.rs does the same") },
    Block { page: "docs/bpf.md", begins: "relpoline bpf run pipeline.o", fate: Fate::Left("programs of the reader's: cli/tests/bpf.rs") },
    Block { page: "docs/bpf.md", begins: "relpoline bpf run filter.o", fate: Fate::Left("programs of the reader's: cli/tests/bpf.rs") },
    Block { page: "docs/bpf.md", begins: "relpoline bpf run policy.o", fate: Fate::Left("programs of the reader's: cli/tests/bpf.rs") },
    Block { page: "docs/bpf.md", begins: "relpoline bpf dis filter.o", fate: Fate::Left("programs of the reader's: cli/tests/bpf.rs") },
    Block {
        page: "docs/build.md",
        begins: "relpoline inspect PROGRAM",
        fate: Fate::Run { given: "", instead: &[("PROGRAM", "./tool"), ("relpoline try --", "either relpoline try -n 2 --")] },
    },
    Block { page: "docs/cpp.md", begins: "cargo rustc --release", fate: Fate::Left("crates/relpoline/tests/c.rs does the same") },
    Block {
        page: "docs/deploy.md",
        begins: "relpoline inspect /usr/sbin/nginx",
        fate: Fate::Run {
            given: "serve relpoline run -- ./$name; date +%s%N > requests; (while sleep 0.05; do date +%s%N > n && mv n requests; done) & ticks=$!
                trap 'kill $server $ticks' EXIT; sleep 0.2",
            instead: &[
                ("/usr/sbin/nginx", "./tool"),
                ("pgrep -o nginx", "echo $server"),
                ("relpoline try", "either relpoline try"),
                ("--seconds 60", "--seconds 5"),
            ],
        },
    },
    Block { page: "docs/kernel.md", begins: "cargo xtask dist", fate: Fate::Left(MODULE) },
    Block { page: "docs/kernel.md", begins: "sudo dkms generate_mok", fate: Fate::Left("it enrols a key in the firmware, and boots the machine anew") },
    Block { page: "docs/kernel.md", begins: "cargo xtask kernel-build", fate: Fate::Left(MODULE) },
    Block {
        page: "docs/observe.md",
        begins: "relpoline perf 4711",
        fate: Fate::Run {
            given: "perf record -q -e cpu-clock -o trial -- true > /dev/null 2>&1 || { echo 'skipped: perf may not record here'; exit 0; }
                serve relpoline run -- ./$name",
            instead: &[("-- sleep 10", "-- sleep 1")],
        },
    },
    Block {
        page: "docs/profiles.md",
        begins: "relpoline run --count --profile server.relprof",
        fate: Fate::Run { given: "cp tool server", instead: &[] },
    },
    Block {
        page: "docs/profiles.md",
        begins: "clang -O2 -g1",
        fate: Fate::Run {
            given: "command -v clang > /dev/null || { echo 'skipped: clang is not installed'; exit 0; }
                sed 's/ENDS/1/g' tool.c > server.c",
            instead: &[],
        },
    },
    Block {
        page: "docs/torture.md",
        begins: "relpoline torture ",
        fate: Fate::Run { given: "", instead: &[("--seconds 3600", ""), ("relpoline torture", "relpoline torture --seconds 2")] },
    },
    Block {
        page: "docs/try.md",
        begins: "relpoline try -- ./report data.csv",
        fate: Fate::Run { given: "cp tool report", instead: &[("relpoline try", "either relpoline try -n 2")] },
    },
    Block {
        page: "docs/try.md",
        begins: "relpoline attach 4711",
        fate: Fate::Run {
            given: "mkdir bin; printf '%s\n' '#!/bin/sh' 'echo \"requests: $(date +%s%N)\"' > bin/curl; chmod +x bin/curl
                PATH=$PWD/bin:$PATH; serve ./$name",
            instead: &[("relpoline try", "either relpoline try"), ("--seconds 60", "--seconds 5")],
        },
    },
    Block {
        page: "docs/what-can-go-wrong.md",
        begins: "relpoline explain 4711 execute_ex",
        fate: Fate::Run {
            given: "cp tool server; serve relpoline run -- ./$name",
            instead: &[("relpoline try", "either relpoline try -n 2")],
        },
    },
    Block { page: "docs/what-can-go-wrong.md", begins: "relpoline attach --wait 4711", fate: Fate::Run { given: SERVED, instead: &[] } },
    Block {
        page: "docs/what-can-go-wrong.md",
        begins: "relpoline doctor",
        fate: Fate::Run { given: "", instead: &[("--seconds 600", "--seconds 2")] },
    },
];

/// The blocks of a page: of each its lines that begin with `$`, without that.
pub fn blocks(page: &str) -> Vec<Vec<String>> {
    let (mut blocks, mut open) = (Vec::new(), None::<Vec<String>>);
    for line in page.lines().map(str::trim_start) {
        if line.starts_with("```") {
            match open.take() {
                Some(block) => blocks.push(block),
                None => open = Some(Vec::new()),
            }
        } else if let (Some(block), Some(command)) = (&mut open, line.strip_prefix("$ ")) {
            block.push(command.to_owned());
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

impl Block {
    /// What the shell is given; nothing when the block is left out.
    pub fn script(&self, lines: &[String]) -> Option<String> {
        let Fate::Run { given, instead } = self.fate else { return None };
        let replaced = |line: &String| {
            let line = line.replace("4711", "$server").replace('…', "");
            instead.iter().fold(line, |line, (from, to)| line.replace(from, to))
        };
        Some(format!("{GIVEN}{given}\n{}\n", lines.iter().map(replaced).collect::<Vec<_>>().join("\n")))
    }
}
