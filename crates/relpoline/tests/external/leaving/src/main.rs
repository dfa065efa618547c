//! Ends while a thread goes on; before that, loads the library given and unloads it, or (with a second argument) lets it
//! be until the end.
mod uses;

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlclose(handle: *mut c_void) -> c_int;
}

relpoline::static_key!(static GOING: bool = false);
static ROUNDS: AtomicU64 = AtomicU64::new(0);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = CString::new(arguments.next().expect("a library")).unwrap();
    // SAFETY: the library exports this function; nobody is in it when it is unloaded.
    unsafe {
        let handle = dlopen(path.as_ptr(), 2);
        assert!(!handle.is_null(), "loaded");
        let begin: extern "C" fn() = std::mem::transmute(dlsym(handle, c"library_begin".as_ptr()));
        begin();
        if arguments.next().is_none() {
            assert_eq!(dlclose(handle), 0);
            println!("unloaded");
        }
    }
    uses::begin();
    std::thread::spawn(|| {
        loop {
            let on = !GOING.is_enabled();
            GOING.set(on).unwrap();
            if relpoline::unlikely!(GOING) != on {
                println!("WRONG: a thread's change is not seen");
            }
            ROUNDS.fetch_add(1, Ordering::Relaxed);
        }
    });
    while ROUNDS.load(Ordering::Relaxed) < 10 {
        std::thread::yield_now();
    }
    println!("ends");
}
