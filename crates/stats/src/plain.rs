//! Reading and writing plain integers in a byte slice, without `unsafe` and without assuming alignment.
//!
//! [`record!`](crate::record) declares a `repr(C)` structure and derives both directions from its field
//! list, so the layout the engine writes through a pointer and the layout the tool reads from bytes cannot
//! drift apart. A compile-time check refuses a structure with padding: padding would be bytes nobody owns.

/// A type that is nothing but little-endian integers in a fixed layout.
pub trait Plain: Copy {
    /// Bytes it takes.
    const SIZE: usize;
    /// The value all of whose bytes are zero.
    const ZERO: Self;

    /// The value at the start of `bytes`, or `None` when they are too few.
    fn load(bytes: &[u8]) -> Option<Self>;

    /// Puts the value at the start of `bytes`; `None`, with nothing written, when there is no room.
    fn store(&self, bytes: &mut [u8]) -> Option<()>;
}

macro_rules! plain_integer {
    ($($int:ty),*) => {$(
        impl Plain for $int {
            const SIZE: usize = size_of::<$int>();
            const ZERO: Self = 0;

            fn load(bytes: &[u8]) -> Option<Self> {
                Some(<$int>::from_le_bytes(*bytes.first_chunk()?))
            }

            fn store(&self, bytes: &mut [u8]) -> Option<()> {
                *bytes.first_chunk_mut()? = self.to_le_bytes();
                Some(())
            }
        }
    )*};
}
plain_integer!(u8, u16, u32, u64);

impl<T: Plain, const N: usize> Plain for [T; N] {
    const SIZE: usize = T::SIZE * N;
    const ZERO: Self = [T::ZERO; N];

    fn load(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::SIZE)?;
        let mut all = Self::ZERO;
        for (item, chunk) in all.iter_mut().zip(bytes.chunks_exact(T::SIZE.max(1))) {
            *item = T::load(chunk)?;
        }
        Some(all)
    }

    fn store(&self, bytes: &mut [u8]) -> Option<()> {
        let bytes = bytes.get_mut(..Self::SIZE)?;
        for (item, chunk) in self.iter().zip(bytes.chunks_exact_mut(T::SIZE.max(1))) {
            item.store(chunk)?;
        }
        Some(())
    }
}

/// Declares a `repr(C)` structure of [`Plain`] fields together with its [`Plain`] implementation.
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(C)]
        pub struct $name { $($(#[$field_meta])* pub $field: $ty,)* }

        const _: () = assert!(
            size_of::<$name>() == 0 $(+ <$ty as $crate::plain::Plain>::SIZE)*,
            "a record must not have padding"
        );

        impl $crate::plain::Plain for $name {
            const SIZE: usize = size_of::<$name>();
            const ZERO: Self = Self { $($field: <$ty as $crate::plain::Plain>::ZERO,)* };

            fn load(bytes: &[u8]) -> Option<Self> {
                let bytes = bytes.get(..Self::SIZE)?;
                Some(Self {
                    $($field: <$ty as $crate::plain::Plain>::load(
                        bytes.get(core::mem::offset_of!($name, $field)..)?,
                    )?,)*
                })
            }

            fn store(&self, bytes: &mut [u8]) -> Option<()> {
                let bytes = bytes.get_mut(..Self::SIZE)?;
                $($crate::plain::Plain::store(
                    &self.$field,
                    bytes.get_mut(core::mem::offset_of!($name, $field)..)?,
                )?;)*
                Some(())
            }
        }
    };
}
pub(crate) use record;
