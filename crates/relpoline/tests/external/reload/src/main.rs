//! Loads a library with a copy of relpoline of its own, uses all it has, and unloads it, again and again: whether
//! anything is left behind. `reload LIBRARY TIMES`

use std::ffi::{CString, c_char, c_int, c_void};

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlclose(handle: *mut c_void) -> c_int;
}

/// Mappings, kilobytes in memory, and descriptors of this process.
fn taken() -> (usize, usize, usize) {
    let lines = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = resident.trim().trim_end_matches(" kB").parse().unwrap();
    (lines, resident, std::fs::read_dir("/proc/self/fd").unwrap().count())
}

fn round(path: &CString) {
    // SAFETY: the library exports this function; nobody is in it when it is unloaded.
    unsafe {
        let handle = dlopen(path.as_ptr(), 2);
        assert!(!handle.is_null(), "loaded");
        let check: extern "C" fn() -> u32 = std::mem::transmute(dlsym(handle, c"plugin_check".as_ptr()));
        assert_eq!(check(), 0);
        assert_eq!(dlclose(handle), 0);
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = CString::new(arguments.next().expect("a library")).unwrap();
    let times: usize = arguments.next().expect("a number").parse().unwrap();
    (0..times / 10).for_each(|_| round(&path));
    let before = taken();
    (0..times).for_each(|_| round(&path));
    let after = taken();
    println!("{times} times: mappings, kB, descriptors {before:?}, then {after:?}");
    assert!(after.0 <= before.0 + 2 && after.2 <= before.2, "mappings or descriptors are left");
    // An arena alone would be a megabyte, each time.
    assert!(after.1 <= before.1 + 2048, "memory is left");
}
