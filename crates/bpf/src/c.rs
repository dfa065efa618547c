//! The interface for C: what `relpoline_bpf.h` declares, in the shape of ubpf's. Rust programs do not need
//! it.
//!
//! A machine is a runtime that is made when it is loaded: helpers are part of a runtime, and ubpf's users
//! register them before. `cargo rustc --release -p relpoline-bpf --features c --crate-type staticlib` (or
//! `cdylib`).
//!
//! # Safety
//! What the functions ask of their callers is in the header, as is usual in C: pointers are what they say, or
//! null where it says so; a machine is destroyed once, when nobody uses it.
#![expect(missing_docs, clippy::missing_safety_doc, reason = "the header says it, once for all")]

use crate::elf::{Around, Object};
use crate::insn::parse;
use crate::invocation::Invocation;
use crate::map::Mode;
use crate::program::{Checks, Options, Program, Source};
use crate::runtime::{Runtime, RuntimeBuilder};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// A helper of the host's.
type External = extern "C" fn(u64, u64, u64, u64, u64) -> u64;
/// Compiled code, as ubpf gives it.
type Compiled = extern "C" fn(*mut c_void, usize) -> u64;

/// What was loaded.
struct Loaded {
    /// The file, if it was one.
    object: Option<Object>,
    /// Where runs begin; it stays where it is.
    program: Box<Program>,
}

/// A machine: see the module's text.
#[derive(Default)]
pub struct Machine {
    helpers: Vec<(u32, String, External)>,
    options: Options,
    loaded: Option<Loaded>,
    /// Its place among those that have compiled code.
    place: Option<usize>,
}

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
}

/// Leaves a message where the caller wants it, to be freed by `free`: −1.
///
/// # Safety
/// `to` is null or can be written.
unsafe fn fail(to: *mut *mut c_char, message: &str) -> c_int {
    let message = CString::new(message.replace('\0', "?")).unwrap_or_default();
    let bytes = message.as_bytes_with_nul();
    if !to.is_null() {
        // SAFETY: any size will do; what is written is as long as what was asked for; `to` says the caller.
        unsafe {
            let copy = malloc(bytes.len()).cast::<c_char>();
            if !copy.is_null() {
                copy.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len());
            }
            to.write(copy);
        }
    }
    -1
}

/// `len` bytes at `at`; none where it is null.
///
/// # Safety
/// They are there, and nobody writes them meanwhile.
unsafe fn bytes<'a>(at: *const c_void, len: usize) -> &'a [u8] {
    // SAFETY: says the caller.
    if at.is_null() || len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(at.cast(), len) } }
}

/// # Safety
/// Null, or a string.
unsafe fn text(at: *const c_char) -> Option<String> {
    // SAFETY: says the caller.
    (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned())
}

#[unsafe(no_mangle)]
pub extern "C" fn relpoline_bpf_create() -> *mut Machine {
    Box::into_raw(Box::default())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_destroy(machine: *mut Machine) {
    if !machine.is_null() {
        // SAFETY: made by `relpoline_bpf_create`, and the caller's last use.
        let mut machine = unsafe { Box::from_raw(machine) };
        forget(&mut machine);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_register(
    machine: *mut Machine,
    number: c_uint,
    name: *const c_char,
    function: Option<External>,
) -> c_int {
    // SAFETY: a machine, says the caller.
    let machine = unsafe { &mut *machine };
    let (Some(function), None) = (function, &machine.loaded) else { return -1 };
    if number == crate::helper::TAIL_CALL {
        return -1;
    }
    // SAFETY: null or a string, says the caller.
    let name = unsafe { text(name) }.unwrap_or_default();
    machine.helpers.retain(|(other, ..)| *other != number);
    machine.helpers.push((number, name, function));
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_toggle_bounds_check(machine: *mut Machine, on: bool) -> bool {
    // SAFETY: a machine, says the caller.
    let machine = unsafe { &mut *machine };
    let before = !machine.options.checks.are_off();
    // SAFETY: the caller vouches for the program, as the header says.
    machine.options.checks = if on { Checks::default() } else { unsafe { Checks::off() } };
    before
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_set_instruction_limit(
    machine: *mut Machine,
    limit: u32,
    before: *mut u32,
) -> c_int {
    // SAFETY: a machine, says the caller.
    let machine = unsafe { &mut *machine };
    if machine.loaded.is_some() {
        return -1;
    }
    let now = machine.options.budget.map_or(0, |budget| u32::try_from(budget).unwrap_or(u32::MAX));
    machine.options.budget = (limit > 0).then_some(limit.into());
    if !before.is_null() {
        // SAFETY: can be written, says the caller.
        unsafe { before.write(now) };
    }
    0
}

fn runtime(machine: &Machine) -> Result<Runtime, String> {
    let add = |builder: RuntimeBuilder, (number, _, function): &(u32, String, External)| {
        let function = *function;
        builder.helper(*number, move |call| {
            let [r1, r2, r3, r4, r5] = call.args;
            Ok(function(r1, r2, r3, r4, r5))
        })
    };
    machine.helpers.iter().fold(Runtime::builder(), add).build().map_err(|error| error.to_string())
}

fn load_code(machine: &Machine, code: &[u8]) -> Result<Loaded, String> {
    let insns = parse(code).ok_or("code's length is not a multiple of 8")?;
    let source = Source { name: "main", section: "", insns: &insns, maps: &[] };
    let program = Program::load(&runtime(machine)?, source, machine.options).map_err(|error| error.to_string())?;
    Ok(Loaded { object: None, program: Box::new(program) })
}

fn load_object(machine: &Machine, file: &[u8], wanted: Option<&str>) -> Result<Loaded, String> {
    let functions: Vec<(String, u32)> =
        machine.helpers.iter().filter(|(_, name, _)| !name.is_empty()).map(|(n, name, _)| (name.clone(), *n)).collect();
    let around = Around { functions: &functions, ..Around::default() };
    let object = Object::load_within(&runtime(machine)?, file, machine.options, &around, |_| true);
    let object = object.map_err(|error| error.to_string())?;
    let is_wanted = |program: &&Program| wanted.is_none_or(|name| program.name() == name || program.section() == name);
    let program = object.programs().iter().find(is_wanted).cloned();
    let program = program.ok_or_else(|| {
        let refused = object.refused().iter().find(|(name, _)| wanted.is_none_or(|wanted| name == wanted));
        refused.map_or_else(|| format!("no program '{}'", wanted.unwrap_or("")), |(_, why)| why.to_string())
    })?;
    Ok(Loaded { object: Some(object), program: Box::new(program) })
}

/// # Safety
/// As for the functions of the interface.
unsafe fn load(
    machine: *mut Machine,
    message: *mut *mut c_char,
    load: impl FnOnce(&Machine) -> Result<Loaded, String>,
) -> c_int {
    // SAFETY: a machine, says the caller.
    let machine = unsafe { &mut *machine };
    if machine.loaded.is_some() {
        // SAFETY: as here.
        return unsafe { fail(message, "code has already been loaded into this machine; unload it first") };
    }
    match load(machine) {
        Ok(loaded) => {
            machine.loaded = Some(loaded);
            0
        }
        // SAFETY: as here.
        Err(why) => unsafe { fail(message, &why) },
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_load(
    machine: *mut Machine,
    code: *const c_void,
    len: u32,
    message: *mut *mut c_char,
) -> c_int {
    // SAFETY: says the caller.
    unsafe { load(machine, message, |machine| load_code(machine, bytes(code, len as usize))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_load_elf(
    machine: *mut Machine,
    file: *const c_void,
    len: usize,
    message: *mut *mut c_char,
) -> c_int {
    // SAFETY: says the caller.
    unsafe { relpoline_bpf_load_elf_ex(machine, file, len, std::ptr::null(), message) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_load_elf_ex(
    machine: *mut Machine,
    file: *const c_void,
    len: usize,
    wanted: *const c_char,
    message: *mut *mut c_char,
) -> c_int {
    // SAFETY: says the caller.
    unsafe { load(machine, message, |machine| load_object(machine, bytes(file, len), text(wanted).as_deref())) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_unload_code(machine: *mut Machine) {
    // SAFETY: a machine, says the caller.
    forget(unsafe { &mut *machine });
}

/// Forgets what was loaded, and its place.
fn forget(machine: &mut Machine) {
    if let Some(place) = machine.place.take() {
        COMPILED[place].store(std::ptr::null_mut(), Ordering::Release);
    }
    machine.loaded = None;
}

/// # Safety
/// `len` bytes at `memory` are there, and the run's alone.
unsafe fn run(program: &Program, memory: *mut c_void, len: usize) -> Result<u64, String> {
    let input = if memory.is_null() || len == 0 {
        &mut []
    } else {
        // SAFETY: says the caller.
        unsafe { std::slice::from_raw_parts_mut(memory.cast::<u8>(), len) }
    };
    program.invoke(Invocation::new(input)).map_err(|trap| trap.to_string())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_exec(
    machine: *const Machine,
    memory: *mut c_void,
    len: usize,
    result: *mut u64,
) -> c_int {
    // SAFETY: says the caller.
    unsafe { relpoline_bpf_exec_told(machine, memory, len, result, std::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_exec_told(
    machine: *const Machine,
    memory: *mut c_void,
    len: usize,
    result: *mut u64,
    message: *mut *mut c_char,
) -> c_int {
    // SAFETY: a machine, says the caller.
    let Some(loaded) = (unsafe { &(*machine).loaded }) else {
        // SAFETY: as here.
        return unsafe { fail(message, "nothing is loaded") };
    };
    // SAFETY: says the caller.
    match unsafe { run(&loaded.program, memory, len) } {
        Ok(r0) => {
            // SAFETY: can be written, says the caller.
            unsafe { result.write(r0) };
            0
        }
        // SAFETY: as here.
        Err(why) => unsafe { fail(message, &why) },
    }
}

/// Machines that may have compiled code at a time: a function of C knows nothing but its own address.
const PLACES: usize = 64;
/// The programs of those that are taken. Each belongs to its machine.
static COMPILED: [AtomicPtr<Program>; PLACES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; PLACES];

extern "C" fn compiled<const PLACE: usize>(memory: *mut c_void, len: usize) -> u64 {
    // SAFETY: a machine's program until it is unloaded, after which nobody calls this, says whoever was given
    // it.
    let program = unsafe { COMPILED[PLACE].load(Ordering::Acquire).as_ref() };
    // SAFETY: as above.
    program.and_then(|program| unsafe { run(program, memory, len) }.ok()).unwrap_or(u64::MAX)
}

macro_rules! each {
    ($($place:literal)*) => { [$(compiled::<$place>),*] };
}
static FUNCTIONS: [Compiled; PLACES] = each!(
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_compile(machine: *mut Machine, message: *mut *mut c_char) -> Option<Compiled> {
    // SAFETY: a machine, says the caller.
    let machine = unsafe { &mut *machine };
    let place = match (&machine.loaded, machine.place) {
        (None, _) => Err("nothing is loaded"),
        (_, Some(place)) => Ok(place),
        (Some(loaded), None) => {
            let (null, program) = (std::ptr::null_mut(), std::ptr::from_ref(&*loaded.program).cast_mut());
            let take = |place: &AtomicPtr<Program>| {
                place.compare_exchange(null, program, Ordering::Release, Ordering::Relaxed).is_ok()
            };
            let free = COMPILED.iter().position(take);
            free.ok_or("64 machines have functions already; relpoline_bpf_exec needs none")
        }
    };
    match place {
        Ok(place) => {
            machine.place = Some(place);
            FUNCTIONS.get(place).copied()
        }
        Err(why) => {
            // SAFETY: as here.
            unsafe { fail(message, why) };
            None
        }
    }
}

/// The map of that name of what is loaded.
///
/// # Safety
/// As for the functions of the interface.
unsafe fn map<'a>(machine: *const Machine, name: *const c_char) -> Option<&'a crate::map::Map> {
    // SAFETY: says the caller.
    let (machine, name) = unsafe { (&*machine, text(name)?) };
    machine.loaded.as_ref()?.object.as_ref()?.map(&name)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_map_update(
    machine: *const Machine,
    name: *const c_char,
    key: *const c_void,
    value: *const c_void,
) -> c_int {
    // SAFETY: says the caller; the map knows how long keys and values are.
    let done = unsafe { map(machine, name) }.and_then(|map| {
        let spec = map.spec();
        // SAFETY: as above.
        let (key, value) = unsafe { (bytes(key, spec.key_size as usize), bytes(value, spec.value_size as usize)) };
        map.set(key, value, Mode::Any).ok()
    });
    if done.is_some() { 0 } else { -1 }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_map_lookup(
    machine: *const Machine,
    name: *const c_char,
    key: *const c_void,
    value: *mut c_void,
) -> c_int {
    // SAFETY: says the caller.
    let found = unsafe { map(machine, name) }.and_then(|map| {
        // SAFETY: as above.
        let key = unsafe { bytes(key, map.spec().key_size as usize) };
        map.get(key).ok().map(|bytes| (bytes, map.spec().value_size as usize))
    });
    let Some((found, size)) = found else { return -1 };
    let size = size.min(found.len());
    // SAFETY: there is room for a value, says the caller.
    unsafe { value.cast::<u8>().copy_from_nonoverlapping(found.as_ptr(), size) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_bpf_array_update(
    machine: *const Machine,
    array: *const c_char,
    slot: u32,
    program: *const c_char,
    message: *mut *mut c_char,
) -> c_int {
    // SAFETY: says the caller.
    let (machine, array, program) = unsafe { (&*machine, text(array), text(program)) };
    let object = machine.loaded.as_ref().and_then(|loaded| loaded.object.as_ref());
    let done = (|| {
        let object = object.ok_or("no object is loaded")?;
        let array = array.and_then(|name| object.array(&name)).ok_or("no such program array")?;
        let target = match program {
            None => None,
            Some(name) => Some(object.program(&name).ok_or("no such program")?),
        };
        array.update(slot, target).map_err(|error| error.to_string())
    })();
    // SAFETY: as here.
    done.map_or_else(|why: String| unsafe { fail(message, &why) }, |()| 0)
}
