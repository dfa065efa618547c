//! What a link costs, and which part of that is opening this process' memory: `cargo bench -p relpoline-text --bench link`.
//!
//! The text is a page like a program's: private, executable, not writable. Links go forth and back, so that each one changes
//! its byte.

use std::arch::x86_64::_rdtsc;
use std::fs::File;
use std::hint::black_box;

use relpoline_text::lock::TryLock;
use relpoline_text::poke;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

const ROUNDS: usize = 21;
const EACH: usize = 2000;

fn main() {
    let text = page();
    let lock = TryLock::new();
    lock.settle();
    let _held = lock.try_take(1, 1000, 1).expect("nobody has it");
    // Interleaved, so that a disturbance meets both.
    let (links, opens): (Vec<_>, Vec<_>) = (0..ROUNDS)
        .map(|_| {
            let link = |n: usize| {
                let to = [0, 0, (n % 2) as u8, 0];
                poke::link(&lock, 1, text, to, None).expect("the page is this process' own");
            };
            let open = |_| drop(black_box(File::options().read(true).write(true).open("/proc/self/mem")));
            (cycles(link), cycles(open))
        })
        .unzip();
    print("a link", links);
    print("of which opening and closing /proc/self/mem", opens);
}

/// A page of zeros that can be executed and not written.
fn page() -> u64 {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::EXEC, MapFlags::PRIVATE);
    // SAFETY: a new mapping where the kernel likes it.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, protection, flags) }.expect("memory for a page");
    page as u64
}

/// Cycles of the time stamp counter for each time that `work` is done.
fn cycles(work: impl Fn(usize)) -> f64 {
    // SAFETY: every x86-64 processor has the counter.
    let begun = unsafe { _rdtsc() };
    // From 1 on, since the page begins as link 0 leaves it.
    (1..=EACH).for_each(work);
    // SAFETY: as above.
    let ended = unsafe { _rdtsc() };
    (ended - begun) as f64 / EACH as f64
}

fn print(what: &str, mut samples: Vec<f64>) {
    samples.sort_by(f64::total_cmp);
    let (least, most) = (samples[0], samples[ROUNDS - 1]);
    println!(
        "{what}: {:.0} cycles (median of {ROUNDS} rounds of {EACH}; {least:.0} to {most:.0})",
        samples[ROUNDS / 2]
    );
}
