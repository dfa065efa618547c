//! How often programs were started, counted per thread so that counting threads do not disturb each other.

use std::cell::UnsafeCell;
use std::sync::{Arc, Mutex, PoisonError};

/// Programs that can be counted at a time.
const PLACES: usize = 4096;

struct Table(Box<[UnsafeCell<u64>]>);

// SAFETY: written by its own thread alone; others read single aligned words, volatile, and may be late.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

#[derive(Default)]
struct All {
    tables: Vec<Arc<Table>>,
    idle: Vec<usize>,
    next: usize,
}

static ALL: Mutex<All> = Mutex::new(All { tables: Vec::new(), idle: Vec::new(), next: 0 });

thread_local! {
    static MINE: Arc<Table> = {
        let table = Arc::new(Table((0..PLACES).map(|_| UnsafeCell::new(0)).collect()));
        all().tables.push(table.clone());
        table
    };
}

fn all() -> std::sync::MutexGuard<'static, All> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The calling thread's counters.
pub fn mine() -> *mut u64 {
    MINE.with(|table| table.0.as_ptr().cast::<u64>().cast_mut())
}

/// A place to count at, and what it says already.
pub fn take() -> Option<(usize, u64)> {
    let mut all = all();
    let place = all.idle.pop().or_else(|| {
        all.next += 1;
        (all.next <= PLACES).then(|| all.next - 1)
    })?;
    Some((place, sum(&all, place)))
}

/// Gives a place back.
pub fn give_back(place: usize) {
    all().idle.push(place);
}

/// The sum over all threads, those that ended included.
pub fn count(place: usize) -> u64 {
    sum(&all(), place)
}

fn sum(all: &All, place: usize) -> u64 {
    // SAFETY: an aligned word inside the table; see above.
    all.tables.iter().map(|table| unsafe { table.0[place].get().read_volatile() }).sum()
}
