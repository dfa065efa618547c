//! How often programs were started, counted per thread so that counting threads do not disturb each other.

use std::cell::UnsafeCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockResult};

/// Programs that can be counted at a time.
const PLACES: usize = 4096;

/// One thread's counters.
struct Table(Box<[UnsafeCell<u64>]>);

// SAFETY: written by its own thread alone; others read single aligned words, volatile, and may be late.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

/// All threads' counters.
pub struct All {
    tables: Vec<Arc<Table>>,
    /// What threads counted that have ended.
    past: Vec<u64>,
    idle: Vec<usize>,
    next: usize,
}

static ALL: Mutex<All> = Mutex::new(All { tables: Vec::new(), past: Vec::new(), idle: Vec::new(), next: 0 });

/// A thread's counters, until it ends.
struct Mine(Arc<Table>);

impl Drop for Mine {
    fn drop(&mut self) {
        let mut all = all();
        all.tables.retain(|table| !Arc::ptr_eq(table, &self.0));
        all.past.resize(PLACES, 0);
        for (past, counted) in all.past.iter_mut().zip(&*self.0.0) {
            // SAFETY: an aligned word of this thread's own.
            *past += unsafe { counted.get().read() };
        }
    }
}

thread_local! {
    static MINE: Mine = {
        let table = Arc::new(Table((0..PLACES).map(|_| UnsafeCell::new(0)).collect()));
        all().tables.push(table.clone());
        Mine(table)
    };
}

/// Where threads count that are so near their end that they have no counters any more: nobody reads it.
static NOBODYS: Nobodys = Nobodys([const { UnsafeCell::new(0) }; PLACES]);

struct Nobodys([UnsafeCell<u64>; PLACES]);

// SAFETY: written by generated code and the interpreter, by plain words that nobody reads.
unsafe impl Sync for Nobodys {}

fn all() -> MutexGuard<'static, All> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All counters, for [`crate::fork`] to hold.
pub fn hold() -> TryLockResult<MutexGuard<'static, All>> {
    ALL.try_lock()
}

/// The calling thread's counters.
pub fn mine() -> *mut u64 {
    MINE.try_with(|mine| mine.0.0.as_ptr().cast::<u64>().cast_mut())
        .unwrap_or(NOBODYS.0.as_ptr().cast::<u64>().cast_mut())
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
    let now: u64 = all.tables.iter().map(|table| unsafe { table.0[place].get().read_volatile() }).sum();
    now + all.past.get(place).copied().unwrap_or(0)
}
