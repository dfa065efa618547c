//! Dynamic calls for trait objects.
//!
//! A call of a method of a trait object loads the method's address from the object's vtable and calls it. The
//! vtable's layout is the compiler's business, so where in it the address lies is not assumed but read off:
//! the compiler is given a function that does nothing but that call, with the vtable in a known register, and
//! if what it made of it is `jmp *offset(register)`, or the load and the jump apart, that is the place. If it
//! is anything else (without optimisation, say), calls of the method stay what they are.

use core::sync::atomic::{AtomicU32, Ordering};

const UNKNOWN: u32 = u32::MAX;
const NONE: u32 = 0;

/// Where in its vtables a method lies; [`dynamic_method!`](crate::dynamic_method) writes it.
#[derive(Debug)]
pub struct MethodSlot {
    offset: AtomicU32,
}

impl MethodSlot {
    /// Not known yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "only the macro makes one")]
    pub const fn new() -> MethodSlot {
        MethodSlot { offset: AtomicU32::new(UNKNOWN) }
    }

    /// The offset of the method's address, or 0 when it cannot be told. `call` is the function that calls the
    /// method of the object whose vtable is in the register with number `register`.
    #[inline(always)]
    pub fn offset(&self, call: *const (), register: u8) -> usize {
        match self.offset.load(Ordering::Relaxed) {
            UNKNOWN => self.find(call, register),
            offset => offset as usize,
        }
    }

    #[cold]
    fn find(&self, call: *const (), register: u8) -> usize {
        let found = crate::imp::vtable_offset(call, register).unwrap_or(NONE);
        self.offset.store(found, Ordering::Relaxed);
        found as usize
    }
}

/// Defines a dynamic call of a trait object's method: a function that calls it, and learns where that goes.
///
/// ```
/// trait Shape {
///     fn area(&self, scale: u64) -> u64;
/// }
/// struct Square(u64);
/// impl Shape for Square {
///     fn area(&self, scale: u64) -> u64 { self.0 * self.0 * scale }
/// }
///
/// relpoline::dynamic_method! {
///     /// The area of any shape.
///     pub fn area_of(shape: &dyn Shape, scale: u64) -> u64 = area;
/// }
///
/// let shapes: Vec<Box<dyn Shape>> = vec![Box::new(Square(2)), Box::new(Square(3))];
/// assert_eq!(shapes.iter().map(|s| area_of(&**s, 10)).sum::<u64>(), 130);
/// ```
///
/// The trait is not changed, and may be somebody else's. `area_of::state()` is the
/// [`DynamicCall`](crate::DynamicCall) behind it. The object may be `&dyn Trait` or `&mut dyn Trait`, with
/// bounds in parentheses: `&mut (dyn Trait + Send)`. For the other arguments and the result the rules of
/// [`dynamic_call!`](crate::dynamic_call) hold.
///
/// Without optimisation this is the plain call.
#[macro_export]
macro_rules! dynamic_method {
    ($($all:tt)*) => { $crate::__dynamic_methods!($($all)*); };
}

/// One dynamic method after the other, by the forms of its object. The last arm says what is wrong with a
/// form that is none.
#[doc(hidden)]
#[macro_export]
macro_rules! __dynamic_methods {
    () => {};
    ($(#[$meta:meta])* $vis:vis fn $name:ident($object:ident: &dyn $tr:path $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? = $method:ident $(; $($more:tt)*)?) => {
        $crate::__dynamic_method!([$(#[$meta])* $vis] $name $object [&dyn $tr] ($($arg: $ty),*) [$(-> $ret)?] $method);
        $($crate::__dynamic_methods!($($more)*);)?
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident($object:ident: &mut dyn $tr:path $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? = $method:ident $(; $($more:tt)*)?) => {
        $crate::__dynamic_method!([$(#[$meta])* $vis] $name $object [&mut dyn $tr] ($($arg: $ty),*) [$(-> $ret)?] $method);
        $($crate::__dynamic_methods!($($more)*);)?
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident($object:ident: &(dyn $($bounds:tt)+) $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? = $method:ident $(; $($more:tt)*)?) => {
        $crate::__dynamic_method!([$(#[$meta])* $vis] $name $object [&(dyn $($bounds)+)] ($($arg: $ty),*) [$(-> $ret)?] $method);
        $($crate::__dynamic_methods!($($more)*);)?
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident($object:ident: &mut (dyn $($bounds:tt)+) $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? = $method:ident $(; $($more:tt)*)?) => {
        $crate::__dynamic_method!([$(#[$meta])* $vis] $name $object [&mut (dyn $($bounds)+)] ($($arg: $ty),*) [$(-> $ret)?] $method);
        $($crate::__dynamic_methods!($($more)*);)?
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident($object:ident: $not:ty $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? = $method:ident $(; $($more:tt)*)?) => {
        // A function all the same, so that its uses are not mistakes as well.
        $vis fn $name($object: $not $(, $arg: $ty)*) $(-> $ret)? {
            ::core::compile_error!(::core::concat!(
                "the first parameter of a dynamic method is the trait object: `&dyn Trait`, `&mut dyn Trait`, or with bounds \
                 `&(dyn Trait + Send)`; this is `", ::core::stringify!($not), "`"
            ))
        }
    };
    ($($not:tt)*) => {
        ::core::compile_error!("a dynamic method is defined by `fn name(object: &dyn Trait, argument: Type) -> Type = method;`");
    };
}

/// The items of one dynamic method.
#[doc(hidden)]
#[macro_export]
macro_rules! __dynamic_method {
    ([$($head:tt)*] $name:ident $object:ident [$($dyn:tt)*] ($($arg:ident: $ty:ty),*) [$($ret:tt)*] $method:ident) => {
        $crate::__static_call_type! {
            [$($head)*] $name
            impl $name {
                #[doc(hidden)]
                #[inline(always)]
                pub fn __parts() -> (&'static $crate::DynamicCall, *const ()) {
                    let (state, gate, _) = Self::__branch::<false>();
                    (state, gate)
                }

                #[doc(hidden)]
                #[inline(always)]
                pub fn __branch<const SITE: bool>() -> (&'static $crate::DynamicCall, *const (), bool) {
                    $crate::dynamic_call!(pub unsafe fn table(object: *const () $(, $arg: $ty)*) $($ret)*);
                    table::__branch::<SITE>()
                }

                /// The call and nothing else: see `relpoline::dynamic_method`.
                #[inline(never)]
                unsafe fn __plain(object: *const () $(, $arg: $ty)*, vtable: *const ()) $($ret)* {
                    // SAFETY: the caller took an object apart.
                    let object: $($dyn)* = unsafe { ::core::mem::transmute((object, vtable)) };
                    object.$method($($arg),*)
                }

                /// The state behind it: what it has learned, and how to pause it.
                pub fn state() -> &'static $crate::DynamicCall {
                    Self::__parts().0
                }
            }
        }
        $crate::__dynamic_method_function!([$($head)*] $name $object [$($dyn)*] ($($arg: $ty),*) [$($ret)*] $method);
    };
}

/// The function that callers see.
#[doc(hidden)]
#[macro_export]
macro_rules! __dynamic_method_function {
    ([$(#[$meta:meta])* $vis:vis] $name:ident $object:ident [$($dyn:tt)*] ($($arg:ident: $ty:ty),*) [$($ret:tt)*] $method:ident) => {
        $(#[$meta])*
        #[inline(always)]
        $vis fn $name($object: $($dyn)* $(, $arg: $ty)*) $($ret)* {
            static SLOT: $crate::__private::MethodSlot = $crate::__private::MethodSlot::new();
            let (state, gate, plain) = $name::__branch::<true>();
            if plain {
                return $object.$method($($arg),*);
            }
            let offset = SLOT.offset($name::__plain as *const (), state.register());
            if offset == 0 {
                return $object.$method($($arg),*);
            }
            // SAFETY: a reference to a trait object is a data pointer and a vtable, in this order, as the
            // code showed from which the offset was read; at that offset the vtable holds the method, whose
            // receiver is passed as the data pointer. The gate jumps to it: see `relpoline::dynamic_call`.
            unsafe {
                let (data, vtable): (*const (), *const ()) = ::core::mem::transmute($object);
                let method = vtable.byte_add(offset).cast::<*const ()>().read();
                let gate: unsafe fn(*const () $(, $ty)*, *const ()) $($ret)* = ::core::mem::transmute(gate);
                gate(data $(, $arg)*, method)
            }
        }
    };
}
