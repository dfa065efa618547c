//! A library that is loaded and unloaded at run time, with a copy of relpoline of its own.

use relpoline::{State, dynamic_call, static_call, static_key, unlikely};

static_key!(static VERBOSE: bool = false);
static_call!(fn answer(x: u64) -> u64 = plain);
dynamic_call!(fn apply(x: u64) -> u64);

fn plain(x: u64) -> u64 {
    x + 1
}
fn doubled(x: u64) -> u64 {
    x * 2
}

/// Exercises all three; returns 0, or the number of what went wrong.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_check() -> u32 {
    let check = |ok: bool, number: u32| if ok { Ok(()) } else { Err(number) };
    let run = || -> Result<(), u32> {
        check(!unlikely!(VERBOSE) && answer(20) == 21, 1)?;
        VERBOSE.enable().map_err(|_| 2u32)?;
        answer::update(doubled).map_err(|_| 3u32)?;
        check(unlikely!(VERBOSE) && answer(20) == 40, 4)?;
        // Without the clock, which may find that the plain call is as fast.
        apply::state().always_promote(true);
        for x in 0..5000 {
            check(apply(plain, x) == x + 1 && apply(doubled, x) == 2 * x, 5)?;
        }
        let stats = apply::stats();
        let known = |f: fn(u64) -> u64| stats.targets.iter().any(|t| t.address == f as usize);
        check(stats.state == State::Promoted && known(plain) && known(doubled), 9)?;
        VERBOSE.disable().map_err(|_| 7u32)?;
        answer::reset().map_err(|_| 8u32)?;
        check(!unlikely!(VERBOSE) && answer(20) == 21, 6)
    };
    run().err().unwrap_or(0)
}
