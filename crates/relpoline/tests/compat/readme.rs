// What static-keys' README shows, step by step: initialise, define a key, switch it by what the command line says, and branch on
// it in a loop, at several places.

struct CommandlineArgs;

impl CommandlineArgs {
    fn parse(arguments: &[&str]) -> bool {
        arguments.contains(&"--flag")
    }
}

// Its value at first is `false`.
define_static_key_false!(FLAG_STATIC_KEY);

fn application_initialize(arguments: &[&str]) {
    let flag = CommandlineArgs::parse(arguments);
    if flag {
        // SAFETY: nobody else runs through the branches.
        unsafe {
            FLAG_STATIC_KEY.enable();
        }
    }
}

fn do_something(done: &mut Vec<&'static str>) {
    done.push("something");
}
fn do_common_routines(done: &mut Vec<&'static str>) {
    done.push("routines");
}

#[inline(never)]
fn run_loop(rounds: usize) -> Vec<&'static str> {
    let mut done = Vec::new();
    for _ in 0..rounds {
        if static_branch_unlikely!(FLAG_STATIC_KEY) {
            do_something(&mut done);
        }
        do_common_routines(&mut done);
    }
    // A key can be looked at anywhere else as well.
    if static_branch_unlikely!(FLAG_STATIC_KEY) {
        done.push("with the flag");
    }
    done
}

/// What the loop did without the flag, with it, and when it was taken back: keys may be switched any number of times.
pub fn main() -> [Vec<&'static str>; 3] {
    static_keys::global_init();
    application_initialize(&["program"]);
    let without = run_loop(2);
    application_initialize(&["program", "--flag"]);
    let with = run_loop(2);
    // SAFETY: as above.
    unsafe {
        FLAG_STATIC_KEY.disable();
    }
    [without, with, run_loop(1)]
}
